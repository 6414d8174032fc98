"""95% intervals by resampling patients.

Scans of one patient resemble each other, so the unit that is drawn again is the patient: a resample is a
row of integer weights on patients. What is made of the resamples depends on the kind of number:

* AUROC: ``auroc_interval``, of score type, so that it is neither empty at 1 nor too short near it.
* average precision: ``precision_interval``, on the log odds with the bias taken off.
* accuracy, sensitivity, specificity, F1, sensitivity at 90% specificity: ``proportion_interval``, Wilson's
  score interval at the number of independent observations that the bootstrap's variance amounts to.
* means (balanced accuracy of the recalls, macro numbers of the columns): ``mean_interval``, MOVER.
* errors and correlations: ``percentile_interval``.
* distances (HD95): ``positive_interval``, on the logarithm. Dice and NSD of masks are means between 0 and 1, as proportions.
* calibration error: ``calibration_interval``.

Resamples of one patient are all alike and say nothing of other patients: of one there is no interval.

Coverage of the 95% intervals, measured by ``python -m vitmed.evaluate.coverage 1000``: 50 patients with 4
scans each, half of a score's variance shared within a patient, 1,000 test sets a row (standard error .007),
labels drawn by scan or by patient (10% is then five positive patients). sp90 is sensitivity at 90%
specificity; ECE is of the true probabilities. Coverage is what this simulation gave, no promise for other
data: scores far from normal with some twenty positives at an AUROC of .97 went down to .88. After the
stroke, what Wilson's interval with the rarer class's degrees of freedom gave in the same sets (ECE: the
mirrored bootstrap alone), where it was another; not measured again in the rows of 10% by patient since sets with one
patient of a class, which have no interval of what rests on both, are drawn again.

  by       area  prev   AUROC  AP         acc   bal        F1         sens  sp90       ECE
  scan     .7    .1     .956   .933/.906  .949  .968/.961  .957/.960  .961  .969/.971  .953/.934
  scan     .7    .5     .952   .934/.932  .957  .959/.958  .950/.951  .940  .961/.961  .970/.918
  scan     .9    .1     .958   .946/.940  .947  .959/.927  .960/.966  .963  .975/.977  .941/.929
  scan     .9    .5     .946   .926/.925  .942  .936/.944  .936/.938  .951  .946/.948  .954/.919
  scan     .97   .1     .971   .963/.953  .941  .964/.862  .962/.967  .969  .958/.962  .953/.949
  scan     .97   .5     .959   .927/.916  .953  .949/.945  .951/.952  .940  .962/.966  .951/.937
  patient  .7    .1     .945   .960       .946  .974       .958       .973  .978       .969
  patient  .7    .5     .957   .944/.949  .950  .961/.964  .960/.971  .958  .943/.953  .975/.927
  patient  .9    .1     .950   .976       .945  .990       .970       .987  .980       .961
  patient  .9    .5     .962   .961/.956  .955  .958/.962  .961/.971  .955  .958/.969  .969/.942
  patient  .97   .1     .974   .989       .943  .982       .983       .990  .983       .960
  patient  .97   .5     .965   .964/.956  .956  .952/.965  .964/.969  .951  .966/.972  .955/.948

Outside .93 to .97: sensitivity, balanced accuracy, F1 and average precision of five positive patients hold too often: with
so few, t has four degrees of freedom and Wilson's interval at nearly all found cannot end below the truth.
Average precision at .9 and .97 with half the scans positive holds slightly too seldom: where it comes out
high by chance, its variance comes out low. ECE of overconfident probabilities (doubled log odds) held in .95
to .99: its upper bound is the percentile of an estimate that resampling pushes up.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
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


def calibration_interval(value: float, resampled: Array, null: Array) -> Interval:
    """For an error that cannot be negative and is pushed up by every resampling.

    Above, the percentile bound. Below, 0 unless calibrated probabilities would give so large a value in less
    than one case of forty; then the bound's mirror image (the "basic" bootstrap), cut at 0. The percentile
    interval alone excludes 0 for perfectly calibrated scores more often than not.

    Args:
        value: the debiased error.
        resampled: its values in the resamples of patients.
        null: its values where these patients are made calibrated (``CalibrationError.null``).
    """
    high = max(percentile_interval(value, resampled)[1], value)
    if value <= np.quantile(null, (1 + LEVEL) / 2):
        return 0.0, high
    return max(0.0, 2 * value - high), high


def signs(patients: int, examples: int, count: int, seed: int) -> Iterator[Array]:
    """``count`` rows of a random sign a patient, -1 or 1, in chunks (r, patients) int64."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 1]))  # other draws than the resamples'
    rows = max(1, _CHUNK // max(patients, examples))
    for start in range(0, count, rows):
        yield 2 * rng.integers(0, 2, (min(rows, count - start), patients)) - 1


def mean_interval(
    values: Sequence[float], bounds: Sequence[Interval], resampled: Sequence[Array]
) -> Interval:
    """MOVER: the interval of a mean from the intervals of its parts (balanced accuracy from the recalls).

    Zou & Donner (2008, "Construction of confidence intervals about effect measures: a general approach"):
    each arm is the root of the summed squares of the parts' arms on that side, with the correlations of
    the parts in the resamples between them (Zou 2007). A part of which all were found has no variance in
    any resample, but its own interval knows how few patients that was.

    Args:
        values: of the k parts.
        bounds: low and high of each.
        resampled: each part's values in the same resamples; nan where not computable.
    """
    boot = np.stack(resampled)
    boot = boot[:, np.isfinite(boot).all(axis=0)]
    together = np.eye(len(values))
    moving = np.flatnonzero(np.var(boot, axis=1) > 1e-12) if boot.shape[1] else np.zeros(0, int)
    if len(moving) > 1:
        together[np.ix_(moving, moving)] = np.corrcoef(boot[moving])
    value = float(np.mean(values))
    arms = [np.array([abs(v - b[side]) for v, b in zip(values, bounds, strict=True)]) for side in (0, 1)]
    below, above = (float(np.sqrt(max(arm @ together @ arm, 0.0))) / len(values) for arm in arms)
    return max(0.0, value - below), min(1.0, value + above)


def precision_interval(
    value: float, resampled: Array, label: Array, score: Array, cluster: Array, patients: int
) -> Interval:
    """For average precision: on the log odds, about the value less its bias.

    The log odds follow Boyd, Eng & Page (2013, "Area under the precision-recall curve: point estimates and
    confidence intervals"). Average precision of few positives is too high, and in a resample higher still:
    that excess is taken off. The bootstrap's variance is short by (patients - 1) / patients of the rarer
    class and is made good for it; t has the AUROC's degrees of freedom. A value of 0 or 1, or resamples
    that are all alike, have Wilson's interval at the number of patients.

    Args:
        value, resampled: the estimate and its values in the resamples.
        label, score, cluster: (n,) as for ``auroc_interval``.
        patients: of the rarer class.
    """
    resampled = _finite(resampled)
    variance = float(np.var(resampled)) * patients / max(patients - 1, 1)
    if variance < 1e-12 or not 0 < value < 1:
        return wilson(value, patients, quantile(np.inf))
    # No more than three quarters are taken off: of a handful of positives the bias is a guess.
    centre = max(value - max(float(np.mean(resampled)) - value, 0.0), value / 4)
    arm = quantile(freedom(label, score, cluster)) * np.sqrt(variance) / (value * (1 - value))
    low, high = (float(expit(logit(centre) + side * arm)) for side in (-1, 1))
    return min(low, value), max(high, value)


def proportion_interval(
    value: float, resampled: Array, patients: int, freedom: float | None = None
) -> Interval:
    """Wilson's (1927) score interval with the effective sample size of the clustered bootstrap.

    value (1 - value) / variance independent observations would be as uncertain as this number is; that
    design-effect use of Wilson's interval follows Dean & Pagano (2015). The quantile is Student's t.

    Args:
        value: the point estimate, in [0, 1].
        resampled: its values in the resamples; nan where it could not be computed.
        patients: how many patients the number rests on (those of the rarer class), for the degrees of
            freedom. Also the sample size where all resamples are equal: scans of one patient then count once.
        freedom: t's degrees of freedom where they are known better, as of what rests on both classes.
    """
    variance = float(np.var(_finite(resampled)))
    if variance < 1e-12 or not 0 < value < 1:
        return wilson(value, patients, quantile(np.inf))
    return wilson(
        value, value * (1 - value) / variance, quantile(patients - 1 if freedom is None else freedom)
    )


def positive_interval(value: float, resampled: Array, patients: int) -> Interval:
    """For the mean of what cannot be negative and is skewed: symmetric on the logarithm, by the bootstrap's variance.

    That is made good for being short by (patients - 1) / patients, of which there are two or more; the quantile is Student's
    t. A mean of 0 is of nothing but zeros, and so is every resample's.
    """
    if value <= 0:
        return 0.0, 0.0
    variance = float(np.var(_finite(resampled))) * patients / (patients - 1)
    arm = quantile(patients - 1) * np.sqrt(variance) / value
    return float(value * np.exp(-arm)), float(value * np.exp(arm))


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


def freedom(label: Array, score: Array, cluster: Array) -> float:
    """Satterthwaite's degrees of freedom of the AUROC (see ``auroc_interval``); infinite if nothing varies.

    They stand in for those of any number that rests on both classes: five positive patients among fifty
    leave more than the four degrees of the positives alone.
    """
    label = np.asarray(label) == 1
    return _delong(label, np.asarray(score), np.asarray(cluster), auroc(label, score))[2]


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
