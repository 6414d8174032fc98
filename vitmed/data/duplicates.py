"""Copies among examples, within a split and across two, and those with different labels.

An exact copy has equal stored pixels; a near-duplicate has other pixels and looks the same (``vitmed.data.alike``).
Alike is taken to be transitive: all that hang together by pairs are one cluster.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vitmed.data import alike
from vitmed.data.joined import Joined
from vitmed.data.rows import Rows
from vitmed.data.splits import NAMES

SHOWN = 100  # groups listed in the datasheet


def count(digests: list[bytes], splits: list[str]) -> dict[str, int]:
    """How many copies there are.

    Args:
        digests: one an example, equal where the stored pixels are.
        splits: one an example.

    Returns:
        ``{"train": copies beyond the first, ..., "train/val": examples of val with a copy in train, ...}``.
    """
    inside: dict[str, list[bytes]] = {name: [] for name in NAMES if name in set(splits)}
    for digest, split in zip(digests, splits, strict=True):
        inside[split].append(digest)
    counts = {name: len(held) - len(set(held)) for name, held in inside.items()}
    for first, second in itertools.combinations(inside, 2):
        there = set(inside[first])
        counts[f"{first}/{second}"] = sum(digest in there for digest in inside[second])
    return counts


def clusters(
    digests: list[bytes],
    signatures: Iterable[np.ndarray],
    size: tuple[int, ...],
    folder: Path | None = None,
    progress: bool = False,
) -> list[int]:
    """The cluster of each example of ``size`` pixels: equal numbers for copies and for all that looks alike.

    Signatures wait on the disk of ``folder`` (None: that of temporary files) while they are compared.
    """
    first: dict[bytes, int] = {}
    for i, digest in enumerate(digests):
        first.setdefault(digest, i)
    distinct = list(first.values())
    joined = Joined(len(digests))
    for i, digest in enumerate(digests):
        joined.join(first[digest], i)
    if len(distinct) > 1:
        looks = (s for i, s in enumerate(signatures) if first[digests[i]] == i)
        for i, j in alike.links(_stacked(looks, len(distinct), folder), size, folder, progress):
            joined.join(distinct[i], distinct[j])
    return [joined.of(i) for i in range(len(digests))]


def _stacked(arrays: Iterable[np.ndarray], count: int, folder: Path | None) -> Rows:
    """``np.stack`` of ``count`` arrays that are there one at a time, on disk."""
    out = None
    for i, array in enumerate(arrays):
        if out is None:
            out = Rows(count, array.shape, array.dtype, folder)
        out[i] = array[None]
    return out


def count_near(digests: list[bytes], cluster: list[int], splits: list[str]) -> dict[str, int]:
    """How many near-duplicates there are, exact copies not counted.

    Returns:
        ``{"train": distinct images beyond the first of each cluster, ..., "train/val": examples of val that look
        like another image in train, ...}``.
    """
    seen: dict[str, dict[int, set[bytes]]] = {n: defaultdict(set) for n in NAMES if n in set(splits)}
    for digest, c, split in zip(digests, cluster, splits, strict=True):
        seen[split][c].add(digest)
    counts = {name: sum(len(held) - 1 for held in of.values()) for name, of in seen.items()}
    for first, second in itertools.combinations(seen, 2):
        counts[f"{first}/{second}"] = sum(
            bool(seen[first].get(c, set()) - {digest})
            for digest, c, split in zip(digests, cluster, splits, strict=True)
            if split == second
        )
    return counts


def near_groups(digests: list[bytes], cluster: list[int], ids: list[str]) -> list[list[str]]:
    """Ids of each cluster that holds more than one image, in order of the first."""
    held: dict[int, list[int]] = defaultdict(list)
    for i, c in enumerate(cluster):
        held[c].append(i)
    return [[ids[i] for i in at] for at in held.values() if len({digests[i] for i in at}) > 1]


def groups(digests: list[bytes], ids: list[str]) -> list[list[str]]:
    """Ids of examples with equal pixels, a list a group, in order of the first."""
    together: dict[bytes, list[str]] = defaultdict(list)
    for digest, scan in zip(digests, ids, strict=True):
        together[digest].append(scan)
    return [held for held in together.values() if len(held) > 1]


def contradictions(same: list, label: np.ndarray, weight: np.ndarray, ids: list[str]) -> list[list[str]]:
    """Ids of what is one image and carries more than one label (n, K), a list each.

    Args:
        same: one an example, equal where the image is: digests or clusters. Only examples whose labels are all
            known (``weight`` not 0) count.
    """
    seen: dict[object, dict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image, values, known, scan in zip(same, label, weight, ids, strict=True):
        if known.all():
            seen[image][values.tobytes()].append(scan)
    return [sum(by_label.values(), []) for by_label in seen.values() if len(by_label) > 1]
