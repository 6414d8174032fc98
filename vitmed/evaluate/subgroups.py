"""The same numbers for each group of a split (each site, each scanner), to see where a model is weaker.

Thresholds stay those of the whole validation split, as in use. A group of a handful of patients is said to
be too small and has no numbers: an interval from almost nothing reads as a finding all the same.
"""

from collections.abc import Sequence

import numpy as np

from vitmed import words
from vitmed.evaluate.score import clusters, score

Array = np.ndarray

SMALLEST = 10  # patients of a group
SMALLEST_CLASS = 5  # of them with each class; the fewest that the coverage table was made with
NOTE = "intervals of groups are not widened for there being several: of many, some differ by chance alone"


def subgroups(
    groups: list[str],
    task: str,
    classes: list[str],
    logits: Array,
    label: Array,
    label_weight: Array,
    patients: list[str] | None,
    val: tuple[Array, Array, Array] | None = None,
    seed: int = 0,
    order: Sequence[int] = (),
) -> list[dict]:
    """The numbers of each group, in the order of their names, the unknown one last.

    Args:
        groups: (n,) the group of each example, "" where unknown.
        task, classes, logits, label, label_weight, patients, val, seed, order: as for ``score``.

    Returns:
        For each group ``group`` (its name, "" unknown), ``examples`` (with a label), ``patients`` (None
        where unknown), ``too_small`` (why there are no numbers, or None), ``metrics`` (as ``score`` gives
        them; {} if too small) and ``notes``. A column of a multi-label task with too few patients in a group
        is left out of the group's means and named in its notes.
    """
    found = []
    for name in sorted(set(groups), key=lambda group: (group == "", group)):
        rows = np.flatnonzero([group == name for group in groups])
        weight = np.array(label_weight[rows], np.float32)
        who = None if patients is None else [patients[i] for i in rows]
        known = np.flatnonzero((weight > 0).any(axis=1))
        count, why, notes = (None if who is None else 0), None, []
        if len(known):
            cluster, count, _ = clusters(who, known)
            units = np.zeros(len(rows), np.int64)
            units[known] = cluster
            why = _too_few(len(np.unique(cluster)), "patient" if count is not None else "scan")
            if why is None and task == "multiclass":
                why = _rare_class(classes, label[rows, 0], weight[:, 0], units)
            if why is None and task == "multilabel":
                rare = _rare_columns(classes, label[rows], weight, units)
                weight[:, [k for k, _ in rare]] = 0
                notes = [f"too few patients: {', '.join(text for _, text in rare)}"] if rare else []
                why = notes[0] if not weight.any() else None
        else:
            why = "no label"
        group = {"group": name, "examples": len(known), "patients": count, "too_small": why}
        if why is None:
            result = score(task, classes, logits[rows], label[rows], weight, who, val, seed, order=order)
            group |= {"metrics": result["metrics"], "notes": notes + result["notes"]}
        found.append({"metrics": {}, "notes": [], **group})
    return found


def _too_few(n: int, unit: str) -> str | None:
    return None if n >= SMALLEST else f"{words.plural(n, unit)}; at least {SMALLEST} are needed"


def _rare_class(classes: list[str], label: Array, weight: Array, units: Array) -> str | None:
    """The first class with too few patients, said; a mean over the other classes would be another number."""
    for k, name in enumerate(classes):
        n = len(np.unique(units[(weight > 0) & (label == k)]))
        if n < SMALLEST_CLASS:
            return f"{n} with {name}; at least {SMALLEST_CLASS} are needed"
    return None


def _rare_columns(classes: list[str], label: Array, weight: Array, units: Array) -> list[tuple[int, str]]:
    """Index of each column with too few patients on one of its sides, and how many there are."""
    found = []
    for k, name in enumerate(classes):
        for side, word in ((1, "with"), (0, "without")):
            n = len(np.unique(units[(weight[:, k] > 0) & (label[:, k] == side)]))
            if n < SMALLEST_CLASS:
                found.append((k, f"{n} {word} {name}"))
                break
    return found
