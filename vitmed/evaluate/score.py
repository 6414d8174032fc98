"""From logits and labels to the numbers of a task, each with its interval: no model and no file needed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import expit, softmax

from vitmed import words
from vitmed.errors import InputError
from vitmed.evaluate import intervals, metrics, thresholds
from vitmed.evaluate.measures import METHODS, Judged, Measure, bounds, estimates, measures

Array = np.ndarray

RESAMPLES = 2000
FEW = 5  # patients; of fewer, in a class, the coverage table of ``intervals`` has none
_WIDE = 0.05  # share of resamples that may lack a number before the notes say so


def score(
    task: str,
    classes: list[str],
    logits: Array,
    label: Array,
    label_weight: Array,
    patients: list[str] | None,
    val: tuple[Array, Array, Array] | dict | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    order: Sequence[int] = (),
) -> dict:
    """The numbers of one split.

    Args:
        task: "multiclass", "multilabel", "regression" or "segmentation".
        classes: names of the classes, columns or structures.
        logits: (n, K) the model's scores; predicted values for regression; for masks (n, 4 K) and, as ``label``, (n, K)
            voxels, as ``masks.judge`` gives them.
        label: (n, 1) class indices (multiclass) or (n, K).
        label_weight: the shape of ``label``, 0 where the label is missing.
        patients: (n,) names, "" where unknown; None where no patient is known.
        val: logits, label and label_weight of the validation split, from which thresholds are chosen; or what
            ``chosen`` made of them.
        seed: of the bootstrap.
        resamples: how many.
        order: of ordered classes, the class index of each rank, lowest first: their numbers in ranks come too.

    Returns:
        ``examples`` (those with a label), ``patients`` (None where unknown), ``metrics`` {name: {"value",
        "low", "high", "interval"}} with None where not computable, as no interval of one patient is (``interval`` is the
        kind, a key of ``measures.METHODS``), ``threshold`` and ``threshold_90_specificity``
        ({column: number}, None where there is no threshold), ``threshold_from`` ("val", "default" or
        None), ``confusion`` (None for regression and masks), ``intervals`` ({kind: what it is} of those used), ``bootstrap``
        and ``notes``.

    Raises:
        InputError: no example has a label, or a score is not finite.
    """
    probability = probabilities(task, logits)
    known = np.asarray(label_weight) > 0
    rows = np.flatnonzero(known.any(axis=1))
    if not len(rows):
        raise InputError("no example of the split has a label; nothing can be evaluated")
    cluster, count, notes = clusters(patients, rows)
    if len(rows) < len(known):
        what = "mask" if task == "segmentation" else "label"
        notes.append(f"{len(known) - len(rows)} of {len(known)} examples have no {what} and are left out")
    judged = Judged(
        task, classes, probability[rows], np.asarray(label)[rows], known[rows], cluster, order=order
    )
    judged, source = _with_thresholds(judged, val, notes)
    listed, more = measures(judged)
    numbers, lacking = _numbers(listed, int(cluster.max()) + 1, len(rows), resamples, seed)
    if len(order):
        notes.append(f"ranks are {' < '.join(classes[k] for k in order)}; the class said is the median rank")
    if judged.binary:
        notes.append(f"the positive class is {classes[1]!r}")
    if lacking:
        notes.append(f"resamples without a class are left out of the intervals of {', '.join(lacking)}")
    return {
        "examples": len(rows),
        "patients": count,
        "metrics": numbers,
        **_told(judged),
        "threshold_from": source,
        "confusion": _confusion(judged),
        "intervals": {
            kind: text
            for kind, text in METHODS.items()
            if any(number["interval"] == kind for number in numbers.values())
        },
        "bootstrap": {
            "unit": "image" if count is None else "patient",
            "units": int(cluster.max()) + 1,
            "seed": seed,
            "resamples": resamples,
            "level": intervals.LEVEL,
        },
        "notes": more + notes,
    }


def probabilities(task: str, logits: Array) -> Array:
    """Scores (n, K) as float64 probabilities: softmax, logistic by column, or as they are (regression, masks).

    Raises:
        InputError: a score that is not finite.
    """
    logits = np.asarray(logits, np.float64)
    if task == "segmentation":
        return logits
    broken = int(np.sum(~np.isfinite(logits).all(axis=1)))
    if broken:
        raise InputError(
            f"the scores of {broken} of {len(logits)} examples are not finite; train the run again"
        )
    return {"multiclass": lambda x: softmax(x, axis=1), "multilabel": expit, "regression": lambda x: x}[task](
        logits
    )


def clusters(patients: list[str] | None, rows: Array) -> tuple[Array, int | None, list[str]]:
    """What a resample draws: the patient's index of each of ``rows``, the number of patients, notes.

    A scan of an unknown patient is one by itself; where none is known the number is None.
    """
    if patients is None or not any(patients[i] for i in rows):
        note = "no patient is known: intervals are by image and probably too narrow"
        return np.arange(len(rows)), None, [note]
    names = [(patients[i], "") if patients[i] else ("", i) for i in rows]
    index: dict[tuple, int] = {}
    cluster = np.array([index.setdefault(name, len(index)) for name in names])
    unknown = sum(not patients[i] for i in rows)
    notes = []
    if unknown:
        notes.append(
            f"the patient of {words.plural(unknown, 'example')} is unknown: each counts as one, intervals may be too narrow"
        )
    return cluster, len(index), notes + few(len(index))


def few(patients: int) -> list[str]:
    """What is to be said of intervals over so few patients; [] where they are not few."""
    if patients == 1:
        return ["only one patient: there are no intervals"]
    return (
        [f"only {words.plural(patients, 'patient')}: intervals may be too narrow"] if patients < FEW else []
    )


def chosen(task: str, classes: list[str], val: tuple[Array, Array, Array]) -> dict:
    """The thresholds that validation gives: ``threshold`` and ``threshold_90_specificity`` as ``score`` returns them.

    Args:
        val: logits, label and label_weight of the validation split.
    """
    none = np.zeros((1, val[1].shape[1]))
    judged = Judged(task, classes, probabilities(task, val[0][:1]), none, none > 0, np.zeros(1, np.int64))
    judged, _ = _with_thresholds(judged, val, [])
    return _told(judged)


def _told(judged: Judged) -> dict:
    def by_column(values):
        return dict(zip(judged.columns, values, strict=True)) if values else None

    return {"threshold": by_column(judged.threshold), "threshold_90_specificity": by_column(judged.specific)}


def _with_thresholds(judged: Judged, val: tuple | dict | None, notes: list[str]) -> tuple[Judged, str | None]:
    """``judged`` with thresholds from validation where it has both classes, else 0.5; and their source."""
    if not judged.columns:
        return judged, None
    if isinstance(val, dict):
        usual, specific = ([val[key][name] for name in judged.columns] for key in _told(judged))
        return dataclasses.replace(judged, threshold=usual, specific=specific), "val"
    usual, specific = [], []
    if val is not None:
        known = np.asarray(val[2]) > 0
        scores = probabilities(judged.task, val[0])
        seen = Judged(judged.task, judged.classes, scores, np.asarray(val[1]), known, np.arange(len(known)))
    for k in range(len(judged.columns)):
        rows, label, score = seen.column(k) if val is not None else ((), np.zeros(0, bool), None)
        both = label.any() and not label.all()
        usual.append(thresholds.balanced(label, score) if both else thresholds.DEFAULT)
        specific.append(thresholds.at_specificity(label, score) if both else None)
    without = [name for name, found in zip(judged.columns, specific, strict=True) if found is None]
    if without:
        why = (
            "there is no labelled validation split" if val is None else "validation lacks one of the classes"
        )
        notes.append(f"{why}: the threshold of {', '.join(without)} is {thresholds.DEFAULT}")
    made = dataclasses.replace(judged, threshold=usual, specific=specific)
    return made, "default" if len(without) == len(usual) else "val"


def _numbers(
    listed: list[Measure], patients: int, examples: int, count: int, seed: int
) -> tuple[dict, list[str]]:
    """Every measure with its interval, and the names of those that many resamples could not give."""
    value = {name: float(x[0]) for name, x in estimates(listed, np.ones((1, patients))).items()}
    chunks = [estimates(listed, w) for w in intervals.resamples(patients, examples, count, seed)]
    resampled = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in value}
    found = dict.fromkeys(value)
    if patients > 1:
        found = bounds(listed, value, resampled, intervals.signs(patients, examples, count, seed))
    numbers, lacking = {}, []
    for measure in sorted(listed, key=lambda m: "/" in m.name):
        name = measure.name
        low, high = found[name] or (None, None)
        known = bool(np.isfinite(value[name]))
        by = measure.method if found[name] else None
        numbers[name] = {"value": value[name] if known else None, "low": low, "high": high, "interval": by}
        if known and np.mean(~np.isfinite(resampled[name])) > _WIDE:
            lacking.append(name)
    return numbers, lacking


def _confusion(judged: Judged) -> dict | None:
    """Counts, row the truth and column the prediction; one 2 x 2 table a column for several columns."""
    if judged.task in ("regression", "segmentation"):
        return None
    if judged.task == "multiclass":
        counts = metrics.confusion(judged.label[:, 0], judged.predicted(), len(judged.classes))
        return {"classes": list(judged.classes), "counts": counts.tolist()}
    tables = {}
    for k, name in enumerate(judged.columns):
        _, label, score = judged.column(k)
        tables[name] = metrics.confusion(label, score >= judged.yes(k), 2).tolist()
    return {"columns": tables}
