"""docs/scaling.md: made of the cells that are kept, which are what ``vitmed plan`` says."""

import importlib.util

import pytest
from short_runs import PROJECT

spec = importlib.util.spec_from_file_location("scaling", PROJECT / "docs" / "scaling.py")
scaling = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scaling)


def test_the_page_is_that_of_the_cells_and_their_commands():
    """Otherwise the page shows figures that nobody planned, or commands that give others."""
    cells = scaling.read()
    assert scaling.PAGE.read_text() == scaling.page(cells)
    for key, cell in cells.items():
        assert cell["command"] == " ".join(("vitmed", *scaling.command(*key)))


def test_a_cell_is_what_plan_says_today():
    """Otherwise the table is that of an older model, optimiser or roofline."""
    key = ("96", "b", "h100:8")
    kept = scaling.read()[key]
    assert {name: str(value) for name, value in scaling.planned(*key).items()} == kept


def test_where_collectives_take_as_long_as_computing():
    """By hand: 16 scans take 10 ms and the sums 2.5 ms; at 4 scans a chip both are 2.5 ms, which 1,024 chips have of 4,096."""
    cell = dict.fromkeys(scaling.COLUMNS, "1")
    cell.update(
        fits="True", estimate="False", rules="replicated", remat="none", compute_ms="10", collective_ms="2.5"
    )
    row = scaling.line(("2d", "b", "v5e:4x4"), cell, 4096)
    assert row.endswith("| 12 | 20% | 80% | 1 | 100% | 1,024 |")
    row = scaling.line(("2d", "b", "v5e:4x4"), {**cell, "estimate": "True"}, 4096)
    assert "| 10 | 20% | 100% |" in row  # beside one another


@pytest.mark.parametrize(
    "change", [{"fits": "False", "compute_ms": "", "collective_ms": "", "mfu": ""}, None]
)
def test_what_does_not_fit_or_was_not_planned_says_so(change):
    cell = None if change is None else {**dict.fromkeys(scaling.COLUMNS, "1"), "rules": "fsdp", **change}
    row = scaling.line(("160", "g", "v5e:4x4"), cell, 1024)
    assert ("does not fit" if change else "not planned yet") in row and row.count("|") == 13
