"""Batches in training order and sweeps over a split, made ahead of need by threads.

What a step's batch holds depends on (seed, step) alone, so an iterator is begun at any step without reading
what came before it, and every process works out the same global batch and reads its own slice of it.
"""

import dataclasses
from collections.abc import Callable, Iterator

import grain
import numpy as np

from vitmed.data import order
from vitmed.data.dataset import Dataset, Stream
from vitmed.errors import InputError

AHEAD = 4  # batches made before they are asked for: enough for a slow read, few enough to hold in memory

Batch = dict[str, Stream]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The ``data`` section of a config.

    Attributes:
        path: folder of the dataset.
        split: trained on.
        val_split: validated on; it may be missing from the dataset.
        size: spatial size, array order; given, it must be the dataset's.
        channels: given, it must be the dataset's.
        labels: label budget: an int counts examples, a float is a fraction of the labelled ones; None is all.
        label_seed: which draw of the budget.
        workers: threads that make batches; 0 makes them when asked.
    """

    path: str
    split: str = "train"
    val_split: str = "val"
    size: tuple[int, ...] | None = None
    channels: int | None = None
    labels: int | float | None = None  # int first: 1 is one label, 1.0 is all of them
    label_seed: int = 0
    workers: int = 2

    def __post_init__(self):
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; give the number of loading threads, 0 or more")

    def open(self) -> Dataset:
        """Opens the dataset and checks this section against it.

        Raises:
            InputError: no such dataset or training split, or another size or number of channels than its own.
        """
        dataset = Dataset.open(self.path)
        dataset.size(self.split)
        dataset.recipe(self.size)
        found = dataset.datasheet["channels"]
        if self.channels is not None and self.channels != found:
            raise InputError(
                f"config.data.channels is {self.channels}, but {self.path} holds images of {found}; "
                f"set it to {found} or leave it out"
            )
        return dataset


def batches(
    dataset: Dataset,
    split: str,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    indices: np.ndarray | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int = 2,
) -> Iterator[Batch]:
    """The batches of steps ``start`` ... ``stop - 1`` in training order.

    Args:
        batch_size: of the global batch.
        seed: of the data order.
        indices: restricts to these examples of the split (a label budget); each is seen once an epoch.
        shard: (i, n): this process is the i-th of n and gets rows i*B/n ... (i+1)*B/n of the global batch.
        workers: threads that make batches ahead; 0 makes each when asked.

    Yields:
        ``{"main": stream}`` with ``Dataset.read``'s arrays for B/n examples.

    Raises:
        InputError: no such split, ``indices`` is empty, or the batch does not divide over the processes.
    """
    members = np.arange(dataset.size(split)) if indices is None else np.asarray(indices)
    if not len(members):
        raise InputError(f"no examples of split {split!r} of {dataset.path} are left to train on")
    rows = _rows(batch_size, shard)

    def make(step: int) -> Batch:
        chosen = order.indices(seed, step, batch_size, len(members))[rows]
        return {"main": dataset.read(split, members[chosen])}

    return _ahead(make, start, stop, workers)


def sweep(
    dataset: Dataset,
    split: str,
    batch_size: int,
    indices: np.ndarray | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int = 2,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is filled with copies of the last example at ``weight`` 0.

    Args:
        batch_size: of the global batch; every batch has it, so that one compiled function serves all.
        indices: sweeps these examples instead, in the order given.
        shard: as for ``batches``; all processes get the same number of batches.

    Yields:
        ``{"main": stream}`` as ``batches`` does.

    Raises:
        InputError: the split is missing, or the batch does not divide over the processes.
    """
    members = np.arange(dataset.size(split)) if indices is None else np.asarray(indices)
    rows = _rows(batch_size, shard)

    def make(number: int) -> Batch:
        position = np.arange(number * batch_size, (number + 1) * batch_size)[rows]
        stream = dataset.read(split, members[np.minimum(position, len(members) - 1)])
        stream["weight"] = (position < len(members)).astype(np.float32)
        return {"main": stream}

    return _ahead(make, 0, -(-len(members) // batch_size), workers)


def _rows(batch_size: int, shard: tuple[int, int]) -> slice:
    i, n = shard
    if batch_size < 1 or batch_size % n:
        raise InputError(
            f"config.train.batch_size is {batch_size}; it must be a positive multiple of the {n} process(es)"
        )
    each = batch_size // n
    return slice(i * each, (i + 1) * each)


def _ahead(make: Callable[[int], Batch], start: int, stop: int, workers: int) -> Iterator[Batch]:
    if start >= stop:
        return iter(())
    ahead = max(AHEAD, workers) if workers else 0
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))
