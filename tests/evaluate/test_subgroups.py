"""Numbers by group: the same as of the group alone, at common thresholds, and none from a handful."""

import numpy as np
import pytest
from sklearn import metrics as reference

from vitmed.evaluate.score import probabilities, score
from vitmed.evaluate.subgroups import SMALLEST, SMALLEST_CLASS, subgroups


def two_sites(rng, north=40, south=30):
    """Arguments of ``subgroups`` for two classes: ``north`` and ``south`` patients, one scan each."""
    n = north + south
    label = np.arange(n) % 2
    logits = rng.standard_normal((n, 2))
    logits[np.arange(n), label] += np.where(np.arange(n) < north, 1.0, 0.5)
    groups = ["north"] * north + ["south"] * south
    return groups, logits, label[:, None].astype(float), np.ones((n, 1)), [f"p{i}" for i in range(n)]


def of(found, name):
    return next(group for group in found if group["group"] == name)


def test_a_group_has_the_numbers_of_its_scans_at_the_thresholds_of_all(rng):
    """Otherwise a site is judged by other scans, or at a threshold that nobody would use there."""
    groups, *given = two_sites(rng)
    val = two_sites(np.random.Generator(np.random.Philox(key=9)))[1:4]
    found = subgroups(groups, "multiclass", ["clear", "lesion"], *given, val=val)
    whole = score("multiclass", ["clear", "lesion"], *given, val=val, resamples=50)
    assert [group["group"] for group in found] == ["north", "south"]
    yes, truth = probabilities("multiclass", given[0])[:, 1], given[1][:, 0]
    for name, rows in (("north", slice(0, 40)), ("south", slice(40, 70))):
        group = of(found, name)
        assert (group["examples"], group["patients"], group["too_small"]) == (
            len(truth[rows]),
            len(truth[rows]),
            None,
        )
        number = group["metrics"]["auroc"]
        assert number["value"] == pytest.approx(reference.roc_auc_score(truth[rows], yes[rows]))
        assert number["low"] < number["value"] < number["high"] and number["interval"] == "score"
        said = yes[rows] >= whole["threshold"]["lesion"]
        assert group["metrics"]["balanced_accuracy"]["value"] == pytest.approx(
            reference.balanced_accuracy_score(truth[rows], said)
        )
        assert set(group["metrics"]) == set(whole["metrics"])


@pytest.mark.parametrize(("patients", "shown"), [(SMALLEST - 1, False), (SMALLEST, True)])
def test_a_small_group_is_said_to_be_small(rng, patients, shown):
    """Otherwise four patients of a site make a number that is quoted."""
    groups, *given = two_sites(rng, south=patients)
    south = of(subgroups(groups, "multiclass", ["clear", "lesion"], *given), "south")
    assert south["examples"] == patients and bool(south["metrics"]) is shown
    assert (south["too_small"] is None) if shown else (f"{patients} patients" in south["too_small"])


def test_scans_of_one_patient_are_not_several(rng):
    """Otherwise ten scans of one patient are a group."""
    groups, logits, label, weight, patients = two_sites(rng, south=30)
    south = of(
        subgroups(
            groups, "multiclass", ["clear", "lesion"], logits, label, weight, patients[:40] + ["one"] * 30
        ),
        "south",
    )
    assert south["patients"] == 1 and "1 patient;" in south["too_small"] and not south["metrics"]


def test_a_group_that_lacks_a_class_is_said_to(rng):
    """Otherwise an AUROC rests on a single positive."""
    groups, logits, label, weight, patients = two_sites(rng)
    label[40:] = 0
    label[40 : 40 + SMALLEST_CLASS - 1] = 1
    south = of(subgroups(groups, "multiclass", ["clear", "lesion"], logits, label, weight, patients), "south")
    assert f"{SMALLEST_CLASS - 1} with lesion" in south["too_small"] and south["metrics"] == {}


def test_a_rare_column_leaves_the_means_and_is_named(rng):
    """Otherwise one rare finding hides all the others of a site, or is shown from two patients."""
    groups, logits, _, _, patients = two_sites(rng)
    label = np.stack([np.arange(70) % 2, np.arange(70) == 41], axis=1).astype(float)
    south = of(
        subgroups(groups, "multilabel", ["edema", "mass"], logits, label, np.ones((70, 2)), patients), "south"
    )
    assert "auroc/edema" in south["metrics"] and "auroc/mass" not in south["metrics"]
    assert any("1 with mass" in note for note in south["notes"])


def test_unknown_and_unlabelled_groups(rng):
    """Otherwise scans of an unknown site vanish, or a site without labels ends the evaluation."""
    groups, logits, label, weight, patients = two_sites(rng)
    weight[:40] = 0
    found = subgroups(
        ["" if g == "south" else g for g in groups],
        "multiclass",
        ["clear", "lesion"],
        logits,
        label,
        weight,
        patients,
    )
    assert [group["group"] for group in found] == ["north", ""]
    assert found[0]["examples"] == 0 and found[0]["too_small"] == "no label"
    assert found[1]["metrics"]["auroc"]["value"] is not None
