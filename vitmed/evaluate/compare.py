"""Numbers over several trainings: one arm's mean over its draws, and the paired difference of two arms.

A draw is one training: its labels drawn and its seed. Both the draws and the test patients are samples, and
every draw is judged on the same patients, so the two are crossed. The variance of the mean over draws is

    V = V_patients + V_draws - V_both

V_patients: of the mean over draws, in a bootstrap of the patients. V_draws: the variance between the
draws, over their number. V_both: of what is peculiar to a draw on a patient, which the first two each hold
once. This is how readers and cases are taken apart in diagnostic studies (Obuchowski & Rockette 1995;
Gallas et al. 2009), and bootstrapping draws and patients at once without the correction counts V_both
three times (Owen 2007, "The pigeonhole bootstrap"). Percentiles over three draws would be too narrow by a
fifth before anything else: the quantile is Student's t with Satterthwaite's degrees of freedom.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vitmed.errors import InputError
from vitmed.evaluate import intervals
from vitmed.evaluate.measures import IN_RANKS, Judged, estimates, measures, with_parts
from vitmed.evaluate.score import RESAMPLES, clusters

Array = np.ndarray
Thresholds = Sequence[dict[str, float] | None] | None


def over_draws(
    metric: str,
    scores: Sequence[Array],
    label: Array,
    patients: list[str] | None,
    *,
    task: str,
    classes: Sequence[str],
    label_weight: Array | None = None,
    thresholds: Thresholds = None,
    order: Sequence[int] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """The mean of a metric over draws, with its interval over draws and patients.

    Args:
        metric: a key of ``metrics`` that ``score`` gives for this task.
        scores: d arrays (n, K) of probabilities (values for regression) on the same examples.
        label: (n, 1) class indices or (n, K).
        patients: (n,) names, "" where unknown; None where no patient is known (then by image).
        task: "multiclass", "multilabel" or "regression".
        classes: names of the classes or columns.
        label_weight: 0 where a label is missing; None: all are known.
        thresholds: one a draw, as ``score`` gives it under ``threshold``; None takes 0.5.
        order: of ordered classes, as for ``score``.
        seed: of the bootstrap.
        resamples: how many.

    Returns:
        ``value``, ``low``, ``high`` (None where not computable), ``draws``, ``patients`` (None where
        unknown). Of one draw the interval is over patients alone: what another draw would give cannot be
        seen.

    Raises:
        InputError: the task has no such metric, or no example has a label.
    """
    points, boot, count = _draws(
        metric, scores, thresholds, label, patients, task, classes, label_weight, order, seed, resamples
    )
    return {
        **_interval(points, boot, count[0], _in_unit_range(task, metric)),
        "draws": len(scores),
        "patients": count[1],
    }


def paired_difference(
    metric: str,
    scores_a: Sequence[Array],
    scores_b: Sequence[Array],
    label: Array,
    patients: list[str] | None,
    *,
    task: str,
    classes: Sequence[str],
    label_weight: Array | None = None,
    thresholds_a: Thresholds = None,
    thresholds_b: Thresholds = None,
    order: Sequence[int] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """The mean over draws of metric(a) - metric(b), draw by draw on the same resampled patients.

    Arguments, returns and raises as in ``over_draws``; both arms have the same number of draws.
    """
    if len(scores_a) != len(scores_b):
        raise InputError(
            f"the arms have {len(scores_a)} and {len(scores_b)} draws; a paired difference needs equally many"
        )
    rest = (label, patients, task, classes, label_weight, order, seed, resamples)
    a, boot_a, count = _draws(metric, scores_a, thresholds_a, *rest)
    b, boot_b, _ = _draws(metric, scores_b, thresholds_b, *rest)
    return {
        **_interval(a - b, boot_a - boot_b, count[0], False),
        "draws": len(scores_a),
        "patients": count[1],
    }


def _draws(metric, scores, thresholds, label, patients, task, classes, label_weight, order, seed, resamples):
    """The metric of each draw (d,), in each resample (d, r), and the numbers of units and of patients."""
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
        [estimates(c, w)[metric] for c in chosen]
        for w in intervals.resamples(units, len(rows), resamples, seed)
    ]
    return points, np.concatenate(chunks, axis=1), (units, count)


def _interval(points: Array, boot: Array, units: int, unit_range: bool) -> dict:
    """Mean of ``points`` (d,) with its interval; ``boot`` (d, r) is the same in resamples of patients."""
    boot = boot[:, np.isfinite(boot).all(axis=0)]
    if not np.isfinite(points).all() or not boot.shape[1]:
        return {"value": None, "low": None, "high": None}
    d, value = len(points), float(points.mean())
    patients = float(np.var(boot.mean(axis=0)))
    draws = float(np.var(points, ddof=1)) / d if d > 1 else 0.0
    both = float(np.mean(np.var(boot - points[:, None], axis=0, ddof=1))) / d if d > 1 else 0.0
    variance = max(patients + draws - both, patients, draws)
    spread = patients**2 / max(units - 1, 1) + draws**2 / max(d - 1, 1)
    z = intervals.quantile(variance**2 / spread if spread > 0 else np.inf)
    if unit_range and variance > 1e-12 and 0 < value < 1:
        low, high = intervals.wilson(value, value * (1 - value) / variance, z)
    elif unit_range:
        low, high = intervals.wilson(value, units, z)
    else:
        low, high = value - z * variance**0.5, value + z * variance**0.5
    return {"value": value, "low": low, "high": high}


def _in_unit_range(task: str, metric: str) -> bool:
    return task != "regression" and metric not in IN_RANKS
