"""A label budget: which examples of a split keep their labels when only so many may be had.

The labelled examples are put in one order, and a budget takes the head of it. So a smaller budget lies inside
a larger one of the same draw, and curves over budgets compare like with like. The order is

1. of units, not images: a unit is a patient where patients are known, since an annotator who opens a patient
   labels all of its scans and since scans of one patient are no independent labels;
2. headed by a few units that together show every class, rarest class first;
3. then stratified: the r-th unit of a stratum of m comes at a random time between r / m and (r + 1) / m, so
   that every head holds each stratum in proportion to within one unit, and small strata not later than large.

Strata are classes, sets of findings, or tenths of a regressed value. Of masks, a scan is labelled where anything of it
is marked, and what it shows is the structures in it. What is random is a keyed hash of the
unit's name, so that a draw is the same in every version of NumPy.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.data.structures import class_table, structures_of
from vitmed.errors import InputError
from vitmed.scans.layout import UNMARKED

TENTHS = 10
_STRUCTURES = "structures"  # as a task beside those of labels
_OF_A_STUDY = " (of a study in config.study.budgets)"


def labelled(
    dataset: Dataset,
    split: str,
    labels: int | float | None,
    seed: int,
    masks: bool = False,
    left_out: Sequence[int] = (),
) -> np.ndarray:
    """Indices of the examples whose labels the budget pays for.

    Args:
        labels: an int counts examples; a float in (0, 1] is a fraction of the labelled examples; None is all
            of them. Patients are taken whole and the budget is never exceeded, so fewer may be given.
        seed: of the draw.
        masks: whether it pays for masks, and not for labels of whole scans.
        left_out: examples that nothing learns from, such as copies of test scans (``data.apart``). They have no place
            in the order: what is drawn is learned from, and no label is paid for in vain.

    Returns:
        (m,) int64, sorted, each with at least one known label, or a mask.

    Raises:
        InputError: no labels or those of one class alone, a budget out of range or larger than the set, or too small to show
            every class.
    """
    annotated = np.setdiff1d(known(dataset, split, masks), left_out)
    if not len(annotated):
        raise InputError(
            f"every scan of split {split!r} of {dataset.path} with {'a mask' if masks else 'a label'} is a copy of one "
            "that config.data.apart names; take splits out of it, or ingest with --dedupe"
        )
    if not masks and dataset.datasheet["task"] == "multiclass":
        _check_classes(dataset, split, annotated)
    if labels is None:
        return annotated
    task, values, weight = values_of(dataset, split, masks)
    budget = _count(labels, len(annotated), f"split {split!r} of {dataset.path}")
    names, units = units_of(dataset, split, annotated, seed)
    shown = [_shown(task, values[unit], weight[unit]) for unit in units]
    head = _head(shown)
    needed = sum(len(units[u]) for u in head)
    if budget < needed:
        seen = len(set().union(*shown))
        kinds = {"multiclass": f"{seen} classes", _STRUCTURES: "every structure"}
        what = kinds.get(task, "every finding, present and absent")
        raise InputError(
            f"config.data.labels is {labels} ({budget} of {len(annotated)} examples), too few to show {what} "
            f"of {dataset.path}; give at least {needed} examples{_OF_A_STUDY}"
        )
    jitter = [_uniform(f"time {seed} {name}") for name in names]
    rest = _by_time(_strata(task, shown, units, values, weight), jitter, set(head))
    taken = np.cumsum([len(units[u]) for u in head + rest])
    chosen = (head + rest)[: np.searchsorted(taken, budget, side="right")]
    if not chosen:
        raise InputError(
            f"config.data.labels is {labels} ({budget} of {len(annotated)} examples), less than the "
            f"{len(units[rest[0]])} scans of the first patient drawn; give at least that many{_OF_A_STUDY}"
        )
    return np.sort(np.concatenate([units[u] for u in chosen]))


def known(dataset: Dataset, split: str, masks: bool = False) -> np.ndarray:
    """Indices of the examples with a known label, or a mask; (m,) int64, sorted.

    Raises:
        InputError: there are none.
    """
    found = marked(dataset, split) if masks else np.flatnonzero((dataset.labels(split)[1] > 0).any(axis=1))
    if not len(found):
        remedy = "no masks; ingest it with some (a manifest's column mask, nnU-Net's labelsTr, DICOM SEG)"
        raise InputError(
            f"split {split!r} of {dataset.path} has "
            f"{remedy if masks else 'no labels; ingest it with --labels or --label-from'}"
        )
    return found


def marked(dataset: Dataset, split: str) -> np.ndarray:
    """Indices of the examples with a mask that says anything, if only that all is background; (m,) int64, sorted."""
    sheet = dataset.datasheet
    if (sheet.get("marked") or {}).get("scans") == sum(sheet.get("examples", {}).values()):
        return np.arange(dataset.size(split))  # the datasheet says it all, without a mask being read
    return np.flatnonzero(dataset.marked(split)[:, :UNMARKED].any(axis=1))


def fold(
    dataset: Dataset, split: str, chosen: np.ndarray, fold: tuple[int, int], seed: int, masks: bool = False
) -> np.ndarray:
    """Which of the ``chosen`` examples the k-th of n parts holds, ``fold`` being (k, n), k from 0.

    Units go whole into one part, and every part has its share of each stratum. No label of another example is read.

    Returns:
        (m,) int64, sorted.

    Raises:
        InputError: too few units for every part, and what remains without it, to show every class.
    """
    k, n = fold
    task, values, weight = values_of(dataset, split, masks)
    _, units = units_of(dataset, split, chosen, seed)
    strata = _strata(task, [_shown(task, values[u], weight[u]) for u in units], units, values, weight)
    order = sorted(
        range(len(units)), key=lambda u: (sorted(strata[u]) if task != "regression" else strata[u], u)
    )
    parts = [[units[u] for u in order[part::n]] for part in range(n)]
    every = _shown(task, values[chosen], weight[chosen])
    for part in parts:
        if not part or _shown(task, values[np.concatenate(part)], weight[np.concatenate(part)]) != every:
            raise InputError(
                f"{n} folds of the {len(chosen)} labelled scans of split {split!r} of {dataset.path} cannot each show "
                f"{'every class' if task == 'multiclass' else 'all there is'}, which takes {n} labelled patients of "
                "each (scans where none is known); give more labels (config.data.labels), or fewer folds"
            )
    return np.sort(np.concatenate(parts[k]))


def _check_classes(dataset: Dataset, split: str, annotated: np.ndarray) -> None:
    shown = np.unique(dataset.labels(split)[0][annotated, 0])
    if len(shown) == 1:
        names = dataset.datasheet["classes"]
        raise InputError(
            f"split {split!r} of {dataset.path} shows one class alone, {names[int(shown[0])]!r} of "
            f"{', '.join(map(repr, names))}; a classifier needs two: split it otherwise (vitmed ingest --split), or give it "
            "other labels"
        )


def values_of(dataset: Dataset, split: str, masks: bool) -> tuple[str, np.ndarray, np.ndarray]:
    """The task, what is known of each example, and with which weight: (n, K) each."""
    if not masks:
        return dataset.datasheet["task"], *dataset.labels(split)
    structures, held = structures_of(dataset.datasheet), dataset.marked(split)
    class_of = class_table(structures)
    there = [held[:, class_of == k].any(axis=1) for k in range(1, len(structures) + 1)]
    # Only what is there is shown: that a structure is absent, nearly every voxel of any scan shows.
    values = np.array(there, float).reshape(-1, len(held)).T
    return _STRUCTURES, values, values


def _count(labels: int | float, known: int, where: str) -> int:
    if isinstance(labels, float):
        if not 0 < labels <= 1:
            raise InputError(
                f"config.data.labels is {labels}; a float is a fraction in (0, 1], a count of examples an int"
            )
        return int(Fraction(str(labels)) * known + Fraction(1, 2))  # as written: 0.1 is a tenth, halves up
    if not 1 <= labels <= known:
        raise InputError(f"config.data.labels is {labels}; {where} has {known} labelled examples")
    return labels


def units_of(
    dataset: Dataset, split: str, known: np.ndarray, seed: int
) -> tuple[list[str], list[np.ndarray]]:
    """Names and members of the groups of examples that are labelled together, in the draw's order."""
    patients, ids = dataset.patients(split), dataset.ids(split)
    groups: dict[str, list[int]] = {}
    for i in known:
        name = f"patient {patients[i]}" if patients and patients[i] else f"example {ids[i]}"
        groups.setdefault(name, []).append(int(i))
    names = sorted(groups, key=lambda name: (_uniform(f"order {seed} {name}"), name))
    return names, [np.array(groups[name]) for name in names]


def _uniform(text: str) -> float:
    """A number in [0, 1) that is a function of ``text`` alone."""
    return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 11) / 2**53


def _shown(task: str, values: np.ndarray, weight: np.ndarray) -> frozenset:
    """What a unit's labels show: (column, value) pairs for classes and findings, nothing for regression."""
    if task == "regression":
        return frozenset()
    rows, columns = np.nonzero(weight > 0)
    return frozenset((int(c), float(values[r, c])) for r, c in zip(rows, columns, strict=True))


def _head(shown: list[frozenset]) -> list[int]:
    """Units that together show all there is to show: rarest first, each by the first unit that has it."""
    units_with: dict[tuple, list[int]] = {}
    for u, pairs in enumerate(shown):
        for pair in pairs:
            units_with.setdefault(pair, []).append(u)
    head: list[int] = []
    covered: set = set()
    for pair in sorted(units_with, key=lambda pair: (len(units_with[pair]), pair)):
        if pair not in covered:
            head.append(units_with[pair][0])
            covered |= shown[head[-1]]
    return head


def _strata(task: str, shown: list[frozenset], units: list, values: np.ndarray, weight: np.ndarray) -> list:
    """The stratum of each unit."""
    if task != "regression":
        return list(shown)
    means = [np.average(values[unit], weights=weight[unit]) for unit in units]
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return [int(rank) * TENTHS // len(units) for rank in ranks]


def _by_time(strata: list, jitter: list[float], before: set[int]) -> list[int]:
    """Units not in ``before``, so ordered that every head holds the strata in proportion."""
    size = Counter(strata)
    rank: Counter = Counter()
    times = {}
    for u in sorted(range(len(strata)), key=lambda u: u not in before):  # the head took the first places
        times[u] = (rank[strata[u]] + jitter[u]) / size[strata[u]]
        rank[strata[u]] += 1
    return sorted(times.keys() - before, key=lambda u: (times[u], u))
