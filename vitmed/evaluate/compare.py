"""Numbers over several trainings: one arm's mean over its draws, and the difference of two arms.

A draw is one training: its labels drawn and its seed. Both the draws and the test patients are samples, and
every draw is judged on the same patients, so the two are crossed. The variance of the mean over draws is

    V = V_patients + V_draws - V_both

V_patients: of the mean over draws, in a bootstrap of the patients. V_draws: the variance between the
draws, over their number. V_both: of what is peculiar to a draw on a patient, which the first two each hold
once. This is how readers and cases are taken apart in diagnostic studies (Obuchowski & Rockette 1995;
Gallas et al. 2009), and bootstrapping draws and patients at once without the correction counts V_both
three times (Owen 2007, "The pigeonhole bootstrap"). Percentiles over three draws would be too narrow by a
fifth before anything else: the quantile is Student's t with Satterthwaite's degrees of freedom. Those of the patients are
of the ones that a metric rests on: of an AUROC the rarer class's, of a Dice the ones who have the structure, and the
bootstrap's variance, short by (k - 1) / k of k patients, is made good for it.

* Draws that share a pretraining share its luck. Where the means of the pretrainings differ by more than their
  draws would make them, the pretrainings are what counts as draws, few as they may be (a nested design).
* Folds have patients and trainings of their own, so variances add up over them. A metric is computed in each fold
  and averaged, weighted by scans: scores of different models have no common scale, and ranking them together
  biases an AUROC (Forman & Scholz 2010, "Apples-to-apples in cross-validation studies"). Where folds differ by
  more than their patients explain, the trainings do, and since they share scans their variance counts as
  (1 / folds + test / train) (Nadeau & Bengio 2003, "Inference for the generalization error"). From a few folds that
  part cannot be told from none, and t's freedom would be the patients'. So their own test, in which the whole variance
  between the folds counts so and t has folds - 1 degrees of freedom, stands beside: the interval reaches as far as either.
* Arms of one label budget are compared draw by draw. Of two budgets each side has its own draws, and their variances
  add up; the patients are the same.

``tests/evaluate/test_compare.py`` holds the coverage of each in simulations where the truth is known.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import t as student

from vitmed.errors import InputError
from vitmed.evaluate import intervals
from vitmed.evaluate.measures import IN_RANKS, Judged, Measure, estimates, measures, with_parts
from vitmed.evaluate.score import RESAMPLES, clusters

Array = np.ndarray
Thresholds = Sequence[dict[str, float] | None] | None


@dataclasses.dataclass(frozen=True)
class Sampled:
    """A metric of d trainings on one test set (or one fold of it), as found and in resamples of the patients.

    Attributes:
        points: (d,).
        boot: (d, r); the r-th column is of one resample, so that columns of two arms belong together.
        units: on how many patients it rests (images where none is known): the fewest of the classes or structures in it.
        freedom: t's degrees of freedom of the patients' variance.
        short: what the bootstrap's variance is to be multiplied by.
        patients: how many patients there are; None where unknown.
        examples: with a label.
        unit_range: whether values lie in [0, 1].
        sources: (d,) the pretraining that each training began from; None: none is shared.
    """

    points: Array
    boot: Array
    units: int
    freedom: float
    short: float
    patients: int | None
    examples: int
    unit_range: bool
    sources: Sequence[int] | None = None


def sample(
    metric: str,
    scores: Sequence[Array],
    label: Array,
    patients: list[str] | None,
    *,
    task: str,
    classes: Sequence[str],
    label_weight: Array | None = None,
    thresholds: Thresholds = None,
    sources: Sequence[int] | None = None,
    order: Sequence[int] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Sampled:
    """A metric of several trainings that were judged on the same examples.

    Args:
        metric: a key of ``metrics`` that ``score`` gives for this task.
        scores: d arrays (n, K) of probabilities (values for regression, (n, 4 K) for masks) on the same examples.
        label: (n, 1) class indices or (n, K).
        patients: (n,) names, "" where unknown; None where no patient is known (then by image).
        task: "multiclass", "multilabel", "regression" or "segmentation".
        classes: names of the classes, columns or structures.
        label_weight: 0 where a label is missing; None: all are known.
        thresholds: one a draw, as ``score`` gives it under ``threshold``; None takes 0.5.
        sources: one a draw, equal where two began from one pretraining.
        order: of ordered classes, as for ``score``.
        seed: of the bootstrap.
        resamples: how many.

    Raises:
        InputError: the task has no such metric, or no example has a label.
    """
    known = np.ones(np.shape(label), bool) if label_weight is None else np.asarray(label_weight) > 0
    rows = np.flatnonzero(known.any(axis=1))
    if not len(rows):
        raise InputError("no example has a label; nothing can be compared")
    cluster, count, _ = clusters(patients, rows)
    units = int(cluster.max()) + 1
    chosen = []
    for i, score in enumerate(scores):
        at = np.asarray(score)[rows], np.asarray(label)[rows], known[rows], cluster
        judged = Judged(task, classes, *at, order=order)
        threshold = thresholds[i] if thresholds is not None else None
        if threshold is not None:
            judged = dataclasses.replace(judged, threshold=[threshold[name] for name in judged.columns])
        found = measures(judged)[0]
        listed = [measure.name for measure in found]
        if metric not in listed:
            known_names = ", ".join(name for name in listed if "/" not in name)
            raise InputError(f"a {task} task has no metric {metric!r}; it has {known_names}")
        chosen.append(with_parts(found, [metric]))
    points = np.array([estimates(c, np.ones((1, units)))[metric][0] for c in chosen])
    chunks = [
        [estimates(c, w) for c in chosen] for w in intervals.resamples(units, len(rows), resamples, seed)
    ]
    boots = [
        {measure.name: np.concatenate([chunk[i][measure.name] for chunk in chunks]) for measure in listed}
        for i, listed in enumerate(chosen)
    ]
    rests = [_rests_on(*pair) for pair in zip(chosen, boots, strict=True)]
    unit_range = task != "regression" and metric.partition("/")[0] not in ("hd95", *IN_RANKS)
    return Sampled(
        points,
        np.stack([boot[metric] for boot in boots]),
        min(few for few, _, _ in rests),
        min(freedom for _, freedom, _ in rests),
        max(short for _, _, short in rests),
        count,
        len(rows),
        unit_range,
        sources,
    )


def _rests_on(listed: Sequence[Measure], boot: dict[str, Array]) -> tuple[int, float, float]:
    """What ``Sampled`` says of ``units``, ``freedom`` and ``short``, of a measure and its parts in the resamples."""
    leaves = [measure for measure in listed if measure.patients]
    if not leaves:  # not computable
        return 0, 0.0, 1.0
    fewest = min(measure.patients for measure in leaves)
    found = np.array([np.var(boot[m.name][np.isfinite(boot[m.name])]) for m in leaves])
    many = np.array([max(measure.patients, 2) for measure in leaves], float)
    freedom = np.array([n - 1 if m.freedom is None else m.freedom for m, n in zip(leaves, many)])
    if not found.sum() > 0:
        return fewest, float(freedom.min()), 1.0
    made_good = found * many / (many - 1)
    return (
        fewest,
        float(made_good.sum() ** 2 / (made_good**2 / freedom).sum()),
        float(made_good.sum() / found.sum()),
    )


def mean(folds: Sequence[Sampled], overlap: float = 0.0) -> dict:
    """The mean of a metric over draws and folds, with its interval over draws and patients.

    Args:
        folds: one a fold; a single one where there are no folds.
        overlap: examples tested on over examples trained on, in a fold.

    Returns:
        ``value``, ``low``, ``high`` (None where not computable), ``draws`` (of each fold), ``patients`` (None where
        unknown), ``examples``. Of a single training the interval is over patients alone: what another would give cannot be seen.
        Of a single patient there is none: it would be over trainings alone.
    """
    sides = [[(fold.points, fold.boot, fold.sources)] for fold in folds]
    found = _interval(sides, folds, overlap, folds[0].unit_range)
    return {name: found[name] for name in ("value", "low", "high")} | _rests(folds)


def difference(
    first: Sequence[Sampled], second: Sequence[Sampled], paired: bool = True, overlap: float = 0.0
) -> dict:
    """The mean over draws of metric(first) - metric(second), on the same resampled patients.

    Not of HD95, which leaves each side's own failures out: the two would be of different scans.

    Args:
        first, second: one a fold, of the same folds.
        paired: whether the d-th draws of both sides belong together, as those of one label budget do.
        overlap: as in ``mean``.

    Returns:
        As ``mean``, ``draws`` being the fewer; and ``errors``, the standard error with its degrees of freedom, of folds two
        of them; [] where there is no interval.

    Raises:
        InputError: paired sides with other numbers of draws.
    """
    sides, folds = [], []
    for a, b in zip(first, second, strict=True):
        folds.append(_weaker(a, b))
        if paired and len(a.points) != len(b.points):
            raise InputError(
                f"the arms have {len(a.points)} and {len(b.points)} draws; a paired difference needs equally many"
            )
        if paired:
            shared = a.sources if a.sources is not None else b.sources
            sides.append([(a.points - b.points, a.boot - b.boot, shared)])
        else:
            sides.append([(a.points, a.boot, a.sources), (-b.points, -b.boot, b.sources)])
    draws = min(len(fold.points) for fold in (*first, *second))
    return _interval(sides, folds, overlap, False) | _rests(folds) | {"draws": draws}


def _weaker(a: Sampled, b: Sampled) -> Sampled:
    """Of both, what says less of the patients: a difference is no surer."""
    return dataclasses.replace(
        a, units=min(a.units, b.units), freedom=min(a.freedom, b.freedom), short=max(a.short, b.short)
    )


def chance(
    found: dict, against: float = 0.0, than: Literal["other", "above", "below"] = "other"
) -> float | None:
    """The p-value of a ``difference`` against a true one of ``against``: the larger where several errors stand beside it.

    Args:
        than: whether what is asked is if the difference is another one, above or below. None where nothing can be computed.
    """
    away = found["value"] - against if found["errors"] else 0.0
    tail = {"other": lambda t, n: 2 * student.sf(abs(t), n), "above": student.sf, "below": student.cdf}[than]
    chances = []
    for error, freedom in found["errors"]:
        ratio = away / error if error else np.copysign(np.inf, away) if away else 0.0
        chances.append(float(tail(ratio, max(freedom, 1.0))))
    return max(chances, default=None)


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number (Holm 1979); None stays None and counts all the same."""
    order = sorted(range(len(chances)), key=lambda i: 1.0 if chances[i] is None else chances[i])
    corrected: list[float | None] = [None] * len(chances)
    least = 0.0
    for rank, i in enumerate(order):
        if chances[i] is not None:
            least = max(least, min(1.0, (len(chances) - rank) * chances[i]))
            corrected[i] = least
    return corrected


def _rests(folds: Sequence[Sampled]) -> dict:
    known = [fold.patients for fold in folds]
    return {
        "draws": len(folds[0].points),
        "patients": None if None in known else sum(known),
        "examples": sum(fold.examples for fold in folds),
    }


def _interval(sides: list[list[tuple]], folds: Sequence[Sampled], overlap: float, unit_range: bool) -> dict:
    """The sum of each fold's sides (points (d,), boot (d, r), sources), averaged over the folds, with its interval."""
    nothing = {"value": None, "low": None, "high": None, "errors": []}
    weights = np.array([fold.examples for fold in folds], float)
    weights /= weights.sum()
    values, patients, draws, both, spread = [], [], 0.0, 0.0, 0.0
    for weight, fold, parts in zip(weights, folds, sides, strict=True):
        finite = np.logical_and.reduce([np.isfinite(boot).all(axis=0) for _, boot, _ in parts])
        if not all(np.isfinite(points).all() for points, _, _ in parts) or not finite.any():
            return nothing
        values.append(sum(float(points.mean()) for points, _, _ in parts))
        patients.append(fold.short * float(np.var(sum(boot[:, finite].mean(axis=0) for _, boot, _ in parts))))
        for points, boot, sources in parts:
            between, crossed, freedom = _between(points, boot[:, finite], sources)
            draws += weight**2 * between
            both += weight**2 * crossed
            spread += (weight**2 * between) ** 2 / max(freedom, 1)
    value = float(weights @ values)
    told = [variance for variance, fold in zip(patients, folds) if fold.units != 1]
    if not told:
        return nothing | {"value": value}
    # A fold that has one such patient does not tell how patients differ: as they do in the others.
    patients = [np.mean(told) if fold.units == 1 else variance for variance, fold in zip(patients, folds)]
    spread += sum((w**2 * p) ** 2 / max(f.freedom, 1) for w, p, f in zip(weights, patients, folds))
    from_patients = float(weights**2 @ patients)
    errors = []
    if len(folds) > 1:
        share = 1 / len(folds) + overlap
        apart = float(np.var(values, ddof=1))
        trainings = max(apart - float(np.mean(patients)), 0.0) * share
        if trainings > draws - both:
            spread = sum((w**2 * p) ** 2 / max(f.freedom, 1) for w, p, f in zip(weights, patients, folds))
            spread += trainings**2 / (len(folds) - 1)
            draws, both = trainings, 0.0
        if apart > 0:
            errors.append(((apart * share) ** 0.5, len(folds) - 1.0))
    variance = max(from_patients + draws - both, from_patients, draws)
    errors.insert(0, (float(variance) ** 0.5, float(variance**2 / spread) if spread > 0 else np.inf))
    units = sum(fold.units for fold in folds)
    found = [
        _bounds(value, error, intervals.quantile(freedom), units, unit_range) for error, freedom in errors
    ]
    low, high = min(low for low, _ in found), max(high for _, high in found)
    return {"value": value, "low": low, "high": high, "errors": errors}


def _bounds(value: float, error: float, z: float, units: int, unit_range: bool) -> intervals.Interval:
    if unit_range and error > 1e-6 and 0 < value < 1:
        return intervals.wilson(value, value * (1 - value) / error**2, z)
    if unit_range:
        return intervals.wilson(value, units, z)
    return value - z * error, value + z * error


def _between(points: Array, boot: Array, sources: Sequence[int] | None) -> tuple[float, float, int]:
    """Variance of the mean by draws, the part of it that patients make too, and its degrees of freedom."""
    own = _of_draws(points, boot)
    if sources is None or not 1 < len(set(sources)) < len(points):
        return own
    at = [np.flatnonzero(np.asarray(sources) == source) for source in dict.fromkeys(sources)]
    shared = _of_draws(np.array([points[i].mean() for i in at]), np.stack([boot[i].mean(axis=0) for i in at]))
    return max(own, shared)


def _of_draws(points: Array, boot: Array) -> tuple[float, float, int]:
    d = len(points)
    if d == 1:
        return 0.0, 0.0, 0
    draws = float(np.var(points, ddof=1)) / d
    return draws, float(np.mean(np.var(boot - points[:, None], axis=0, ddof=1))) / d, d - 1
