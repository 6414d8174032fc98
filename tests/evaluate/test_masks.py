"""A scan's numbers, what becomes of them in means and intervals, and what is counted aloud."""

import dataclasses

import numpy as np
import pytest
from one_test_set import over_draws, paired_difference

from vitmed.evaluate import masks
from vitmed.evaluate.predictions import Predictions, read, write
from vitmed.evaluate.score import score
from vitmed.evaluate.subgroups import subgroups

STRUCTURES = ["anterior", "posterior <b>"]


def block(*place, size=(12, 12), value=1):
    """A mask with one rectangle, (rows, columns) of its corner and its size."""
    mask = np.zeros(size, np.uint8)
    top, left, high, wide = place
    mask[top : top + high, left : left + wide] = value
    return mask


def judged(pairs, spacing=(1.0, 1.0), structures=2):
    """``masks.judge`` of several (truth, predicted), stacked."""
    return [np.stack(x) for x in zip(*(masks.judge(t, p, structures, spacing) for t, p in pairs))]


def several(rng, n=40, patients=10):
    """n scans of both structures, predicted with a shift; some without, missed and invented."""
    pairs = []
    for _ in range(n):
        top, left, moved = (int(rng.integers(1, 3)) for _ in range(3))
        one, two = block(top, left, 5, 4), block(top, left + 5, 4, 3, value=2)
        pairs.append((one + two, np.roll(one + two, moved - 1, axis=0)))
    return judged(pairs), [f"p{i % patients}" for i in range(n)]


def test_one_scan_by_hand():
    """Otherwise structures, quantities or axes change places between here and the table."""
    truth = block(2, 2, 4, 4) + block(8, 8, 2, 2, value=2)
    predicted = block(3, 2, 4, 4) + block(8, 8, 2, 2, value=2)
    score_, voxels, weight = masks.judge(truth, predicted, 2, (2.0, 1.0), tolerance=1.9)
    dice, nsd, hd95, said = score_.reshape(4, 2)
    assert dice.tolist() == [0.75, 1.0] and hd95.tolist() == [2.0, 0.0] and said.tolist() == [16, 4]
    assert 0.3 < nsd[0] < 1 and nsd[1] == 1 and voxels.tolist() == [16, 4] and weight.tolist() == [1, 1]
    assert masks.judge(truth, predicted, 2, (2.0, 1.0), tolerance=2.0)[0].reshape(4, 2)[1, 0] == 1


def test_what_is_unmarked_counts_on_neither_side():
    """Otherwise a model is punished for what nobody has looked at."""
    truth = block(2, 2, 4, 4)
    predicted = truth + block(8, 8, 3, 3)
    assert masks.judge(truth, predicted, 1, (1.0, 1.0))[0][0] < 1
    truth[7:] = 255
    found, _, weight = masks.judge(truth, predicted, 1, (1.0, 1.0))
    assert found.tolist() == [1, 1, 0, 16] and weight == 1
    assert masks.judge(np.full((12, 12), 255, np.uint8), predicted, 1, (1.0, 1.0))[2] == 0


@pytest.mark.parametrize("side", [0.1, 0.3, 0.6, 0.7, 0.8, 1.2])
def test_what_is_just_the_tolerance_away_is_within_it(side):
    """Otherwise float32, in which datasets keep 0.8 mm as a little more, costs a fifth of the NSD at a tolerance of 0.8."""
    truth, predicted = block(2, 2, 4, 4), block(3, 2, 4, 4)
    (spacing,), _ = masks.spacings(np.array([[side, side]], np.float32))
    assert tuple(spacing) == (side, side)
    for times in (1, 2):
        moved = block(2 + times, 2, 4, 4)
        scored = masks.judge(truth, moved, 1, spacing, tolerance=times * side)[0]
        assert scored[1] == 1, times
    assert masks.judge(truth, predicted, 1, spacing, tolerance=0.99 * side)[0][1] < 1


def test_distances_without_a_spacing_are_pixels():
    """Otherwise pixels are reported as millimetres."""
    assert masks.spacings(np.array([[2.0, 1.0], [2.0, 1.5]]))[1] == "mm"
    ones, unit = masks.spacings(np.array([[2.0, 1.0], [np.nan, np.nan]]))
    assert unit == "pixels" and np.array_equal(ones, np.ones((2, 2)))


def test_empty_structures_are_counted_and_said():
    """Otherwise missing a structure improves the mean, or an absent one is scored as 0 or as 1."""
    both, none = block(2, 2, 5, 4) + block(2, 8, 4, 3, value=2), np.zeros((12, 12), np.uint8)
    only = block(2, 2, 5, 4)
    pairs = [(both, both), (both, only), (only, both), (only, only), (none, none), (both, both)]
    found, voxels, weight = judged(pairs)
    told = masks.failures(found, voxels, weight, STRUCTURES)
    assert told["anterior"] == {"scans": 5, "neither": 1, "missed": 0, "invented": 0}
    assert told[STRUCTURES[1]] == {"scans": 4, "neither": 2, "missed": 1, "invented": 1}
    result = score("segmentation", STRUCTURES, found, voxels, weight, None, resamples=200)
    assert result["examples"] == 6
    assert result["metrics"]["dice/anterior"]["value"] == 1
    assert result["metrics"]["dice/posterior <b>"]["value"] == 0.5
    assert result["metrics"]["nsd/posterior <b>"]["value"] == 0.5
    assert result["metrics"]["hd95/posterior <b>"]["value"] == 0
    assert result["metrics"]["dice"]["value"] == 0.75
    said = " ".join(result["notes"])
    assert "anterior: 1 scan does not count" in said and "posterior <b>: 2 scans do not count" in said
    assert "missed in 1 scan and predicted in 1 scan that has none" in said and "over the other 2" in said
    # A structure that no scan holds is named, and means are over the others.
    found, voxels, weight = judged([(only, only), (only, only)])
    result = score("segmentation", STRUCTURES, found, voxels, weight, None, resamples=200)
    assert result["metrics"]["dice"]["value"] == 1 and "dice/posterior <b>" not in result["metrics"]
    assert any("not computable: posterior <b> (in no scan)" in note for note in result["notes"])


def test_scans_without_a_mask_are_left_out_aloud():
    """Otherwise a scan that nobody marked lowers every number."""
    one = block(2, 2, 5, 4)
    found, voxels, weight = judged([(one, one), (np.full_like(one, 255), one)], structures=1)
    result = score("segmentation", ["lesion"], found, voxels, weight, ["a", "b"], resamples=100)
    assert result["examples"] == result["patients"] == 1
    assert any("1 of 2 examples have no mask" in note for note in result["notes"])


def test_intervals_are_by_patient_and_hold_the_mean(rng):
    """Otherwise forty scans of ten patients pass for forty patients."""
    (found, voxels, weight), patients = several(rng)
    by_patient = score("segmentation", STRUCTURES, found, voxels, weight, patients)
    by_scan = score("segmentation", STRUCTURES, found, voxels, weight, None)
    for name, number in by_patient["metrics"].items():
        assert number["low"] <= number["value"] <= number["high"], name
    assert by_patient["metrics"]["dice"]["value"] == pytest.approx(np.mean(found[:, :2]))
    assert by_patient["metrics"]["hd95/anterior"]["value"] == pytest.approx(found[:, 4].mean())
    assert (by_patient["patients"], by_scan["patients"]) == (10, None)
    assert by_patient["bootstrap"]["unit"] == "patient" and any("by image" in n for n in by_scan["notes"])
    # All scans of a patient alike: their number must not narrow the interval.
    again = [np.repeat(x[:10], 4, axis=0) for x in (found, voxels, weight)]
    names = [f"p{i // 4}" for i in range(40)]
    few = score("segmentation", STRUCTURES, found[:10], voxels[:10], weight[:10], names[::4])
    many = score("segmentation", STRUCTURES, *again, names)
    for name in ("dice", "dice/anterior", "nsd/anterior"):
        a, b = (r["metrics"][name]["high"] - r["metrics"][name]["low"] for r in (few, many))
        assert b == pytest.approx(a, rel=0.15)


def test_the_interval_of_a_mean_does_not_depend_on_the_order_of_the_structures(rng):
    """Otherwise a mean of a structure of sixty patients and one of two is as sure as whichever is named first."""
    (found, voxels, weight), _ = several(rng, n=30)
    found[2:, [1, 3, 5]] = np.nan  # the second structure is in two scans
    found[:2, 5] = 1.0, 8.0
    patients = [f"p{i}" for i in range(30)]
    swapped = [found[:, [1, 0, 3, 2, 5, 4, 7, 6]], voxels[:, ::-1], weight[:, ::-1]]
    one = score("segmentation", STRUCTURES, found, voxels, weight, patients, resamples=500)
    other = score("segmentation", STRUCTURES[::-1], *swapped, patients, resamples=500)
    for end in ("value", "low", "high"):
        assert one["metrics"]["hd95"][end] == pytest.approx(other["metrics"]["hd95"][end]), end


def test_one_patient_has_no_interval(rng):
    """Otherwise a distance of one patient is sure to the last digit, and so is a structure that one of ten has."""
    (found, voxels, weight), _ = several(rng, n=6)
    alone = score("segmentation", STRUCTURES, found, voxels, weight, ["p"] * 6, resamples=50)
    assert {(n["low"], n["high"], n["interval"]) for n in alone["metrics"].values()} == {(None, None, None)}
    assert alone["metrics"]["hd95"]["value"] == pytest.approx(found[:, 4:6].mean())
    assert "only one patient: there are no intervals" in alone["notes"]
    found[:, 5] += rng.random(6)
    found[1:, [1, 3, 5]] = np.nan
    rare = score("segmentation", STRUCTURES, found, voxels, weight, list("abcdef"), resamples=50)
    given = {name for name, number in rare["metrics"].items() if number["low"] is not None}
    assert {"dice", "dice/posterior <b>", "hd95/anterior"} <= given, "Wilson's knows that it is one"
    assert not given & {"hd95", "hd95/posterior <b>"}
    assert not any("only" in note for note in rare["notes"])


def test_by_site(rng):
    """Otherwise a site where masks are bad is hidden in the mean."""
    (found, voxels, weight), patients = several(rng, n=44, patients=22)
    found[0::2, 0] -= 0.2
    sites = ["south", "north"] * 22
    names = [f"{s}{p}" for s, p in zip(sites, patients)]
    groups = subgroups(sites, "segmentation", STRUCTURES, found, voxels, weight, names)
    north, south = (g["metrics"]["dice/anterior"]["value"] for g in groups)
    assert [g["group"] for g in groups] == ["north", "south"] and north > south + 0.1
    few = subgroups(["a"] * 8 + ["b"] * 36, "segmentation", STRUCTURES, found, voxels, weight, names)
    assert "at least 10 are needed" in few[0]["too_small"] and few[0]["metrics"] == {}


def test_two_arms_are_compared(rng):
    """Otherwise a study of segmentations has no paired difference, or one cut off at 1 mm."""
    (found, voxels, weight), patients = several(rng)
    better = found.copy()
    better[:, :2] += 0.05
    better[:, 4:6] -= 3.0
    better[0, :] = found[0, :] = [np.nan, 1, np.nan, 1, np.nan, 0, 0, 9]
    given = dict(task="segmentation", classes=STRUCTURES, label_weight=weight)
    gain = paired_difference("dice", [better] * 2, [found] * 2, voxels, patients, **given)
    assert gain["value"] == pytest.approx(0.05, abs=0.01) and gain["low"] > 0
    far = over_draws("hd95", [found + 5.0], voxels, patients, **given)
    assert far["low"] < far["value"] < far["high"] and far["low"] > 1


def test_the_table_of_predictions_comes_back(rng, tmp_path):
    """Otherwise a study reads other numbers than the evaluation gave."""
    (found, voxels, weight), patients = several(rng, n=6)
    found[1, [0, 2]], found[1, 4], weight[3], voxels[3], found[3] = np.nan, np.inf, 0, 0, np.nan
    ids = [f"sub-{i}, T1.nii.gz" for i in range(6)]
    written = Predictions("segmentation", STRUCTURES, ids, patients, None, found, voxels, weight)
    write(tmp_path / "predictions.csv", written)
    back = read(tmp_path / "predictions.csv")
    for field in dataclasses.fields(Predictions):
        mine, theirs = getattr(written, field.name), getattr(back, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, err_msg=field.name)
        else:
            assert mine == theirs, field.name
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "id,patient,site,structure,dice,nsd,hd95,predicted_voxels,true_voxels"
    assert len(lines) == 13 and lines[7].endswith("anterior,,,,,")
