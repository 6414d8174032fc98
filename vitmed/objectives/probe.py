"""The linear probe: a linear head fitted to the features of an encoder that stays as it is.

A masked autoencoder's features differ in their spread by orders of magnitude, so each is standardised first, as
MAE's own probes do (He et al. 2022, appendix A.1). As the start of fine-tuning (Kumar et al. 2022,
arXiv:2202.10054, "LP-FT") it spares the encoder the large gradients of a head that knows nothing yet.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

STRENGTH = 0.1  # scikit-learn's C: few labels and features of unit variance want a firm prior
_ROUNDS = 1000
_LEAST = 1e-6  # standard deviation of a feature that never changes


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
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    deviation = np.maximum(deviation, _LEAST)
    standard = (features - mean) / deviation
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
