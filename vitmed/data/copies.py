"""Scans of one split whose pixels are those of scans of another, in the same dataset or in another one."""

from collections.abc import Sequence

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.errors import InputError


def copies(dataset: Dataset, split: str, of: Dataset, splits: Sequence[str]) -> np.ndarray:
    """Which examples of ``split`` have the stored pixels of an example of ``splits`` of the dataset ``of``.

    Those of 8 bits are the same in a set that holds 16.

    Every pixel of these splits is read, but where ingest counted no copies between two splits of one dataset. A split
    that ``of`` lacks has no examples.

    Returns:
        (n,) int64 indices, ascending.

    Raises:
        InputError: ``splits`` names ``split`` of the same dataset.
    """
    from vitmed.data.prepare import digest  # late: it loads all readers of files

    splits = [name for name in splits if of.has_split(name)]
    if of.path.resolve() == dataset.path.resolve():
        if split in splits:
            raise InputError(
                f"config.data.apart names {split!r}, which is what is trained on; name the splits to keep apart from it"
            )
        counts = dataset.datasheet.get("duplicates", {})
        splits = [n for n in splits if counts.get(f"{split}/{n}", counts.get(f"{n}/{split}", 1))]
        if not splits:
            return np.array([], np.int64)
    wide = dataset.image_dtype != of.image_dtype
    there = {digest(record["image"], wide) for name in splits for record in of.records(name)}
    found = [i for i, record in enumerate(dataset.records(split)) if digest(record["image"], wide) in there]
    return np.array(found, np.int64)
