"""Thresholds chosen on validation."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from vitmed.evaluate import thresholds


def test_balanced_threshold_is_the_best_there_is(rng):
    """Otherwise decisions are worse than validation allowed."""
    label = rng.random(80) < 0.3
    score = np.round(rng.random(80) + 0.3 * label, 1)
    chosen = thresholds.balanced(label, score)
    tried = [balanced_accuracy_score(label, score >= t) for t in np.linspace(-0.1, 1.5, 500)]
    assert balanced_accuracy_score(label, score >= chosen) == pytest.approx(max(tried))


def test_threshold_lies_in_the_middle_of_the_gap():
    """Otherwise it hugs one class, and the next scan of it falls on the wrong side."""
    assert thresholds.balanced(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])) == pytest.approx(0.5)


def test_specificity_is_reached_at_the_lowest_threshold(rng):
    """Otherwise sensitivity is given away, or specificity is not what was promised."""
    label, score = rng.random(200) < 0.4, rng.random(200)
    at = thresholds.at_specificity(label, score, 0.9)
    assert np.mean(score[~label] < at) >= 0.9
    lower = np.max(score[score < at])
    assert np.mean(score[~label] < lower) < 0.9


def test_specificity_that_no_score_reaches_lets_nothing_pass():
    """Otherwise ties at the top break the promise."""
    label, score = np.array([0, 0, 1, 1]), np.array([0.7, 0.7, 0.7, 0.7])
    assert not (score >= thresholds.at_specificity(label, score, 0.9)).any()
