"""Exact copies: examples of equal pixels, within a split and across two, and those with different labels."""

import itertools
from collections import defaultdict

import numpy as np

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


def groups(digests: list[bytes], ids: list[str]) -> list[list[str]]:
    """Ids of examples with equal pixels, a list a group, in order of the first."""
    together: dict[bytes, list[str]] = defaultdict(list)
    for digest, scan in zip(digests, ids, strict=True):
        together[digest].append(scan)
    return [held for held in together.values() if len(held) > 1]


def contradictions(digests: list[bytes], label: np.ndarray, weight: np.ndarray) -> int:
    """How many distinct images carry more than one label (n, K), among examples whose labels are known."""
    seen: dict[bytes, set[bytes]] = defaultdict(set)
    for digest, values, known in zip(digests, label, weight, strict=True):
        if known.all():
            seen[digest].add(values.tobytes())
    return sum(len(labels) > 1 for labels in seen.values())
