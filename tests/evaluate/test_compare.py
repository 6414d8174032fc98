"""Means over draws and paired differences: pairing, draws, and coverage where the truth is known."""

import numpy as np
import pytest
from scipy.special import expit, ndtr
from sklearn.metrics import roc_auc_score

from vitmed.errors import InputError
from vitmed.evaluate.compare import over_draws, paired_difference

PATIENTS, SCANS = 40, 3
GIVEN = dict(task="multiclass", classes=["clear", "lesion"])


def study(rng, strengths, draws=3, draw_spread=0.0, own_noise=0.3):
    """Labels (n, 1), patients, and for each strength the probabilities (n, 2) of every draw."""
    patient = np.repeat(np.arange(PATIENTS), SCANS)
    label = rng.random(len(patient)) < 0.5
    shared = 0.6 * rng.standard_normal(PATIENTS)[patient] + 0.8 * rng.standard_normal(len(patient))
    arms = []
    for strength in strengths:
        arm = []
        for _ in range(draws):
            at = strength + draw_spread * rng.standard_normal()
            yes = expit(at * label + shared + own_noise * rng.standard_normal(len(label)))
            arm.append(np.stack([1 - yes, yes], axis=1))
        arms.append(arm)
    return label[:, None].astype(float), [f"p{i}" for i in patient], arms


def width(found):
    return found["high"] - found["low"]


def test_values_are_means_over_draws(rng):
    """Otherwise the table's numbers are not the cells'."""
    label, patients, (a, b) = study(rng, (1.5, 1.0))
    areas = [[roc_auc_score(label[:, 0], s[:, 1]) for s in arm] for arm in (a, b)]
    found = over_draws("auroc", a, label, patients, **GIVEN)
    assert found["value"] == pytest.approx(np.mean(areas[0]))
    assert (found["draws"], found["patients"]) == (3, PATIENTS)
    found = paired_difference("auroc", a, b, label, patients, **GIVEN)
    assert found["value"] == pytest.approx(np.mean(areas[0]) - np.mean(areas[1]))
    other = paired_difference("auroc", b, a, label, patients, **GIVEN)
    assert (other["low"], other["high"]) == pytest.approx((-found["high"], -found["low"]))


def test_pairing_narrows_the_difference(rng):
    """Otherwise a difference is as unsure as the two numbers apart, and nothing is ever shown to be real."""
    label, patients, (a, b) = study(rng, (1.5, 1.0))
    difference = paired_difference("auroc", a, b, label, patients, **GIVEN)
    alone = over_draws("auroc", a, label, patients, **GIVEN)
    assert width(difference) < 0.7 * width(alone) * 2**0.5
    assert difference["low"] > 0


def test_draws_that_disagree_widen_the_interval(rng):
    """Otherwise luck in which scans were labelled passes for a gain."""
    label, patients, arms = study(rng, (0.5, 1.5, 2.5), draws=3)
    calm = over_draws("auroc", arms[1], label, patients, **GIVEN)
    wild = over_draws("auroc", [arm[0] for arm in arms], label, patients, **GIVEN)
    assert width(wild) > 1.5 * width(calm)


def test_each_draw_has_its_own_threshold(rng):
    """Otherwise balanced accuracy in the table is not that of the cells."""
    label, patients, (a,) = study(rng, (1.5,), draws=2)
    chosen = [{"lesion": 0.2}, {"lesion": 0.8}]
    found = over_draws("balanced_accuracy", a, label, patients, thresholds=chosen, **GIVEN)
    truth = label[:, 0] == 1
    each = []
    for scores, threshold in zip(a, (0.2, 0.8), strict=True):
        said = scores[:, 1] >= threshold
        each.append((said[truth].mean() + (~said[~truth]).mean()) / 2)
    assert found["value"] == pytest.approx(np.mean(each))


def test_one_draw_and_means_over_columns(rng):
    """Otherwise a study of one draw, or of several labels, has no table."""
    label, patients, (a,) = study(rng, (1.5,), draws=1)
    two = [np.stack([a[0][:, 1], 1 - a[0][:, 1]], axis=1)]
    both = np.concatenate([label, 1 - label], axis=1)
    found = over_draws("auroc", two, both, patients, task="multilabel", classes=["x", "y"])
    assert found["value"] == pytest.approx(roc_auc_score(label[:, 0], a[0][:, 1]))
    assert found["low"] < found["value"] < found["high"]


def test_an_arm_against_itself_is_zero(rng):
    """Otherwise there are differences where there are none."""
    label, patients, (a,) = study(rng, (1.5,))
    found = paired_difference("auroc", a, a, label, patients, **GIVEN)
    assert (found["value"], found["low"], found["high"]) == (0, 0, 0)


def test_what_cannot_be_compared_is_refused(rng):
    """Otherwise a misspelt metric or a missing draw ends in a traceback."""
    label, patients, (a,) = study(rng, (1.5,))
    with pytest.raises(InputError, match="'auc'.*auroc"):
        over_draws("auc", a, label, patients, **GIVEN)
    with pytest.raises(InputError, match="3 and 2 draws"):
        paired_difference("auroc", a, a[:2], label, patients, **GIVEN)


@pytest.mark.parametrize("draw_spread", [0.1, 0.5])
def test_difference_holds_the_truth(draw_spread):
    """Otherwise "pretrained beats scratch" is claimed too often from three draws."""
    sets, hits = 150, 0
    grid = np.linspace(-4, 4, 201)
    share = np.exp(-0.5 * grid**2) / np.exp(-0.5 * grid**2).sum()
    true = [np.sum(share * ndtr((s + draw_spread * grid) / (2 * 1.09) ** 0.5)) for s in (1.5, 1.2)]
    for i in range(sets):
        rng = np.random.Generator(np.random.Philox(key=i))
        label, patients, (a, b) = study(rng, (1.5, 1.2), draw_spread=draw_spread)
        found = paired_difference("auroc", a, b, label, patients, resamples=100, seed=i, **GIVEN)
        hits += found["low"] <= true[0] - true[1] <= found["high"]
    assert hits / sets > 0.93 - 3 * (0.93 * 0.07 / sets) ** 0.5
