"""Expected calibration error without the bias that makes every small test set look badly calibrated.

The plain binned estimate (mean |observed - predicted| over bins) is positive even for perfect
probabilities, because noise in a bin's frequency has a mean absolute value. Kumar, Liang & Ma (2019,
"Verified uncertainty calibration") remove it by taking the noise as normal; their L1 correction
2|d| - E|N(d, s)| is evaluated here in closed form (the mean of a folded normal). Bins hold equal numbers
of examples, whose estimate has the smaller bias (Roelofs et al. 2022, "Mitigating bias in calibration
error estimation").

Two scans of one patient are not two observations: s is the clustered standard error over patients, and
at least the binomial one.
"""

import numpy as np
from scipy.special import ndtr

Array = np.ndarray


class CalibrationError:
    """The debiased ECE of one set of probabilities, under any number of bootstrap weightings of its patients.

    Args:
        hit: (n,) 0/1, whether the event came true.
        probability: (n,) the predicted probability of the event.
        cluster: (n,) integer index of the patient, 0..c-1; None: every example by itself.
        bins: at most so many bins of equal counts; ties at an edge share a bin.
    """

    def __init__(self, hit: Array, probability: Array, cluster: Array | None = None, bins: int = 10):
        hit, probability = np.asarray(hit, np.float64), np.asarray(probability, np.float64)
        cluster = np.arange(len(hit)) if cluster is None else np.asarray(cluster)
        ordered = np.sort(probability)
        edges = np.unique(ordered[[i * len(ordered) // bins for i in range(1, bins)]])
        bin_index = np.searchsorted(edges, probability, side="right")
        cell = cluster * (len(edges) + 1) + bin_index
        shape = (int(cluster.max()) + 1, len(edges) + 1)

        def sums(x):
            return np.bincount(cell, x, minlength=shape[0] * shape[1]).reshape(shape)

        self.count = sums(np.ones(len(hit)))
        self.excess = sums(hit - probability)
        self.predicted = sums(probability)

    def __call__(self, weight: Array | None = None) -> float | Array:
        """The estimate under patient weights: none -> a float, (r, c) -> (r,). At least 0."""
        w = np.ones((1, len(self.count))) if weight is None else np.asarray(weight, np.float64)
        value = self._debiased(w, w)
        return float(value[0]) if weight is None else value

    def null(self, signs: Array) -> Array:
        """The estimate where each patient's excess of events has a random sign, -1 or 1: (r, c) -> (r,).

        What these patients would give if the probabilities were calibrated: then a patient's excess is as
        likely above as below, and whatever its scans share stays shared (the wild bootstrap of clusters,
        Cameron, Gelbach & Miller 2008, "Bootstrap-based improvements for inference with clustered errors").
        """
        signs = np.asarray(signs, np.float64)
        return self._debiased(np.ones_like(signs), signs)

    def _debiased(self, w: Array, signed: Array) -> Array:
        """The estimate under patient weights ``w`` (r, c), with the excess weighted by ``signed`` (r, c)."""
        n = w @ self.count
        used = np.maximum(n, 1.0)  # an empty bin counts nothing below
        gap = (signed @ self.excess) / used
        squares = (
            w @ self.excess**2
            - 2 * gap * (signed @ (self.excess * self.count))
            + gap**2 * (w @ self.count**2)
        )
        patients = w @ (self.count > 0)
        clustered = np.maximum(squares, 0.0) / used**2 * patients / np.maximum(patients - 1, 1.0)
        mean = (w @ self.predicted) / used
        noise = np.sqrt(np.maximum(clustered, mean * (1 - mean) / used))
        total = np.sum(n * (2 * np.abs(gap) - _folded_mean(np.abs(gap), noise)), axis=1)
        known = np.where(n.sum(1) > 0, n.sum(1), np.nan)  # nothing of nobody
        return np.maximum(total / known, 0.0)


def ece(hit: Array, probability: Array, cluster: Array | None = None, bins: int = 10) -> float:
    """Debiased expected calibration error of (n,) probabilities of an event; see ``CalibrationError``."""
    return CalibrationError(hit, probability, cluster, bins)()


def _folded_mean(gap: Array, noise: Array) -> Array:
    """E|N(gap, noise)| for gap >= 0."""
    z = gap / np.maximum(noise, 1e-12)
    return noise * np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2) + gap * (1 - 2 * ndtr(-z))
