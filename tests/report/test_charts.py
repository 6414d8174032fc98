"""Geometry of figures: where numbers land."""

import math

from hypothesis import given
from hypothesis import strategies as st

from vitmed.report import charts

reasonable = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(reasonable, reasonable)
def test_ticks_cover_and_are_few(a, b):
    """Otherwise points fall outside the axis, or its labels run into one another."""
    low, high = min(a, b), max(a, b)
    found = charts.ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), 1e-6)
    assert found[0] <= low + slack and found[-1] >= high - slack
    assert 2 <= len(found) <= 8


def test_labels_have_the_decimals_of_their_step():
    """Otherwise two ticks read the same, or carry digits that mean nothing."""
    assert charts.label(0.85, 0.05) == "0.85"
    assert charts.label(4000, 1000) == "4,000"
    assert charts.label(-0.5, 0.5) == "\N{MINUS SIGN}0.5"


def test_intervals_are_drawn_where_they_belong():
    """Otherwise the figure shows another uncertainty than the table."""
    chart = charts.efficiency(
        ["1%\n47", "all"],
        [
            {"name": "a", "points": [(0.9, 0.8, 0.95), (0.97, 0.96, 0.98)]},
            {"name": "b", "points": [None, (0.9, 0.85, 0.95)]},
        ],
        "AUROC",
    )
    first = chart["series"][0]["marks"][0]
    assert first["high"] < first["y"] < first["low"]  # y grows downwards
    frame = chart["frame"]
    assert all(
        frame.top <= m[k] <= frame.y1
        for s in chart["series"]
        for m in s["marks"]
        for k in ("y", "low", "high")
    )
    assert len(chart["series"][1]["marks"]) == 1, "what is not there is not drawn"


def test_forest_shows_which_differences_are_real():
    """Otherwise a difference whose interval holds zero looks like a finding."""
    rows = [
        {"group": "1%", "name": "x", "value": 0.05, "low": 0.01, "high": 0.09, "series": 1},
        {"group": "1%", "name": "y", "value": 0.05, "low": -0.01, "high": 0.11, "series": 2},
    ]
    real, open_ = charts.differences(rows, "difference")["rows"][1:]
    assert real["real"] and not open_["real"]
    assert open_["low"] < charts.differences(rows, "")["zero"] < real["low"]


def test_arms_are_told_apart_beyond_the_sixth():
    """Otherwise the seventh and the eighth of a study look like the first two."""
    drawn = charts.efficiency(["all"], [{"name": str(i), "points": [(0.9, 0.8, 1.0)]} for i in range(24)], "")
    looks = [(s["colour"], s["marker"]) for s in drawn["series"]]
    assert len(set(looks)) == 24
    row = {"group": "all", "value": 0.1, "low": 0.0, "high": 0.2}
    rows = charts.differences([row | {"name": str(i), "series": i} for i in range(24)], "")["rows"][1:]
    assert [(r["colour"], r["marker"]) for r in rows] == looks, "an arm is the same in both figures"


def test_curves_leave_out_what_is_not_finite():
    """Otherwise one nan makes the whole figure disappear in the browser."""
    chart = charts.curves(
        [("training", [1, 2, 3], [1.0, math.nan, 0.5]), ("validation", [], [])], "steps", "loss"
    )
    assert "nan" not in chart["series"][0]["line"] and len(chart["series"]) == 1
    assert charts.curves([("training", [1], [math.nan])], "steps", "loss") is None


def test_a_flat_curve_and_a_long_one():
    """Otherwise a constant loss divides by zero, or a long run makes a page of many megabytes."""
    assert charts.curves([("training", [1, 2], [0.5, 0.5])], "steps", "loss")
    long = charts.curves(
        [("training", list(range(100_000)), [1 / (i + 1) for i in range(100_000)])], "steps", "loss"
    )
    assert len(long["series"][0]["line"]) < 20_000


def test_empty_histogram():
    """Otherwise a dataset without a training split has no page."""
    assert charts.histogram([0, 1], [0], "x") is None
    assert charts.histogram([0, 0.5, 1], [4, 1], "x")["area"].startswith("M")
