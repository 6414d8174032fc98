"""95% intervals by resampling patients.

Scans of one patient resemble each other, so the unit that is drawn again is the patient: a resample is a
row of integer weights on patients. What is made of the resamples depends on the kind of number:

* AUROC: ``auroc_interval``, of score type, so that it is neither empty at 1 nor too short near it.
* other proportions (accuracy, sensitivity, F1, average precision, ...): ``proportion_interval``, Wilson's
  score interval at the number of independent observations that the bootstrap's variance amounts to.
* errors and correlations: ``percentile_interval``.
* calibration error: ``calibration_interval``.

Coverage of the 95% intervals, measured by ``python -m vitmed.evaluate.coverage 1000``: 50 patients with 4
scans each, half of a score's variance shared within a patient, 1,000 test sets a row (standard error .007),
labels drawn by scan or by patient (10% is then five positive patients). "percentile" is the plain bootstrap
of the AUROC; sp90 is sensitivity at 90% specificity; ECE is of the true probabilities, ECE2 of
overconfident ones. Coverage is what this simulation gave, no promise for other data: scores far from
normal with some twenty positives at an AUROC of .97 went down to .88.

  by       area  prev   AUROC   (percentile)  AP    acc   bal   F1    sens  sp90  ECE   ECE2
  scan     .7    .1     .956    .921          .906  .949  .961  .960  .961  .971  .934  .949
  scan     .7    .5     .952    .937          .932  .957  .958  .951  .940  .961  .918  .984
  scan     .9    .1     .958    .872          .940  .947  .927  .966  .963  .977  .929  .967
  scan     .9    .5     .946    .912          .925  .942  .944  .938  .951  .948  .919  .983
  scan     .97   .1     .971    .813          .953  .941  .862  .967  .969  .962  .949  .968
  scan     .97   .5     .959    .894          .916  .953  .945  .952  .940  .966  .937  .974
  patient  .7    .1     .931    .836          .953  .949  .949  .977  .977  .988  .934  .950
  patient  .7    .5     .957    .940          .949  .950  .964  .971  .958  .953  .927  .986
  patient  .9    .1     .940    .796          .980  .945  .946  .985  .989  .992  .930  .954
  patient  .9    .5     .962    .929          .956  .955  .962  .971  .955  .969  .942  .991
  patient  .97   .1     .968    .725          .981  .939  .936  .992  .991  .990  .941  .958
  patient  .97   .5     .965    .897          .956  .956  .965  .969  .951  .972  .948  .982

Weakest are balanced accuracy and average precision where twenty scans are positive and most are found.
"""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t as student

from vitmed.evaluate.metrics import auroc

Array = np.ndarray
Interval = tuple[float, float]

LEVEL = 0.95
_CHUNK = 2_000_000  # weights held at a time


def resamples(patients: int, examples: int, count: int, seed: int) -> Iterator[Array]:
    """``count`` resamples of patients, in chunks (r, patients) int64: how often each was drawn."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    rows = max(1, _CHUNK // max(patients, examples))
    for start in range(0, count, rows):
        r = min(rows, count - start)
        drawn = rng.integers(0, patients, (r, patients)) + np.arange(r)[:, None] * patients
        yield np.bincount(drawn.ravel(), minlength=r * patients).reshape(r, patients)


def percentile_interval(value: float, resampled: Array) -> Interval:
    """The middle 95% of the resampled values."""
    low, high = np.quantile(_finite(resampled), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def calibration_interval(value: float, resampled: Array) -> Interval:
    """For an error that cannot be negative and is pushed up by every resampling.

    Above, the percentile bound; below, its mirror image (the "basic" bootstrap), cut at 0. The percentile
    interval alone excludes 0 for perfectly calibrated scores more often than not.
    """
    high = max(percentile_interval(value, resampled)[1], value)
    return max(0.0, 2 * value - high), high


def proportion_interval(value: float, resampled: Array, patients: int) -> Interval:
    """Wilson's (1927) score interval with the effective sample size of the clustered bootstrap.

    value (1 - value) / variance independent observations would be as uncertain as this number is; that
    design-effect use of Wilson's interval follows Dean & Pagano (2015). The quantile is Student's t.

    Args:
        value: the point estimate, in [0, 1].
        resampled: its values in the resamples; nan where it could not be computed.
        patients: how many patients the number rests on (those of the rarer class), for the degrees of
            freedom. Also the sample size where all resamples are equal: scans of one patient then count once.
    """
    variance = float(np.var(_finite(resampled)))
    if variance < 1e-12 or not 0 < value < 1:
        return wilson(value, patients, quantile(np.inf))
    return wilson(value, value * (1 - value) / variance, quantile(patients - 1))


def wilson(value: float, n: float, z: float) -> Interval:
    """Wilson's score interval for a proportion in ``n`` observations, at normal (or t) quantile ``z``."""
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return min(value, max(0.0, float(centre - half))), max(value, min(1.0, float(centre + half)))


def auroc_interval(label: Array, score: Array, cluster: Array, resampled: Array) -> Interval:
    """Score-type interval for a clustered AUROC: all areas a with |a - value| <= t sqrt(V(a)).

    V is the Hanley-McNeil variance in Newcombe's form (2006, "Confidence intervals for an effect size
    measure based on the Mann-Whitney statistic", method 5) at the effective numbers of positives and
    negatives: the counts over the design effect, which is the bootstrap's variance over patients relative
    to DeLong's (1988) for independent scans. V grows as a moves away from 1, which repairs the short lower
    arm. Its level is the geometric mean of its own and the bootstrap's: with few positives, the first is
    cautious and the second noisy and low. t has Satterthwaite's degrees of freedom from the positive and the
    negative patients' shares of the variance (Obuchowski 1997). An area of 0 or 1 has no variance to
    see: then scans of one patient count once.

    Args:
        label: (n,) 0/1, both present.
        score: (n,).
        cluster: (n,) integer index of the patient.
        resampled: the AUROC in each bootstrap resample of the patients.
    """
    label = np.asarray(label) == 1
    value = auroc(label, score)
    own, shares, freedom = _delong(label, np.asarray(score), np.asarray(cluster), value)
    variance = float(np.var(_finite(resampled)))
    if own == 0 or variance < 1e-12 or not 0 < value < 1:
        positives, negatives = shares
        return _score_interval(value, lambda a: _newcombe(a, positives, negatives), quantile(np.inf))
    effect = max(variance / own, 1.0)
    positives, negatives = max(label.sum() / effect, 1.0), max((~label).sum() / effect, 1.0)
    level = np.sqrt(variance / _newcombe(value, positives, negatives))
    return _score_interval(value, lambda a: level * _newcombe(a, positives, negatives), quantile(freedom))


def _score_interval(value: float, variance, z: float) -> Interval:
    """All a in [0, 1] with (value - a)^2 <= z^2 variance(a)."""

    def outside(a):
        return (value - a) ** 2 - z * z * variance(a)

    # The variance vanishes at 0 and 1, which brackets one root on either side.
    low = brentq(outside, 0.0, value - 1e-9 if value == 1 else value) if value > 0 else 0.0
    high = brentq(outside, value + 1e-9 if value == 0 else value, 1.0) if value < 1 else 1.0
    return float(low), float(high)


def _newcombe(area: float, positives: float, negatives: float) -> float:
    """Variance of an AUROC of ``area``, symmetric under exchange of the classes."""
    mean = (positives + negatives) / 2 - 1
    return (
        area
        * (1 - area)
        * (1 + mean * ((1 - area) / (2 - area) + area / (1 + area)))
        / (positives * negatives)
    )


def _delong(label: Array, score: Array, cluster: Array, area: float) -> tuple[float, tuple[int, int], float]:
    """DeLong's variance for independent scans, numbers of positive and negative patients, t's freedom."""
    own, shares, patients = 0.0, [], []
    for side in (True, False):
        mine, other = score[label == side], np.sort(score[label != side])
        beaten = (np.searchsorted(other, mine, "left") + np.searchsorted(other, mine, "right")) / (
            2 * len(other)
        )
        excess = (beaten if side else 1 - beaten) - area  # each scan's own area, less the whole
        if len(mine) > 1:
            own += float(np.var(excess, ddof=1)) / len(mine)
        index = np.unique(cluster[label == side], return_inverse=True)[1]
        k = int(index.max()) + 1
        shares.append(float(np.sum(np.bincount(index, excess) ** 2)) / len(mine) ** 2 * k / max(k - 1, 1))
        patients.append(k)
    spread = sum(share**2 / max(k - 1, 1) for share, k in zip(shares, patients, strict=True))
    freedom = sum(shares) ** 2 / spread if spread > 0 else np.inf
    return own, tuple(patients), freedom


def quantile(freedom: float) -> float:
    """Two-sided 95% quantile of Student's t."""
    return float(student.ppf((1 + LEVEL) / 2, max(freedom, 1.0)))


def _finite(resampled: Array) -> Array:
    return resampled[np.isfinite(resampled)]
