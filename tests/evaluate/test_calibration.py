"""The debiased calibration error: right in the mean, where the plain one is not."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from vitmed.evaluate.calibration import CalibrationError, ece


def plain_ece(hit, probability, bins=10):
    """The binned estimate as the literature has it, uncorrected."""
    error = CalibrationError(hit, probability, None, bins)
    return float(np.abs(error.excess.sum(0)).sum() / error.count.sum())


def test_plain_estimate_is_the_binned_mean_gap(rng):
    """Otherwise neither estimate is the expected calibration error."""
    probability = rng.random(100)
    hit = rng.random(100) < probability
    groups = np.split(np.argsort(probability), 10)
    expected = np.mean([abs(hit[g].mean() - probability[g].mean()) for g in groups])
    assert plain_ece(hit, probability, 10) == pytest.approx(expected)


def test_plain_estimate_agrees_with_scikit_learn(rng):
    """Otherwise our reliability bins are not those of the literature."""
    probability = rng.random(200)
    hit = rng.random(200) < probability
    observed, predicted = calibration_curve(hit, probability, n_bins=10, strategy="quantile")
    assert plain_ece(hit, probability, 10) == pytest.approx(np.mean(abs(observed - predicted)))


def test_null_is_that_of_signed_patients(rng):
    """Otherwise what calibrated scores would give is computed with another formula than what these give."""
    patient = np.repeat(np.arange(12), 5)
    probability = rng.random(60)
    hit = (rng.random(60) < probability).astype(float)
    sign = rng.choice([-1, 1], 12)
    found = CalibrationError(hit, probability, patient).null(sign[None])[0]
    signed = probability + sign[patient] * (hit - probability)  # an outcome whose excess has that sign
    assert found == pytest.approx(CalibrationError(signed, probability, patient)())


def means(rng, slope, n=200, sets=200):
    """Mean debiased and plain estimates for log odds ``slope`` times the true ones, and the true error."""
    found = []
    for _ in range(sets):
        odds = 1.5 * rng.standard_normal(n)
        hit = rng.random(n) < 1 / (1 + np.exp(-odds))
        said = 1 / (1 + np.exp(-slope * odds))
        found.append((ece(hit, said), plain_ece(hit, said)))
    odds = 1.5 * rng.standard_normal(200_000)
    return *np.mean(found, axis=0), np.mean(abs(1 / (1 + np.exp(-odds)) - 1 / (1 + np.exp(-slope * odds))))


def test_bias_is_mostly_gone(rng):
    """Otherwise every small test set looks badly calibrated, perfect scores included."""
    debiased, plain, true = means(rng, slope=1.0)
    assert true == 0 and plain > 0.06 and debiased < 0.6 * plain
    debiased, plain, true = means(rng, slope=1.7)
    assert abs(debiased - true) < 0.5 * (plain - true)


def test_weights_on_patients_are_repeated_patients(rng):
    """Otherwise the bootstrap of the calibration error is not one; bins stay those of the whole set."""
    patient = np.repeat(np.arange(30), 3)
    probability = np.round(rng.random(90), 1)  # as many bins as values: the repeated set has the same bins
    hit = rng.random(90) < probability
    weight = rng.integers(1, 3, (2, 30))
    error = CalibrationError(hit, probability, patient, bins=90)
    for row, value in zip(weight, error(weight), strict=True):
        rows = [np.flatnonzero(patient == p) for p in range(30) for _ in range(row[p])]
        again = np.repeat(np.arange(len(rows)), 3)
        rows = np.concatenate(rows)
        assert value == pytest.approx(CalibrationError(hit[rows], probability[rows], again, bins=90)())


def test_equal_probabilities_share_one_bin():
    """Otherwise a model that always says the same ends in a division by nothing."""
    assert ece(np.array([0, 1] * 50), np.full(100, 0.5)) == 0
    assert ece(np.ones(100), np.full(100, 0.5)) == pytest.approx(0.5, abs=0.01)
