"""Means over draws and paired differences: pairing, draws, and coverage where the truth is known."""

import dataclasses

import numpy as np
import pytest
from one_test_set import over_draws, paired_difference
from scipy.special import expit, ndtr
from sklearn.metrics import roc_auc_score

from vitmed.errors import InputError
from vitmed.evaluate import intervals
from vitmed.evaluate.compare import (
    Sampled,
    chance,
    difference,
    holm,
    mean,
    sample,
)

PATIENTS, SCANS = 40, 3
GIVEN = dict(task="multiclass", classes=["clear", "lesion"])


def study(rng, strengths, draws=3, draw_spread=0.0, own_noise=0.3):
    """Labels (n, 1), patients, and for each strength the probabilities (n, 2) of every draw.

    A strength is one number, or one a draw.
    """
    patient = np.repeat(np.arange(PATIENTS), SCANS)
    label = rng.random(len(patient)) < 0.5
    shared = 0.6 * rng.standard_normal(PATIENTS)[patient] + 0.8 * rng.standard_normal(len(patient))
    arms = []
    for strength in strengths:
        arm = []
        for own in np.broadcast_to(strength, draws):
            at = own + draw_spread * rng.standard_normal()
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


def test_errors_in_ranks_follow_the_order_and_may_exceed_one(rng):
    """Otherwise grades are compared in the order of their names, or an interval ends at an error of one rank."""
    order, n = [2, 0, 3, 1], 60
    rank = rng.integers(0, 4, n)
    label, said = np.asarray(order)[rank][:, None], (rank + rng.choice([1, 2, 2, 3], (4, n))) % 4
    scores = [0.9 * np.eye(4)[np.asarray(order)[r]] + 0.025 for r in said]
    given = dict(task="multiclass", classes=list("abcd"), order=order, resamples=200)
    found = over_draws("rank_mae", scores, label, None, **given)
    assert found["value"] == pytest.approx(np.abs(said - rank).mean()) and found["value"] > 1
    assert 1 < found["low"] < found["value"] < found["high"]
    other = paired_difference("rank_mae", scores, scores[::-1], label, None, **given)
    assert other["value"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="has no metric 'rank_mae'"):
        over_draws("rank_mae", scores, label, None, **{**given, "order": ()})


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


@pytest.mark.parametrize("rare", [False, True])
def test_one_patient_gives_no_interval(rng, rare):
    """Otherwise draws that agree on one patient show what holds for all."""
    error = rng.random((2, 3, 20, 2)) + [[[[2.0]]], [[[0.0]]]]
    weight = np.ones((20, 2))
    weight[2:, 0] = 0 if rare else 1
    given = dict(task="regression", classes=["a", "b"], label_weight=weight, resamples=20)
    names = [f"p{i // 2}" for i in range(20)] if rare else ["p"] * 20
    found = paired_difference("mae/a", *error, np.zeros((20, 2)), names, **given)
    assert found["value"] > 1 and (found["low"], found["high"], found["errors"]) == (None, None, [])
    assert chance(found) is None
    assert over_draws("mae/a", error[0], np.zeros((20, 2)), names, **given)["low"] is None
    other = paired_difference("mae/b", *error, np.zeros((20, 2)), names, **given)
    assert (other["low"] is None) != rare, "that of ten patients has one"


def test_a_structure_of_one_patient_gives_no_interval(rng):
    """Otherwise draws that agree on the one patient who has it show what holds for all who do."""
    better, worse = np.full((2, 3, 10, 8), 0.8) - [[[[0.0]]], [[[0.1]]]] - 0.01 * rng.random((2, 3, 10, 8))
    better[:, 1:, ::2] = worse[:, 1:, ::2] = np.nan
    given = dict(task="segmentation", classes=["a", "b"], resamples=20)
    rest = np.ones((10, 2)), [f"p{i}" for i in range(10)]
    assert paired_difference("dice/a", better, worse, *rest, **given)["low"] is None
    assert paired_difference("dice/b", better, worse, *rest, **given)["low"] > 0


def test_what_cannot_be_compared_is_refused(rng):
    """Otherwise a misspelt metric or a missing draw ends in a traceback."""
    label, patients, (a,) = study(rng, (1.5,))
    with pytest.raises(InputError, match="'auc'.*auroc"):
        over_draws("auc", a, label, patients, **GIVEN)
    with pytest.raises(InputError, match="3 and 2 draws"):
        paired_difference("auroc", a, a[:2], label, patients, **GIVEN)


def true_area(strength, spread):
    """The mean AUROC of endless draws of ``study`` on endless patients."""
    grid = np.linspace(-4, 4, 201)
    share = np.exp(-0.5 * grid**2) / np.exp(-0.5 * grid**2).sum()
    return np.sum(share * ndtr((strength + spread * grid) / (2 * 1.09) ** 0.5))


def holds(truth, sets, simulate):
    """Asserts that the intervals of ``simulate(rng, seed)`` hold the truth often enough, and are not all of the line.

    With the t of two degrees of freedom an interval is 2.2 times as wide as that of a normal scatter.
    """
    found = [simulate(np.random.Generator(np.random.Philox(key=i)), i) for i in range(sets)]
    hits = sum(one["low"] <= truth <= one["high"] for one in found)
    assert hits / sets > 0.93 - 3 * (0.93 * 0.07 / sets) ** 0.5
    scatter = 2 * 1.96 * np.std([one["value"] for one in found])
    assert np.median([width(one) for one in found]) < 3 * scatter


@pytest.mark.parametrize("draw_spread", [0.1, 0.5])
def test_difference_holds_the_truth(draw_spread):
    """Otherwise "pretrained beats scratch" is claimed too often from three draws."""

    def simulate(rng, seed):
        label, patients, (a, b) = study(rng, (1.5, 1.2), draw_spread=draw_spread)
        return paired_difference("auroc", a, b, label, patients, resamples=100, seed=seed, **GIVEN)

    holds(true_area(1.5, draw_spread) - true_area(1.2, draw_spread), 150, simulate)


@pytest.mark.parametrize("luck", [0.0, 0.5])
def test_the_luck_of_a_pretraining_is_in_the_interval(luck):
    """Otherwise three lucky pretrainings, drawn from three times each, count as nine."""
    sources, spread = [0, 1, 2] * 2, 0.15

    def simulate(rng, seed):
        shared = luck * rng.standard_normal(3)
        label, patients, (a, b) = study(rng, (1.5 + np.tile(shared, 2), 1.2), 6, spread)
        given = dict(resamples=60, seed=seed, sources=sources, **GIVEN)
        return difference(*([sample("auroc", arm, label, patients, **given)] for arm in (a, b)))

    truth = true_area(1.5, (luck**2 + spread**2) ** 0.5) - true_area(1.2, spread)
    holds(truth, 100, simulate)


@pytest.mark.parametrize("luck", [0.0, 0.5])
def test_folds_hold_the_truth(luck):
    """Otherwise five folds of one training each are taken for a large test set and one certain model."""

    def simulate(rng, seed):
        folds = [study(rng, (1.5, 1.2), 1, luck, own_noise=0.3) for _ in range(5)]
        sampled = [
            [sample("auroc", arm, label, patients, resamples=60, seed=seed + k, **GIVEN) for arm in arms]
            for k, (label, patients, arms) in enumerate(folds)
        ]
        return difference(*zip(*sampled), overlap=1 / 3)

    holds(true_area(1.5, luck) - true_area(1.2, luck), 100, simulate)


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("draws", [1, 3])
def test_a_few_folds_show_no_more_than_their_number(folds, draws):
    """Otherwise two or three trainings that happen to agree are as sure as all of their patients are many.

    Folds share training scans, and so a quarter of the variance of their luck, as Nadeau & Bengio suppose; no arm is better.
    """
    n, false = 52, []
    weight = [np.concatenate(list(intervals.resamples(n, n, 100, k))) / n for k in range(folds)]
    for i in range(200):
        rng = np.random.Generator(np.random.Philox(key=i))
        shared = 0.014 * rng.standard_normal(2)
        sampled = [[], []]
        for k in range(folds):
            hard = 0.8 + 0.1 * rng.standard_normal(n)
            for side in (0, 1):
                own = shared[side] + 0.025 * rng.standard_normal() + 0.01 * rng.standard_normal((draws, 1))
                each = hard + own + 0.05 * rng.standard_normal(n) + 0.03 * rng.standard_normal((draws, n))
                sampled[side].append(Sampled(each.mean(1), each @ weight[k].T, n, n - 1, 1.0, n, n, True))
        found = difference(*sampled, overlap=1 / 3)
        false.append(not found["low"] <= 0 <= found["high"])
    assert np.mean(false) < 0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5


@pytest.mark.parametrize("name", ["dice/rare", "dice"])
@pytest.mark.parametrize("have", [2, 5])
def test_a_rare_structure_is_as_unsure_as_its_few_patients(name, have):
    """Otherwise two patients who have it, among sixty, settle which arm finds it."""
    n, false = 60, []
    voxels = np.where(np.arange(n)[:, None] < [n, have], 50.0, 0.0)
    given = dict(task="segmentation", classes=["big", "rare"], resamples=60)

    def arm(rng, hard):
        own, made = 0.4 * rng.standard_normal((n, 2)), []
        for _ in range(3):
            dice = expit(hard + own + 0.2 * rng.standard_normal((n, 2)))
            dice[have:, 1] = np.nan
            made.append(np.concatenate([dice, dice, dice, voxels], axis=1))
        return made

    for i in range(120):
        rng = np.random.Generator(np.random.Philox(key=i))
        hard = 1 + 0.8 * rng.standard_normal((n, 2))
        found = paired_difference(name, arm(rng, hard), arm(rng, hard), voxels, None, **given)
        false.append(not found["low"] <= 0 <= found["high"])
    assert np.mean(false) < 0.05 + 2 * (0.05 * 0.95 / 120) ** 0.5


def test_one_patient_of_a_class_gives_no_interval(rng):
    """Otherwise how one sick patient's scans rank settles which arm finds the sick."""
    label, patients, (a, b) = study(rng, (1.5, 1.0))
    one, two = (np.isin(patients, names)[:, None].astype(float) for names in (["p0"], ["p0", "p1"]))
    for metric in ("auroc", "average_precision", "balanced_accuracy"):
        given = dict(resamples=50, **GIVEN)
        assert paired_difference(metric, a, b, one, patients, **given)["low"] is None
        assert over_draws(metric, a, one, patients, **given)["low"] is None
        assert paired_difference(metric, a, b, two, patients, **given)["low"] is not None
    both = np.concatenate([one, 1 - label], axis=1), patients
    several = [np.concatenate([s, s], axis=1)[:, 1:3] for s in a]
    found = over_draws("auroc", several, *both, task="multilabel", classes=["x", "y"], resamples=50)
    assert found["low"] is None, "nor has the mean of which it is a part"


def test_one_fold_with_one_such_patient_leaves_the_others_their_say():
    """Otherwise a rare structure in one fold of five takes the interval of the whole study away."""
    folds = [made([0.8 + 0.01 * k]) for k in range(5)]
    whole, borrowed = mean(folds), mean([dataclasses.replace(folds[0], units=1), *folds[1:]])
    assert borrowed["low"] == pytest.approx(whole["low"], abs=1e-3)
    assert mean([dataclasses.replace(fold, units=1) for fold in folds])["low"] is None


def test_which_structures_a_mean_is_of_is_not_the_predictions_to_say():
    """Otherwise one voxel of a structure that nobody has halves an arm's Dice, and the other is better for certain."""
    voxels = np.array([[50.0, 0.0]] * 20)
    clean = np.concatenate([np.full((20, 1), 0.9), np.full((20, 1), np.nan)] * 3 + [voxels], axis=1)
    stray = clean.copy()
    stray[0, 1] = stray[0, 3] = 0.0
    stray[0, 7] = 1.0
    given = dict(task="segmentation", classes=["there", "nowhere"], resamples=50)
    found = paired_difference("dice", [clean], [stray], voxels, None, **given)
    assert found["value"] == 0
    with pytest.raises(InputError, match="no metric 'dice/nowhere'"):
        over_draws("dice/nowhere", [stray], voxels, None, **given)


def test_two_budgets_hold_the_truth():
    """Otherwise "a tenth of the labels is as good as all" rests on draws that were never paired."""

    def simulate(rng, seed):
        label, patients, (a, b) = study(rng, (1.5, 1.2), 4, 0.4)
        given = dict(resamples=60, seed=seed, **GIVEN)
        sides = [[sample("auroc", arm, label, patients, **given)] for arm in (a, b[:3])]
        return difference(*sides, paired=False)

    holds(true_area(1.5, 0.4) - true_area(1.2, 0.4), 100, simulate)


def made(points, source=None, examples=100):
    """Trainings whose metric no patient changes."""
    points = np.array(points)
    return Sampled(points, np.repeat(points[:, None], 4, 1), 50, 49, 1.0, 50, examples, False, source)


def test_what_shares_a_pretraining_counts_once():
    """Otherwise the interval over six draws of two pretrainings is that over six pretrainings."""
    points = [0.70, 0.80, 0.71, 0.81, 0.72, 0.82]
    free, shared = mean([made(points)]), mean([made(points, [0, 1] * 3)])
    assert shared["value"] == free["value"] and width(shared) > 3 * width(free)
    # Two means of .71 and .81: t of one degree of freedom is 12.706, the standard error .05.
    assert width(shared) == pytest.approx(2 * 12.706 * 0.05, rel=1e-4)
    alike = [0.70, 0.70, 0.75, 0.75, 0.80, 0.80]
    assert width(mean([made(alike, [0, 1] * 3)])) == width(mean([made(alike)])), "no luck, nothing to pay for"


def test_folds_are_averaged_by_their_scans():
    """Otherwise a small fold counts as a large one, or scores of different models are ranked together."""
    folds = [made([0.9], examples=300), made([0.5], examples=100)]
    found = mean(folds, overlap=0.5)
    assert found["value"] == pytest.approx(0.8) and found["patients"] == 100
    # Between the folds: variance .08, times 1 / 2 + 1 / 2; t of one degree of freedom.
    assert width(found) == pytest.approx(2 * 12.706 * 0.08**0.5, rel=1e-4)
    assert width(mean(folds)) == pytest.approx(width(found) / 2**0.5)


def test_chances_agree_with_intervals_and_are_corrected(rng):
    """Otherwise a sentence says "real" where the interval does not, or twenty comparisons find one by luck."""
    label, patients, (a, b) = study(rng, (1.5, 1.0))
    found = paired_difference("auroc", a, b, label, patients, **GIVEN)
    edge = found | {"value": found["value"] - found["low"]}
    assert chance(edge) == pytest.approx(0.05)
    assert chance(found) < 0.05
    assert chance(found, against=found["low"], than="above") == pytest.approx(0.025)
    first, second, unknown, third = holm([0.01, 0.04, None, 0.03])
    assert (first, second, third) == pytest.approx((0.04, 0.09, 0.09)) and unknown is None
