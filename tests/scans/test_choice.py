"""The rule for which series of a study to take."""

import json
import zlib

import numpy as np
import pytest

from vitmed.cli.main import main
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.scans import choice
from vitmed.scans.find import find
from vitmed.scans.how import How


@pytest.fixture
def study(tmp_path, dicom):
    """One study: thin and thick axial CT, a coronal one, a MIP; and another study with the thick one only."""
    root = tmp_path / "studies"

    def series(name, count, step, description, study="1.1", orientation=(1, 0, 0, 0, 1, 0), axis=2):
        (root / name).mkdir(parents=True)
        for k in range(count):
            position = [0.0, 0.0, 0.0]
            position[axis] = step * k
            pixels = np.full((4, 6), k, np.uint16)
            tags = {"StudyInstanceUID": study, "SeriesDescription": description, "SliceThickness": 99}
            dicom(
                root / name / f"{k}.dcm",
                pixels,
                series=f"1.{zlib.crc32(name.encode())}",
                position=position,
                orientation=orientation,
                **tags,
            )

    series("thin", 12, 1.0, "Thorax 1.0 B70f")
    series("thick", 5, 5.0, "Thorax 5.0 B30f")
    series("coronal", 9, 2.0, "Thorax cor", orientation=(1, 0, 0, 0, 0, -1), axis=1)
    series("mip", 20, 1.0, "Thorax MIP")
    series("other", 5, 5.0, "Thorax 5.0", study="1.2")
    return root


def chosen(root, tmp_path, *lines):
    rule = tmp_path / "rule.toml"
    rule.write_text("\n".join(("format = 1", *lines)))
    found, refused = find(root, how=How(series=choice.read(rule)))
    return {s.id: s.chosen for s in found}, {name: detail for name, _, detail in refused}


def test_most_slices_of_what_fits_and_every_choice_has_its_reason(study, tmp_path):
    """Otherwise the MIP, or a thick reformat, is taken for the scan, and nobody can tell why."""
    taken, others = chosen(
        study,
        tmp_path,
        'orientation = ["axial"]',
        'not_description = ["mip"]',
        "slice_thickness = [0.5, 5.0]",
    )
    assert taken == {
        "thin": "12 slices: 1 of 2 that fit, of 4 series",
        "other": "the only series, and it fits",
    }
    assert others == {
        "thick": "5 slices; thin was preferred with 12 slices",
        "coronal": "orientation coronal, axial asked",
        "mip": "description 'Thorax MIP' has mip",
    }


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ((), {"mip", "other"}),
        (("take = 0",), {"thin", "thick", "coronal", "mip", "other"}),
        (("take = 2", 'prefer = ["thinnest", "most slices"]'), {"mip", "thin", "other"}),
        (("slice_thickness = [4, 6]",), {"thick", "other"}),
        (("slices = [6, 15]",), {"thin"}),
        (('description = ["b70", "b30"]', 'prefer = ["thinnest"]'), {"thin"}),
        (('modality = ["MR"]',), set()),
        (('orientation = ["coronal"]',), {"coronal"}),
    ],
)
def test_every_line_of_a_rule_counts(study, tmp_path, lines, wanted):
    """Otherwise a line of the rule is read and does nothing. Thickness is by position: all headers say 99."""
    assert set(chosen(study, tmp_path, *lines)[0]) == wanted


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("format = 2", "format = 2"),
        ("format = 1\norientaton = ['axial']", "orientation was expected"),
        ("format = 1\norientation = ['oblique']", "'oblique'"),
        ("format = 1\nslices = 20", "slices = 20"),
        ("format = 1\nslices = [20, 10]", "slices"),
        ("format = 1\ndescription = ['(']", "no regular expression"),
        ("format = 1\nmodality = ['XX']", "'XX'"),
        ("format = 1\ntake = -1", "take = -1"),
        ("format = 1\nprefer = ['best']", "'best'"),
        ("format", "not a readable TOML"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_named(tmp_path, text, word):
    """Otherwise a misspelt line is passed over, and other series than asked are taken."""
    (tmp_path / "rule.toml").write_text(text)
    with pytest.raises(InputError, match=word.replace("(", r"\(").replace("[", r"\[")):
        choice.read(tmp_path / "rule.toml")
    with pytest.raises(InputError, match="none.toml does not exist"):
        choice.read(tmp_path / "none.toml")


def test_chosen_series_are_in_the_datasheet_with_the_reason(tmp_path, rng, dicom, capsys):
    """Otherwise nobody can tell which of five series of a study a model has seen."""
    for name, count in (("long", 6), ("short", 4)):
        (tmp_path / "in" / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 900, (8, 8)).astype(np.uint16)
            dicom(
                tmp_path / "in" / name / f"{k}",
                pixels,
                f"1.{count}",
                position=(0, 0, k),
                StudyInstanceUID="1",
            )
    (tmp_path / "rule.toml").write_text("format = 1\n")
    ingest(tmp_path / "in", tmp_path / "out", series=tmp_path / "rule.toml", progress=False)
    sheet = json.loads((tmp_path / "out" / "datasheet.json").read_text())
    assert sheet["series"] == [{"id": "long", "chosen": "6 slices: 1 of 2 that fit, of 2 series"}]
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out"), "--html", str(tmp_path / "page.html")]) == 0
    assert "series  long: 6 slices: 1 of 2 that fit, of 2 series" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert "<code>long</code>: 6 slices: 1 of 2 that fit" in page and "Chosen series" in page
    (other,) = sheet["refused_files"]
    (tmp_path / "in" / "next").mkdir()
    for k in range(6):
        pixels = rng.integers(0, 900, (8, 8)).astype(np.uint16)
        dicom(tmp_path / "in" / "next" / f"{k}", pixels, "1.9", position=(0, 0, k), StudyInstanceUID="2")
    rule = (tmp_path / "rule.toml").read_text()
    (tmp_path / "rule.toml").write_text(f"{rule}take = 2\n")
    with pytest.raises(InputError, match="--series is a rule, but .*out was made with another; leave it out"):
        ingest(tmp_path / "in", tmp_path / "out", series=tmp_path / "rule.toml", append=True, progress=False)
    (tmp_path / "rule.toml").write_text(f"{rule}take = 1  # as when it is left out\n")
    with pytest.raises(InputError, match="nothing to append"):
        ingest(
            tmp_path / "in" / "long",
            tmp_path / "out",
            series=tmp_path / "rule.toml",
            append=True,
            progress=False,
        )
    ingest(tmp_path / "in", tmp_path / "out", append=True, progress=False)
    grown = json.loads((tmp_path / "out" / "datasheet.json").read_text())
    assert grown["series"] == [*sheet["series"], {"id": "next", "chosen": "the only series, and it fits"}]
    assert grown["refused_files"] == [other] and sum(grown["examples"].values()) == 2
    assert other["file"] == "short" and "long was preferred with 6 slices" in other["reason"]
