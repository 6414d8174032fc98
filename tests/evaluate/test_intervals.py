"""Intervals: seeds, clusters, degenerate cases, and coverage where the truth is known."""

import numpy as np
import pytest
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
    assert intervals.calibration_interval(0.02, np.linspace(0.02, 0.06, 100))[0] == 0
    low, high = intervals.calibration_interval(0.3, np.linspace(0.25, 0.37, 100))
    assert low <= 0.3 <= high and low > 0.2


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


def test_percentile_interval_would_not(rng):
    """Otherwise the score-type interval solves nothing: of few patients percentiles cover far too little."""
    found = coverage.covered(0.97, 0.1, "patient", REPLICATIONS, resamples=200, only=("auroc",))
    assert found["percentile auroc"] < 0.82 < 0.9 < found["auroc"]
