"""Which numbers a task is judged by, each as a function of patient weights and with its own interval.

A two-class task is one *column*: a yes/no label with the probability of yes (the second class is yes). A
multi-label task is several columns, and its numbers are the means over them; a multi-class task adds the
columns "this class against the rest" for what needs a ranking. A column whose labels are all alike cannot
be judged: it stands in the notes by name, and means are over the others. Of masks each structure is a column, whose numbers
are means over scans of what ``vitmed.evaluate.masks`` says of each.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from vitmed import words
from vitmed.evaluate import intervals, masks, metrics, thresholds
from vitmed.evaluate.calibration import CalibrationError

Array = np.ndarray

METHODS = {
    "score": "score-type interval of the AUROC by patient (Newcombe 2006, variance by bootstrap)",
    "logit": "on the log odds, bias taken off, variance by bootstrap (Boyd, Eng & Page 2013)",
    "Wilson": "Wilson's score interval at the effective sample size of the bootstrap",
    "MOVER": "combined from the intervals of its parts (Zou & Donner 2008)",
    "bootstrap": "bootstrap bound above; below 0 unless calibrated scores would rarely give so much",
    "percentile": "middle 95% of the resamples",
    "log": "on the logarithm, variance by bootstrap",
}
IN_RANKS = {"rank_mae": metrics.mae, "quadratic_kappa": metrics.quadratic_kappa}  # of ordered classes
CURVES = ("auroc", "average_precision", "sensitivity_at_90_specificity")


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number.

    Attributes:
        name: ``auroc``, or ``auroc/edema`` for one column of several.
        method: which interval it has, for people: a key of ``METHODS``.
        estimate: (r, patients) weights -> (r,) values, nan where not computable. None if there are parts.
        interval: (value, resampled values) -> (low, high). None for MOVER and for the calibration error.
        parts: names of the measures of which this one is the mean.
        null: of the calibration error: (r, patients) signs -> (r,) values were it calibrated.
        patients: how many it rests on: of what rests on two classes those of the rarer one. None if there are parts, or where
            it is not computable.
        freedom: t's degrees of freedom of the patients' variance, where they are known better than as ``patients`` - 1.
    """

    name: str
    method: str
    estimate: Callable[[Array], Array] | None = None
    interval: Callable[[float, Array], intervals.Interval] | None = None
    parts: tuple[str, ...] = ()
    null: Callable[[Array], Array] | None = None
    patients: int | None = None
    freedom: float | None = None

    @property
    def one_patient(self) -> bool:
        """Whether no resample of patients can say what another patient would change."""
        return self.patients == 1


@dataclasses.dataclass(frozen=True)
class Judged:
    """What is judged: scores beside labels, with who each example belongs to.

    Attributes:
        task: "multiclass", "multilabel", "regression" or "segmentation".
        classes: names of the classes, columns or structures.
        score: (n, K) probabilities, or predicted values for regression; (n, 4 K) as ``masks.judge`` gives them.
        label: (n, 1) class indices, or (n, K); of masks the true voxels.
        known: the shape of ``label``, False where the label is missing.
        cluster: (n,) index of the patient.
        threshold: one a column for "yes"; None takes 0.5.
        specific: one a column: the threshold of 90% specificity on validation; None where there is none.
        order: of ordered classes, the class index of each rank, lowest first; () where they have no order.
    """

    task: str
    classes: Sequence[str]
    score: Array
    label: Array
    known: Array
    cluster: Array
    threshold: Sequence[float] | None = None
    specific: Sequence[float | None] | None = None
    order: Sequence[int] = ()

    @property
    def binary(self) -> bool:
        return self.task == "multiclass" and self.score.shape[1] == 2

    @property
    def columns(self) -> list[str]:
        """Names of the yes/no columns that take a threshold; none for several exclusive classes."""
        if self.binary:
            return [self.classes[1]]
        return list(self.classes) if self.task == "multilabel" else []

    def column(self, k: int) -> tuple[Array, Array, Array]:
        """Rows (m,) with a known label, labels (m,) 0/1 and probabilities (m,) of column ``k``."""
        rows = np.flatnonzero(self.known[:, k if self.task == "multilabel" else 0])
        if self.binary:
            return rows, self.label[rows, 0] == 1, self.score[rows, 1]
        return rows, self.label[rows, k] == 1, self.score[rows, k]

    def predicted(self) -> Array:
        """The class said, (n,): by the threshold for two classes, by the largest probability for more.

        Of ordered classes it is the median rank: no class costs less in ranks, on average.
        """
        if self.binary:
            return (self.score[:, 1] >= self.yes(0)).astype(np.int64)
        if len(self.order):
            below = np.cumsum(self.score[:, list(self.order)], axis=1)[:, :-1] < 0.5
            return np.asarray(self.order)[below.sum(axis=1)]
        return np.argmax(self.score, axis=1)

    def yes(self, k: int) -> float:
        """The threshold of column ``k``."""
        return thresholds.DEFAULT if self.threshold is None else self.threshold[k]

    def strict(self, k: int) -> float | None:
        """The threshold of 90% specificity on validation of column ``k``, where there is one."""
        return None if self.specific is None else self.specific[k]


def measures(judged: Judged) -> tuple[list[Measure], list[str]]:
    """All measures of a task, parts before the means over them, and notes on what could not be judged."""
    if judged.task == "regression":
        return _regression(judged)
    if judged.task == "segmentation":
        return _structures(judged)
    if judged.task == "multiclass" and not judged.binary:
        return _exclusive(judged)
    return _yes_no(judged)


def estimates(listed: Sequence[Measure], weight: Array) -> dict[str, Array]:
    """Every measure under patient weights (r, patients): name -> (r,)."""
    found: dict[str, Array] = {}
    for measure in _parts_first(listed):
        if measure.parts:
            found[measure.name] = np.mean([found[part] for part in measure.parts], axis=0)
        else:
            found[measure.name] = measure.estimate(weight)
    return found


def bounds(
    listed: Sequence[Measure],
    value: dict[str, float],
    resampled: dict[str, Array],
    signs: Iterable[Array],
) -> dict[str, intervals.Interval | None]:
    """Every measure's interval: name -> (low, high), None where no resample or no value could be computed.

    Nor has a measure one that rests on one patient, or a mean with such a part, unless it is Wilson's, which counts patients.

    Args:
        listed: measures with all of their parts.
        value: of each measure.
        resampled: (r,) of each measure in the resamples of patients.
        signs: chunks (s, patients) as ``intervals.signs`` gives them.
    """
    alone = [measure for measure in listed if measure.null is not None]
    null = {m.name: [] for m in alone}
    for chunk in signs if alone else ():
        for measure in alone:
            null[measure.name].append(measure.null(chunk))
    null = {name: np.concatenate(parts) for name, parts in null.items()}
    found: dict[str, intervals.Interval | None] = {}
    for measure in _parts_first(listed):
        name, parts = measure.name, measure.parts
        if not np.isfinite(value[name]) or not np.isfinite(resampled[name]).any():
            found[name] = None
        elif any(found[p] is None for p in parts) or (measure.one_patient and measure.method != "Wilson"):
            found[name] = None
        elif measure.method == "MOVER":
            found[name] = intervals.mean_interval(
                [value[p] for p in parts], [found[p] for p in parts], [resampled[p] for p in parts]
            )
        elif measure.method == "bootstrap":
            if parts:
                null[name] = np.mean([null[p] for p in parts], axis=0)
            found[name] = intervals.calibration_interval(value[name], resampled[name], null[name])
        else:
            found[name] = measure.interval(value[name], resampled[name])
    return found


def with_parts(listed: Sequence[Measure], names: Sequence[str]) -> list[Measure]:
    """The measures called ``names`` and, before them, all that they are means of."""
    known, found = {measure.name: measure for measure in listed}, {}
    for name in names:
        for measure in with_parts(listed, known[name].parts):
            found[measure.name] = measure
        found[name] = known[name]
    return list(found.values())


def _parts_first(listed: Sequence[Measure]) -> list[Measure]:
    return with_parts(listed, [measure.name for measure in listed])


def _yes_no(judged: Judged) -> tuple[list[Measure], list[str]]:
    """One yes/no column, or several and the means over them."""
    names = judged.columns
    if len(names) == 1:
        rows, label, score = judged.column(0)
        found = _column(label, score, judged.cluster[rows], judged.yes(0), judged.strict(0))
        which = f"all {len(rows)} labels are {'' if label[0] else 'not '}{names[0]}"
        alike = f"{which}: what needs both classes is not computable"
        return found, [] if label.any() and not label.all() else [alike]
    made, left_out = [], []
    for k, name in enumerate(names):
        rows, label, score = judged.column(k)
        if not label.any() or label.all():
            why = "no label" if not len(rows) else "all positive" if label[0] else "all negative"
            left_out.append(f"{name} ({why})")
            continue
        column = _column(label, score, judged.cluster[rows], judged.yes(k), judged.strict(k))
        made += [_of(measure, name) for measure in column]
    return made + _means(dict.fromkeys(m.name.partition("/")[0] for m in made), made), _not_judged(
        left_out, made
    )


def _column(label: Array, score: Array, cluster: Array, yes: float, strict: float | None) -> list[Measure]:
    """The measures of one yes/no column at the thresholds ``yes`` and, if there is one, ``strict``."""
    said = score >= yes
    positives, negatives = (len(np.unique(cluster[label == side])) for side in (True, False))
    rarer = min(positives, negatives)

    freedom = intervals.freedom(label, score, cluster) if rarer else None

    def proportion(name, function, patients, freedom=None):
        return _proportion(name, lambda w: function(weight=w[:, cluster]), patients, freedom)

    found = [
        Measure(
            "auroc",
            "score",
            lambda w: metrics.auroc(label, score, w[:, cluster]),
            lambda value, resampled: intervals.auroc_interval(label, score, cluster, resampled),
            patients=rarer,
            freedom=freedom,
        ),
        Measure(
            "average_precision",
            "logit",
            lambda w: metrics.average_precision(label, score, w[:, cluster]),
            lambda value, resampled: intervals.precision_interval(
                value, resampled, label, score, cluster, max(rarer, 1)
            ),
            patients=rarer,
            freedom=freedom,
        ),
        proportion("accuracy", partial(metrics.accuracy, label, said), len(np.unique(cluster))),
        Measure("balanced_accuracy", "MOVER", parts=("sensitivity", "specificity")),
        proportion("f1", partial(metrics.f1, label, said, 1), rarer, freedom),
        proportion("sensitivity", partial(metrics.recall, label, said, 1), positives),
        proportion("specificity", partial(metrics.recall, label, said, 0), negatives),
        proportion(
            "sensitivity_at_90_specificity",
            partial(metrics.sensitivity_at_specificity, label, score, 0.9),
            rarer,
            freedom,
        ),
    ]
    if strict is not None:
        for name, k, patients in (("sensitivity", 1, positives), ("specificity", 0, negatives)):
            at = partial(metrics.recall, label, score >= strict, k)
            found.append(proportion(f"{name}_at_validation_90_specificity", at, patients))
    return [*found, _calibration(label, score, cluster)]


def _exclusive(judged: Judged) -> tuple[list[Measure], list[str]]:
    """Three or more classes that exclude each other."""
    label, said, cluster = judged.label[:, 0].astype(np.int64), judged.predicted(), judged.cluster
    present = np.unique(label)
    patients = [len(np.unique(cluster[label == k])) for k in present]
    made: list[Measure] = []
    for k, n in zip(present, patients, strict=True):
        one_rest = None
        if len(present) > 1:
            one_rest = intervals.freedom(label == k, judged.score[:, k], cluster)
            column = _column(label == k, judged.score[:, k], cluster, thresholds.DEFAULT, None)
            made += [_of(m, judged.classes[k]) for m in column if m.name in CURVES]
        for name, function, freedom in (("sensitivity", metrics.recall, None), ("f1", metrics.f1, one_rest)):
            at = partial(function, label, said, int(k))
            estimate = partial(_at_patients, at, cluster)
            made.append(_proportion(f"{name}/{judged.classes[k]}", estimate, n, freedom))
    made += _means(CURVES, made)
    accuracy = partial(_at_patients, partial(metrics.accuracy, label, said), cluster)
    made.append(_proportion("accuracy", accuracy, len(np.unique(cluster))))
    recalls = tuple(m.name for m in made if m.name.startswith("sensitivity/"))
    made.append(
        Measure("balanced_accuracy", "MOVER", parts=recalls)
        if len(recalls) > 1
        else _nothing("balanced_accuracy")
    )
    made += _means(["f1"], made)
    if len(judged.order):
        ranks = np.argsort(judged.order)
        for name, function in IN_RANKS.items():
            estimate = partial(_at_rows, ranks[label], ranks[said], cluster, function)
            made.append(
                Measure(
                    name,
                    "percentile",
                    estimate,
                    intervals.percentile_interval,
                    patients=len(np.unique(cluster)),
                )
            )
    made.append(_calibration(label == said, judged.score[np.arange(len(said)), said], cluster))
    return made, _not_judged(
        [f"{c} (no example)" for k, c in enumerate(judged.classes) if k not in present], made
    )


def _regression(judged: Judged) -> tuple[list[Measure], list[str]]:
    """Errors and correlations of each column, and their means where there are several."""
    several = len(judged.classes) > 1
    made, left_out, names = [], [], ("mae", "rmse", "r2", "pearson")
    for k, column in enumerate(judged.classes):
        rows = np.flatnonzero(judged.known[:, k])
        if not len(rows):
            left_out.append(f"{column} (no label)")
            continue
        at = partial(_at_rows, judged.label[rows, k], judged.score[rows, k], judged.cluster[rows])
        patients = len(np.unique(judged.cluster[rows]))
        alike = np.ptp(judged.label[rows, k]) == 0
        if alike:
            left_out.append(f"R2 and correlation of {column} (all labels are equal)")
        for name in names[:2] if alike else names:
            estimate = partial(at, getattr(metrics, name))
            shown = f"{name}/{column}" if several else name
            percentile = intervals.percentile_interval
            made.append(Measure(shown, "percentile", estimate, percentile, patients=patients))
    return made + (_means(names, made) if several else []), _not_judged(left_out, made)


def _structures(judged: Judged) -> tuple[list[Measure], list[str]]:
    """Dice, NSD and HD95 of each structure, means over the scans that count for it, and their means over structures."""
    made, left_out, notes, names = [], [], [], masks.QUANTITIES[:3]
    counted = masks.failures(judged.score, judged.label, judged.known, judged.classes)
    for k, structure in enumerate(judged.classes):
        count = counted[structure]
        if not count["scans"]:
            left_out.append(f"{structure} (in no scan)")
            continue
        if count["invented"] == count["scans"]:  # else what was predicted would decide what a mean is over
            invented = words.plural(count["invented"], "scan")
            left_out.append(f"{structure} (marked in no scan, predicted in {invented})")
            continue
        notes += _failed(structure, count)
        for j, name in enumerate(names):
            value = judged.score[:, j * len(judged.classes) + k]
            rows = np.flatnonzero(judged.known[:, k] & np.isfinite(value))
            estimate = partial(_mean_at, value[rows], judged.cluster[rows])
            patients = max(len(np.unique(judged.cluster[rows])), 1)
            if name == "hd95":
                interval = partial(intervals.positive_interval, patients=patients)
                made.append(Measure(f"{name}/{structure}", "log", estimate, interval, patients=patients))
            else:
                made.append(_proportion(f"{name}/{structure}", estimate, patients))
    return made + _means(names, made), notes + _not_judged(left_out, made)


def _failed(structure: str, count: dict[str, int]) -> list[str]:
    """What is to be said of the scans in which a structure does not count, or which fail."""
    notes = []
    if count["neither"] and count["scans"]:
        notes.append(
            f"{structure}: {words.plural(count['neither'], 'scan does', 'scans do')} not count, neither marked nor predicted"
        )
    failed = [f"missed in {words.plural(count['missed'], 'scan')}"] if count["missed"] else []
    failed += (
        [f"predicted in {words.plural(count['invented'], 'scan that has', 'scans that have')} none"]
        if count["invented"]
        else []
    )
    if failed:
        rest = count["scans"] - count["missed"] - count["invented"]
        mean = f"the mean over the other {rest}" if rest else "not computable"
        notes.append(
            f"{structure}: {' and '.join(failed)}; Dice and NSD are 0 there, and HD95, infinite there, is {mean}"
        )
    return notes


def _mean_at(value: Array, cluster: Array, weight: Array) -> Array:
    return metrics.mean(value, weight[:, cluster])


def _at_rows(label: Array, value: Array, cluster: Array, function, weight: Array) -> Array:
    return function(label, value, weight[:, cluster])


def _at_patients(function, cluster: Array, weight: Array) -> Array:
    return function(weight=weight[:, cluster])


def _of(measure: Measure, column: str) -> Measure:
    """The measure as that of one column among several."""
    parts = tuple(f"{part}/{column}" for part in measure.parts)
    return dataclasses.replace(measure, name=f"{measure.name}/{column}", parts=parts)


def _nothing(name: str) -> Measure:
    """What cannot be computed, in this split and in every resample."""
    return Measure(name, "MOVER", lambda w: np.full(len(w), np.nan))


def _proportion(
    name: str, estimate: Callable[[Array], Array], patients: int, freedom: float | None = None
) -> Measure:
    interval = partial(intervals.proportion_interval, patients=max(patients, 1), freedom=freedom)
    return Measure(name, "Wilson", estimate, interval, patients=patients, freedom=freedom)


def _calibration(hit: Array, probability: Array, cluster: Array) -> Measure:
    used, index = np.unique(cluster, return_inverse=True)
    error = CalibrationError(hit, probability, index)
    return Measure(
        "ece",
        "bootstrap",
        lambda w: error(w[:, used]),
        null=lambda s: error.null(s[:, used]),
        patients=len(used),
    )


def _means(names: Sequence[str], made: Sequence[Measure]) -> list[Measure]:
    """For each name the mean over its columns that could be judged; nan where there is none."""
    means = []
    for name in names:
        parts = [measure for measure in made if measure.name.startswith(f"{name}/")]
        if not parts:
            means.append(_nothing(name))
        elif parts[0].method in ("bootstrap", "percentile", "log"):
            # Some columns rest on fewer patients than others: the mean is no surer than the least sure of them.
            whole = Measure(name, parts[0].method, interval=_widest([m.interval for m in parts]))
            means.append(dataclasses.replace(whole, parts=tuple(m.name for m in parts)))
        else:
            means.append(Measure(name, "MOVER", parts=tuple(m.name for m in parts)))
    return means


def _widest(made: Sequence[Callable | None]) -> Callable | None:
    """The interval that reaches as far either way as any of these; None where one of them is none."""
    if None in made:
        return None

    def interval(value: float, resampled: Array) -> intervals.Interval:
        low, high = zip(*(one(value, resampled) for one in made), strict=True)
        return min(low), max(high)

    return interval


def _not_judged(columns: list[str], made: Sequence[Measure]) -> list[str]:
    if not columns:
        return []
    return [f"not computable: {', '.join(columns)}" + ("; means are over the others" if made else "")]
