"""Point estimates of how well scores agree with labels: pure NumPy, one function a metric.

Every function takes an optional ``weight``, (n,) or (r, n): how often each example counts. A bootstrap
resample is nothing but integer weights, so r resamples are r rows and are computed together, sorting
once. Without ``weight`` or with one row the result is a float, with r rows it is (r,). What cannot be
computed (a class that is absent) is nan, never a substitute.

``label`` is (n,) 0/1 for the two-class metrics and (n,) class indices for the multi-class ones; a higher
``score`` means the positive class. Definitions are scikit-learn's, and the tests hold them to it.
"""

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def auroc(label: Array, score: Array, weight: Array | None = None) -> float | Array:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    The Mann-Whitney statistic (Hanley & McNeil 1982) by weighted rank sums. nan without both classes.
    """
    positive, negative, flat = _tie_groups(label, score, weight)
    below = np.cumsum(negative, axis=1) - negative
    wins = np.sum(positive * (below + 0.5 * negative), axis=1)
    return _result(_ratio(wins, positive.sum(1) * negative.sum(1)), flat)


def mean_over_columns(
    metric: Callable[[Array, Array], float], task: str, label: Array, weight: Array, score: Array
) -> float:
    """Mean of ``metric(truth, score)`` over classes (one against the rest) or label columns, of those that have it.

    Args:
        task: "multiclass", "multilabel" or "regression".
        label, weight: (n, K) as a dataset gives them; what has no weight is not known.
        score: (n, outputs).

    Returns:
        nan where no column has it.
    """
    made = []
    for column in range(score.shape[1]):
        if task == "multiclass":
            known, truth = weight[:, 0] > 0, label[:, 0] == column
        else:
            known, truth = weight[:, column] > 0, label[:, column]
        if known.any():
            made.append(float(metric(truth[known], score[known, column])))
    made = [value for value in made if np.isfinite(value)]
    return float(np.mean(made)) if made else float("nan")


def average_precision(label: Array, score: Array, weight: Array | None = None) -> float | Array:
    """Mean precision over the positives, without interpolation. nan without a positive."""
    positive, negative, flat = _tie_groups(label, -np.asarray(score), weight)
    found = np.cumsum(positive, axis=1)
    precision = _ratio(found, found + np.cumsum(negative, axis=1), empty=0.0)
    return _result(_ratio(np.sum(positive * precision, axis=1), positive.sum(1)), flat)


def sensitivity_at_specificity(
    label: Array, score: Array, specificity: float = 0.9, weight: Array | None = None
) -> float | Array:
    """Highest sensitivity among the points of the ROC curve of at least this specificity.

    Only points that a threshold can reach count: no interpolation between them. nan without both classes.
    """
    positive, negative, flat = _tie_groups(label, -np.asarray(score), weight)
    allowed = (1.0 - specificity) * negative.sum(1, keepdims=True) + 1e-9  # 0.1 * 30 must allow 3
    reached = np.cumsum(negative, axis=1) <= allowed
    found = np.max(np.where(reached, np.cumsum(positive, axis=1), 0.0), axis=1)
    value = _ratio(found, positive.sum(1))
    return _result(np.where(negative.sum(1) > 0, value, np.nan), flat)


def accuracy(label: Array, predicted: Array, weight: Array | None = None) -> float | Array:
    """Share of examples whose class (n,) was predicted."""
    weight, flat = _rows(weight, len(label))
    return _result(_ratio(weight @ (np.asarray(label) == predicted), weight.sum(1)), flat)


def recall(label: Array, predicted: Array, k: int, weight: Array | None = None) -> float | Array:
    """Share of the examples of class ``k`` that were found: sensitivity for k = 1, specificity for k = 0."""
    weight, flat = _rows(weight, len(label))
    truth = np.asarray(label) == k
    return _result(_ratio(weight @ (truth & (np.asarray(predicted) == k)), weight @ truth), flat)


def f1(label: Array, predicted: Array, k: int = 1, weight: Array | None = None) -> float | Array:
    """Harmonic mean of precision and recall for class ``k``. nan where no example is of it."""
    weight, flat = _rows(weight, len(label))
    truth, said = np.asarray(label) == k, np.asarray(predicted) == k
    n = weight @ truth
    value = _ratio(2.0 * (weight @ (truth & said)), n + weight @ said)
    return _result(np.where(n > 0, value, np.nan), flat)


def confusion(label: Array, predicted: Array, classes: int) -> Array:
    """Counts (classes, classes): row the true class, column the predicted one."""
    index = np.asarray(label, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def mean(value: Array, weight: Array | None = None) -> float | Array:
    """Mean of a number that each example has by itself, (n,). nan without an example."""
    weight, flat = _rows(weight, len(value))
    return _result(_ratio(weight @ np.asarray(value, np.float64), weight.sum(1)), flat)


def mae(label: Array, value: Array, weight: Array | None = None) -> float | Array:
    """Mean absolute error, in the label's unit."""
    weight, flat = _rows(weight, len(label))
    return _result(_ratio(weight @ np.abs(np.asarray(value, np.float64) - label), weight.sum(1)), flat)


def rmse(label: Array, value: Array, weight: Array | None = None) -> float | Array:
    """Root of the mean squared error, in the label's unit."""
    weight, flat = _rows(weight, len(label))
    return _result(
        np.sqrt(_ratio(weight @ (np.asarray(value, np.float64) - label) ** 2, weight.sum(1))), flat
    )


def quadratic_kappa(label: Array, value: Array, weight: Array | None = None) -> float | Array:
    """Agreement of two ranks beyond chance, a disagreement counting by its square (Cohen 1968). nan if both are constant.

    One less the mean squared difference over what it would be were the two sides independent.
    """
    weight, flat = _rows(weight, len(label))
    x, y = np.asarray(label, np.float64), np.asarray(value, np.float64)
    n = weight.sum(1)
    by_chance = _ratio(weight @ x**2 + weight @ y**2, n) - 2 * _ratio(weight @ x, n) * _ratio(weight @ y, n)
    return _result(1.0 - _ratio(_ratio(weight @ (x - y) ** 2, n), by_chance), flat)


def r2(label: Array, value: Array, weight: Array | None = None) -> float | Array:
    """Share of the label's variance explained, 1 - residual / total squares. nan for a constant label."""
    weight, flat = _rows(weight, len(label))
    residual = weight @ (np.asarray(value, np.float64) - label) ** 2
    return _result(1.0 - _ratio(residual, _squares(label, weight)), flat)


def pearson(label: Array, value: Array, weight: Array | None = None) -> float | Array:
    """Pearson's correlation. nan when either side is constant."""
    weight, flat = _rows(weight, len(label))
    x = np.asarray(label, np.float64) - np.mean(label)
    y = np.asarray(value, np.float64) - np.mean(value)
    covariance = weight @ (x * y) - _ratio((weight @ x) * (weight @ y), weight.sum(1))
    return _result(_ratio(covariance, np.sqrt(_squares(label, weight) * _squares(value, weight))), flat)


def _squares(x: Array, weight: Array) -> Array:
    """Weighted sum of squares about the weighted mean, (r,); exactly 0 where x is constant."""
    x = np.asarray(x, np.float64) - np.mean(x)  # centred first, so that fewer digits are lost
    raw = weight @ x**2
    about_mean = raw - _ratio((weight @ x) ** 2, weight.sum(1))
    return np.where(about_mean > 1e-12 * raw, about_mean, 0.0)


def _rows(weight: Array | None, n: int) -> tuple[Array, bool]:
    """The weights as (r, n) float64, and whether the caller wants one float."""
    if weight is None:
        return np.ones((1, n)), True
    weight = np.asarray(weight, np.float64)
    return np.atleast_2d(weight), weight.ndim == 1


def _tie_groups(label: Array, score: Array, weight: Array | None) -> tuple[Array, Array, bool]:
    """Weight of positives and of negatives at each distinct score, ascending: two (r, groups)."""
    weight, flat = _rows(weight, len(label))
    order = np.argsort(score, kind="stable")
    ordered = np.asarray(score)[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    weight, truth = weight[:, order], np.asarray(label)[order] == 1
    positive = np.add.reduceat(weight * truth, starts, axis=1)
    negative = np.add.reduceat(weight * ~truth, starts, axis=1)
    return positive, negative, flat


def _ratio(top: Array, bottom: Array, empty: float = np.nan) -> Array:
    return np.divide(top, bottom, out=np.full(np.shape(top), empty), where=np.asarray(bottom) > 0)


def _result(value: Array, flat: bool) -> float | Array:
    return float(value[0]) if flat else value
