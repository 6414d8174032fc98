"""Scans of one dataset that look like scans of another and are no copies of them: near-duplicates between datasets.

Within a dataset ingest counts them (``vitmed.data.duplicates``). It does not keep what scans look like, so here the pixels
of both sides are read.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.progress import Bar
from vitmed.scans.recipe import window_of

MOST = 100_000  # scans on both sides together: up to there the search takes minutes


def not_sought(dataset: Dataset, split: str, of: Dataset, splits: Sequence[str]) -> str:
    """Why ``count`` cannot tell, "" where it can."""
    if len(dataset.datasheet["size"]) != len(of.datasheet["size"]):
        return "one holds pictures and the other volumes"
    scans = dataset.size(split) + sum(of.size(name) for name in splits)
    return f"they are {scans} scans, more than {MOST}" if scans > MOST else ""


def count(
    dataset: Dataset, split: str, of: Dataset, splits: Sequence[str], progress: bool = False
) -> dict[str, int]:
    """How many examples of each of ``splits`` of ``of`` look like an example with other pixels in ``split`` of ``dataset``.

    As in a datasheet, alike is taken to be transitive (``vitmed.data.duplicates``).
    """
    from vitmed.data import duplicates  # late: these load all readers of files
    from vitmed.data.prepare import digest, statistics

    sides = [(dataset, split), *((of, name) for name in splits)]

    where = [at for at, (one, name) in enumerate(sides) for _ in range(one.size(name))]

    def read(what: str) -> Iterator[tuple[Dataset, dict[str, Any]]]:
        with Bar(what, len(where), "scans", quiet=not progress) as bar:
            for one, name in sides:
                for record in one.records(name):
                    yield one, record
                    bar.advance()

    def signatures() -> Iterator[np.ndarray]:
        for one, record in read("looking for near-duplicates"):
            window = window_of(one.datasheet["modality"])
            yield statistics(record["image"], record["scale"], record["offset"], window)[-1]

    wide = dataset.image_dtype != of.image_dtype
    digests = [digest(record["image"], wide) for _, record in read("looking for copies")]
    size = min(dataset.datasheet["size"], of.datasheet["size"], key=min)
    cluster = duplicates.clusters(digests, signatures(), tuple(size), progress=progress)
    seen = defaultdict(set)
    for pixels, c, at in zip(digests, cluster, where, strict=True):
        if at == 0:
            seen[c].add(pixels)
    counts = [0] * len(sides)
    for pixels, c, at in zip(digests, cluster, where, strict=True):
        counts[at] += bool(seen[c] - {pixels})
    return dict(zip(splits, counts[1:], strict=True))
