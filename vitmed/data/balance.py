"""Rare and common classes: how often each is shown, and groups of scans to draw equally often.

Groups do not overlap. Of a multi-class set they are the classes. Of a multi-label set a scan is in the group of the
rarest finding that it shows, rarity counted among the scans given, and those that show none are a group too: so a rare
finding is drawn as often as a common one, though scans of the rare one may show the common one beside it. A missing
label shows nothing. Only labels of the scans given are read: a label budget balances itself.

Where masks are learned from, the structures that a mask holds are the findings of its scan, and what is counted are
voxels.
"""

from collections.abc import Callable

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.data.structures import class_table, structures_of
from vitmed.errors import InputError
from vitmed.scans.layout import UNMARKED


def counts(dataset: Dataset, split: str, indices: np.ndarray) -> np.ndarray:
    """How many of these examples show each class, or label, and how many with a known label do not: (K, 2) int64.

    Raises:
        InputError: a set of another kind than multi-class or multi-label.
    """
    shown, known = _shown(dataset, split, indices)
    return np.stack([shown.sum(axis=0), (known & ~shown).sum(axis=0)], axis=1)


def voxels(
    dataset: Dataset, split: str, indices: np.ndarray, told: Callable[[], None] = lambda: None
) -> np.ndarray:
    """How many voxels of these examples' masks are of each class, and how many marked ones are not: (1 + K, 2) int64.

    The background's come first. All these masks are gone through, and ``told`` is called after each.

    Raises:
        InputError: structures that overlap.
    """
    classes = class_table(structures_of(dataset.datasheet))
    counted, marked = dataset.value_counts(split, indices, told), classes != UNMARKED
    found = np.zeros(1 + int(classes[marked].max()), np.int64)
    np.add.at(found, classes[marked], counted[marked])
    return np.stack([found, found.sum() - found], axis=1)


def groups(dataset: Dataset, split: str, indices: np.ndarray, masks: bool = False) -> list[np.ndarray]:
    """Indices into the split of each group that holds any of these examples.

    Args:
        masks: go by the structures in the masks.

    Raises:
        InputError: as ``counts``; or, where it goes by masks, none of the set holds a structure.
    """
    shown = _held(dataset, split, indices) if masks else _shown(dataset, split, indices)[0]
    often = np.where(shown.any(axis=0), shown.sum(axis=0), np.iinfo(np.int64).max)
    rarest = np.argmin(np.where(shown, often, np.iinfo(np.int64).max), axis=1)
    group = np.where(shown.any(axis=1), rarest, shown.shape[1])
    return [np.asarray(indices)[group == k] for k in np.unique(group)]


def _held(dataset: Dataset, split: str, indices: np.ndarray) -> np.ndarray:
    """Whether the mask of each example holds each structure: (m, K) booleans."""
    structures = structures_of(dataset.datasheet)
    if not structures:
        raise InputError(
            f"classes cannot be balanced: the masks of {dataset.path} hold no structure; leave out config.data.sampling"
        )
    marked = dataset.marked(split)[indices]
    return np.stack([marked[:, list(values)].any(axis=1) for _, values in structures], axis=1)


def _shown(dataset: Dataset, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each example shows each class or label, and whether that is known: two (m, K) of booleans."""
    task, classes = dataset.datasheet["task"], dataset.datasheet["classes"]
    if task not in ("multiclass", "multilabel"):
        raise InputError(
            f"classes cannot be balanced: the labels of {dataset.path} are {task or 'none'}; "
            "leave out config.data.sampling and config.objective.class_weights"
        )
    label, weight = (values[indices] for values in dataset.labels(split))
    if task == "multilabel":
        return (label > 0.5) & (weight > 0), weight > 0
    known = np.broadcast_to(weight > 0, (len(label), len(classes)))
    return (label == np.arange(len(classes))) & known, known
