"""The linear probe: a linear head fitted to the features of an encoder that stays as it is.

A masked autoencoder's features differ in their spread by orders of magnitude, so each is standardised first, as
MAE's own probes do (He et al. 2022, appendix A.1). As the start of fine-tuning (Kumar et al. 2022,
arXiv:2202.10054, "LP-FT") it spares the encoder the large gradients of a head that knows nothing yet.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression, Ridge

from vitmed.models.head import gaps_of

STRENGTH = 0.1  # scikit-learn's C: few labels and features of unit variance want a firm prior
_ROUNDS = 1000
_LEAST = 1e-6  # standard deviation of a feature that never changes
_NARROW = 1e-6  # least distance of two thresholds: below any that examples ask for, so that no step meets 0


def linear_probe(
    features: np.ndarray, label: np.ndarray, weight: np.ndarray, task: str, outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits scores ``features @ kernel + bias`` to labels.

    Args:
        features: (n, D).
        label: (n, 1) class numbers (multiclass), else (n, outputs); as a dataset gives them.
        weight: like ``label``: 0 where a label is missing.
        task: "multiclass", "multilabel" or "regression".
        outputs: classes, or label columns.

    Returns:
        kernel (D, outputs) and bias (outputs,), float32: logits, or the values themselves (regression). A class
        without a single example scores as one of which n + 1 scans showed none.
    """
    standard, mean, deviation = _standard(features)
    if task == "multiclass":
        known = weight[:, 0] > 0
        weights, bias = _classes(standard[known], label[known, 0].astype(int), outputs)
    else:
        fits = []
        for column in range(outputs):
            known = weight[:, column] > 0
            fit = _value if task == "regression" else _yes_or_no
            fits.append(fit(standard[known], label[known, column]))
        weights, bias = (np.stack(part) for part in zip(*fits))
    kernel = weights / deviation
    return kernel.T.astype(np.float32), (bias - kernel @ mean).astype(np.float32)


def ordered_probe(features: np.ndarray, rank: np.ndarray, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Fits the cumulative-logit model (``vitmed.models.head.Ranks``), with the same prior as ``linear_probe``.

    The likelihood is concave in weights and thresholds together (Pratt 1981), so there is one fit to find. A rank
    without a single example is given one, of average features: the likelihood alone would send the threshold of the
    highest or lowest rank to infinity, and let those of another meet.

    Args:
        features: (n, D).
        rank: (n,) integers from 0, the lowest.
        ranks: how many there are.

    Returns:
        kernel (D, 1) and the thresholds (ranks - 1,) as the model parametrises them, float32. A rank without an example
        is expected about once among n + 1 scans, as a class is by ``linear_probe``.
    """
    x, mean, deviation = _standard(features)
    dim = x.shape[1]
    unseen = np.setdiff1d(np.arange(ranks), rank)
    x, rank = np.concatenate([x, np.zeros((len(unseen), dim))]), np.concatenate([rank, unseen])
    counts = np.cumsum(np.bincount(rank))
    start = np.log(counts[:-1] / (counts[-1] - counts[:-1]))
    high, low = rank < ranks - 1, rank > 0  # who has a threshold above, and who one below
    upper_at, lower_at = np.minimum(rank, ranks - 2), np.maximum(rank, 1) - 1

    def cost(free):
        weights, widths = free[:dim], np.exp(free[dim + 1 :])
        t = free[dim] + np.concatenate([[0.0], np.cumsum(widths)])
        score = x @ weights
        upper = np.where(high, t[upper_at] - score, np.inf)  # log odds of lying at the rank or below it
        lower = np.where(low, score - t[lower_at], np.inf)  # log odds of lying at the rank or above it
        gap = np.concatenate([[np.inf], widths, [np.inf]])[rank]
        value = weights @ weights / (2 * STRENGTH) - np.sum(
            log_expit(upper) + log_expit(lower) + np.log(-np.expm1(-gap))
        )
        to_upper, to_lower, to_gap = -expit(-upper), expit(-lower), -1 / np.expm1(gap)
        to_t = np.bincount(upper_at, to_upper, ranks - 1) + np.bincount(lower_at, to_lower, ranks - 1)
        after = np.cumsum(to_t[::-1])[::-1]  # a threshold moves all that lie above it
        to_widths = after[1:] + np.bincount(rank, to_gap, ranks)[1:-1]
        to_weights = weights / STRENGTH - x.T @ (to_upper + to_lower)
        return value, np.concatenate([to_weights, after[:1], to_widths * widths])

    begin = np.concatenate([np.zeros(dim), start[:1], np.log(np.diff(start))])
    bounds = [(None, None)] * (dim + 1) + [(np.log(_NARROW), None)] * (ranks - 2)
    fit = minimize(cost, begin, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS}).x
    weights = fit[:dim] / deviation
    thresholds = fit[dim] + np.concatenate([[0.0], np.cumsum(np.exp(fit[dim + 1 :]))])
    return weights[:, None].astype(np.float32), gaps_of(thresholds + mean @ weights)


def _standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of mean 0 and deviation 1, and what was their mean and deviation."""
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    deviation = np.maximum(deviation, _LEAST)
    return (features - mean) / deviation, mean, deviation


def _classes(x: np.ndarray, label: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    weights, bias = np.zeros((outputs, x.shape[1])), np.full(outputs, -np.log(len(x) + 1.0))
    seen = np.unique(label)
    if len(seen) == 1:
        bias[seen] = 0.0
        return weights, bias
    fitted = _logistic(x, label)
    if len(seen) == 2:  # scikit-learn gives the difference of the two scores
        half, middle = fitted.coef_[0] / 2, fitted.intercept_[0] / 2
        weights[seen], bias[seen] = np.stack([-half, half]), (-middle, middle)
    else:
        weights[seen], bias[seen] = fitted.coef_, fitted.intercept_
    return weights, bias


def _yes_or_no(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, float]:
    yes = label > 0.5
    if yes.all() or not yes.any():  # also where no label is known at all: 0
        return np.zeros(x.shape[1]), np.log(len(x) + 1.0) * (1.0 if len(x) and yes.all() else -1.0)
    fitted = _logistic(x, yes)
    return fitted.coef_[0], fitted.intercept_[0]


def _value(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, float]:
    if not len(x):
        return np.zeros(x.shape[1]), 0.0
    fitted = Ridge(alpha=1 / STRENGTH).fit(x, label)
    return fitted.coef_, fitted.intercept_


def _logistic(x, label) -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, max_iter=_ROUNDS).fit(x, label)
