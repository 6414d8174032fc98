"""Intervals: seeds, clusters, degenerate cases, and coverage where the truth is known."""

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import binomtest

from vitmed.evaluate import coverage, intervals, metrics


def bootstrap(label, score, cluster, count=400, seed=0):
    weights = np.concatenate(list(intervals.resamples(int(cluster.max()) + 1, len(label), count, seed)))
    return metrics.auroc(label, score, weights[:, cluster])


def test_resamples_draw_every_patient_once_on_average_and_follow_the_seed():
    """Otherwise intervals are of another sample size, or cannot be made again."""
    first = np.concatenate(list(intervals.resamples(20, 80, 500, seed=3)))
    assert (first.sum(axis=1) == 20).all() and first.shape == (500, 20)
    assert first.mean(axis=0) == pytest.approx(np.ones(20), abs=0.2)
    assert np.array_equal(first, np.concatenate(list(intervals.resamples(20, 80, 500, seed=3))))
    assert not np.array_equal(first, np.concatenate(list(intervals.resamples(20, 80, 500, seed=4))))


def test_resamples_do_not_depend_on_how_they_are_held(monkeypatch):
    """Otherwise the same seed gives other intervals when a set grows past the memory's chunk."""
    whole = np.concatenate(list(intervals.resamples(20, 80, 50, seed=0)))
    monkeypatch.setattr(intervals, "_CHUNK", 600)
    assert np.array_equal(whole, np.concatenate(list(intervals.resamples(20, 80, 50, seed=0))))


def test_scans_of_one_patient_widen_the_interval(rng):
    """Otherwise ten copies of a scan count as ten patients."""
    label = rng.random(40) < 0.5
    score = label + 1.2 * rng.standard_normal(40)
    once, alone = np.arange(40), bootstrap(label, score, np.arange(40))
    ten = [np.repeat(x, 10) for x in (label, score, once)]
    low, high = intervals.auroc_interval(label, score, once, alone)
    for cluster, ratio in ((ten[2], 1.0), (np.arange(400), 10**-0.5)):
        found = intervals.auroc_interval(ten[0], ten[1], cluster, bootstrap(ten[0], ten[1], cluster))
        assert found[1] - found[0] == pytest.approx(ratio * (high - low), rel=0.15)


@pytest.mark.parametrize("area", [0.0, 1.0])
def test_perfect_ranking_still_has_an_interval(area):
    """Otherwise 3 patients told apart look as sure as 3,000: the percentile interval is [1, 1] for both."""
    widths = []
    for n in (6, 40):
        label = np.arange(n) % 2
        score = label if area else -label
        cluster = np.arange(n)
        low, high = intervals.auroc_interval(label, score, cluster, bootstrap(label, score, cluster))
        assert (high == 1 and low < 1) if area else (low == 0 and high > 0)
        widths.append(high - low)
    assert widths[0] > 0.2 and widths[1] < widths[0] / 2


def test_perfect_ranking_counts_patients_not_scans():
    """Otherwise ten scans of each of four patients look like forty patients."""
    label, cluster = np.repeat([0, 1, 0, 1], 10), np.repeat(np.arange(4), 10)
    low, _ = intervals.auroc_interval(label, label, cluster, bootstrap(label, label, cluster))
    four = np.array([0, 1, 0, 1])
    assert low == pytest.approx(intervals.auroc_interval(four, four, np.arange(4), np.ones(10))[0])


def test_auroc_interval_is_symmetric_under_exchange_of_the_classes(rng):
    """Otherwise which class is called positive changes how sure one is."""
    label, score, cluster = coverage.scans(rng, 0.9, 0.3, "scan")
    boot = bootstrap(label, score, cluster)
    low, high = intervals.auroc_interval(label, score, cluster, boot)
    assert intervals.auroc_interval(~label, score, cluster, 1 - boot) == pytest.approx(
        (1 - high, 1 - low), abs=1e-9
    )


def test_wilson_agrees_with_scipy():
    """Otherwise the score interval is not Wilson's."""
    expected = binomtest(9, 10).proportion_ci(0.95, method="wilson")
    assert intervals.wilson(0.9, 10, 1.959963984540054) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


def test_independent_scans_give_wilsons_interval(rng):
    """Otherwise the effective sample size is not the sample size where nothing is shared."""
    hit = rng.random(400) < 0.8
    weights = np.concatenate(list(intervals.resamples(400, 400, 4000, 0)))
    found = intervals.proportion_interval(hit.mean(), weights @ hit / 400, 400)
    assert found == pytest.approx(intervals.wilson(hit.mean(), 400, 1.96), abs=0.003)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_proportion_of_all_or_none_has_an_interval(value):
    """Otherwise 5 of 5 found is reported as certain."""
    low, high = intervals.proportion_interval(value, np.full(100, value), 5)
    assert 0.3 < high - low < 0.6 and (low <= value <= high)


def test_calibration_interval_reaches_zero_and_holds_its_value():
    """Otherwise perfectly calibrated scores are called miscalibrated, since resampling only adds error."""
    null = np.linspace(0, 0.1, 100)
    assert intervals.calibration_interval(0.02, np.linspace(0.02, 0.06, 100), null)[0] == 0
    assert intervals.calibration_interval(0.09, np.linspace(0.07, 0.1, 100), null)[0] == 0
    low, high = intervals.calibration_interval(0.3, np.linspace(0.25, 0.37, 100), null)
    assert low <= 0.3 <= high and low > 0.2


def test_mover_of_independent_parts_is_the_root_of_the_squared_arms():
    """Otherwise the interval of a mean is not Zou and Donner's."""
    crossed = np.array([[1.0, 1, -1, -1], [1, -1, 1, -1]])
    low, high = intervals.mean_interval([0.8, 0.6], [(0.7, 0.85), (0.3, 0.8)], list(0.7 + 0.1 * crossed))
    assert low == pytest.approx(0.7 - (0.1**2 + 0.3**2) ** 0.5 / 2)
    assert high == pytest.approx(0.7 + (0.05**2 + 0.2**2) ** 0.5 / 2)


@pytest.mark.parametrize(("sign", "arm"), [(1, 0.1), (-1, 0.0)])
def test_mover_knows_that_parts_move_together(sign, arm):
    """Otherwise recalls that rise and fall with the same patients count as independent."""
    moved = np.linspace(-0.1, 0.1, 50)
    found = intervals.mean_interval([0.5, 0.5], [(0.4, 0.6), (0.4, 0.6)], [0.5 + moved, 0.5 + sign * moved])
    assert found == pytest.approx((0.5 - arm, 0.5 + arm), abs=1e-6)


def test_mover_takes_a_part_without_variance_at_its_own_interval():
    """Otherwise a class that was found whole (no variance in any resample) is certain."""
    low, high = intervals.mean_interval([1.0, 0.5], [(0.5, 1.0), (0.5, 0.5)], [np.ones(9), np.full(9, 0.5)])
    assert (low, high) == pytest.approx((0.5, 0.75))


def test_precision_interval_of_all_in_front_counts_patients(rng):
    """Otherwise four patients ranked perfectly are certain."""
    label, cluster = np.repeat([0, 1, 0, 1], 10), np.repeat(np.arange(4), 10)
    low, high = intervals.precision_interval(1.0, np.ones(50), label, label, cluster, 2)
    assert (low, high) == pytest.approx(intervals.wilson(1.0, 2, 1.96), abs=1e-3)


def test_few_patients_widen_the_precision_interval(rng):
    """Otherwise the bootstrap's variance, short by half with two patients, is taken as it is."""
    label, score, cluster = coverage.scans(rng, 0.9, 0.3, "scan")
    boot = 0.6 + 0.05 * rng.standard_normal(500)
    boot -= boot.mean() - 0.6
    arms = [
        logit(high) - logit(low)
        for low, high in (
            intervals.precision_interval(0.6, boot, label, score, cluster, n) for n in (2, 10**6)
        )
    ]
    assert arms[0] == pytest.approx(2**0.5 * arms[1], rel=1e-3)


def test_proportion_takes_the_degrees_of_freedom_it_is_given(rng):
    """Otherwise F1 of five positive patients among fifty is as unsure as of five patients in all."""
    boot = 0.6 + 0.05 * rng.standard_normal(500)
    few, more = (intervals.proportion_interval(0.6, boot, 5, freedom=f) for f in (None, 40.0))
    assert more == pytest.approx(intervals.wilson(0.6, 0.24 / np.var(boot), intervals.quantile(40)))
    assert few[0] < more[0] < more[1] < few[1]


def test_precision_interval_takes_the_bias_off(rng):
    """Otherwise average precision of few positives, which is too high, has too high a lower bound."""
    label, score, cluster = coverage.scans(rng, 0.9, 0.3, "scan")
    moved = 0.05 * rng.standard_normal(500)
    plain = intervals.precision_interval(0.6, 0.6 + moved, label, score, cluster, 30)
    high = intervals.precision_interval(0.6, 0.66 + moved, label, score, cluster, 30)
    assert high[0] < plain[0] - 0.03 and high[1] < plain[1] and high[1] >= 0.6


REPLICATIONS = 200


@pytest.mark.parametrize("prevalence", coverage.PREVALENCES)
@pytest.mark.parametrize("area", coverage.AREAS)
def test_auroc_interval_holds_the_truth(area, prevalence):
    """Otherwise 95% is a name: 50 patients of 4 correlated scans; full table in ``vitmed.evaluate.coverage``.

    The bounds are 93% and 98%, widened by three standard errors of the simulation's own share.
    """
    found = coverage.covered(area, prevalence, "scan", REPLICATIONS, resamples=200, only=("auroc",))
    for bound, side in ((0.93, 1), (0.98, -1)):
        error = 3 * (bound * (1 - bound) / REPLICATIONS) ** 0.5
        assert side * (found["auroc"] - bound) > -error, found


def test_balanced_accuracy_of_a_rare_class_holds_the_truth():
    """Otherwise twenty positives of which nearly all are found make an interval that holds in six of seven."""
    found = coverage.covered(0.97, 0.1, "scan", REPLICATIONS, resamples=200, only=("balanced_accuracy",))
    assert found["percentile balanced_accuracy"] < 0.9 < 0.93 <= found["balanced_accuracy"]


def test_percentile_interval_would_not(rng):
    """Otherwise the score-type interval solves nothing: of few patients percentiles cover far too little."""
    found = coverage.covered(0.97, 0.1, "patient", REPLICATIONS, resamples=200, only=("auroc",))
    assert found["percentile auroc"] < 0.82 < 0.9 < found["auroc"]
