"""A stream of a batch: examples of one dataset, or of several mixed by weight, as a function of (seed, step).

Every process works out the same global batch and reads its own rows of it, so a stream is begun at any step at
the cost of one batch, and neither the number of processes nor of loading threads shows in it.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from vitmed.data import order
from vitmed.data.crops import Crop
from vitmed.data.dataset import Dataset, Stream
from vitmed.errors import InputError
from vitmed.scans.layout import UNMARKED

ANNOTATIONS = ("label", "label_weight", "mask")


@dataclasses.dataclass(frozen=True)
class Part:
    """Examples of one split of one dataset.

    Attributes:
        dataset: opened.
        split: of it.
        indices: restricts to these examples of the split; None is all.
        weight: share of the stream, relative to the other parts'.
        held: examples of the split that no stream may have; not among ``indices``.
    """

    dataset: Dataset
    split: str
    indices: np.ndarray | None = None
    weight: float = 1.0
    held: tuple[int, ...] = ()

    @property
    def members(self) -> np.ndarray:
        """(n,) indices into the split."""
        return self._but(self.held) if self.indices is None else np.asarray(self.indices)

    @property
    def others(self) -> np.ndarray:
        """(m,) indices of all that is in the split beside the members."""
        return self._but((*self.members, *self.held))

    def _but(self, these: Sequence[int]) -> np.ndarray:
        return np.setdiff1d(np.arange(self.dataset.size(self.split)), np.asarray(these, np.int64))


class Feed:
    """One stream.

    Args:
        parts: what it is drawn from; of one recipe, and with labels of one meaning where ``labelled``.
        batch_size: of the global batch of this stream.
        seed: of its order.
        labelled: whether labels and masks come along; without, ``label`` and ``label_weight`` are (B, 0) and there
            is no ``mask``, so that nothing can learn from what it should not see.
        masks: whether masks come along without labels, for what they leave out of a loss.
        foreground: share of the boxes that are about what masks mark (``vitmed.data.crops.Crop``).
        key: of the batch size in the config, for messages.
        crop: size of a random box, array order, to read of each example; None is all of it.
        groups: indices into the split of the one part there is, each of which is drawn equally often; () draws each
            member so.

    Raises:
        InputError: a part without examples.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        batch_size: int,
        seed: int,
        labelled: bool = True,
        key: str = "config.train.batch_size",
        crop: tuple[int, ...] | None = None,
        groups: Sequence[np.ndarray] = (),
        masks: bool = False,
        foreground: float = 0.0,
    ):
        self.parts, self.batch_size, self.key, self.crop = tuple(parts), batch_size, key, crop
        self._members = [part.members for part in self.parts]
        for part, members in zip(self.parts, self._members):
            if not len(members):
                raise InputError(
                    f"no examples of split {part.split!r} of {part.dataset.path} are left to train on"
                )
        self.examples = sum(map(len, self._members))
        self._groups, self._foreground = groups, foreground
        self._seed, self._labelled = seed, labelled
        self._dtype = np.result_type(*(part.dataset.image_dtype for part in self.parts))
        self._masks = (labelled or masks) and any(part.dataset.has_masks for part in self.parts)

    def rows(self, shard: tuple[int, int]) -> slice:
        """The rows of the global batch that the i-th of n processes reads, ``shard`` being (i, n).

        Raises:
            InputError: the batch does not divide over the processes.
        """
        return rows(self.batch_size, shard, self.key)

    def drawn(self, step: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """What the global batch of ``step`` is made of.

        Returns:
            Of each of these rows, which of the parts it is of and its index into that part's split: (B,) and (B,) integers.
        """
        if len(self.parts) == 1 and not self._groups:
            index = order.indices(self._seed, step, self.batch_size, self.examples)[rows]
            return np.zeros(len(index), np.int64), self._members[0][index]
        pools = self._groups or self._members
        weights = [1] * len(pools) if self._groups else [part.weight for part in self.parts]
        sizes = list(map(len, pools))
        which, index = (
            drawn[rows] for drawn in order.mixed(self._seed, step, self.batch_size, sizes, weights)
        )
        chosen = np.empty(len(index), np.int64)
        for k in np.unique(which):
            chosen[which == k] = pools[k][index[which == k]]
        return np.zeros_like(which) if self._groups else which, chosen

    def read(self, step: int, rows: slice = slice(None)) -> Stream:
        """``Dataset.read``'s arrays for these rows of the global batch of ``step``."""
        crop = None if self.crop is None else Crop(self.crop, (self._seed, step), self._foreground)
        which, index = self.drawn(step)
        again = _visits(which, index)[rows]
        which, index = which[rows], index[rows]
        if len(self.parts) == 1:
            return self._read(0, index, crop, again)
        made: Stream = {}
        for k in np.unique(which):
            at = np.flatnonzero(which == k)
            for name, values in self._read(int(k), index[at], crop, again[at]).items():
                if name not in made:
                    made[name] = np.empty((len(which), *values.shape[1:]), values.dtype)
                made[name][at] = values
        return made

    def _read(self, k: int, chosen: np.ndarray, crop: Crop | None, visits: np.ndarray) -> Stream:
        part = self.parts[k]
        stream = part.dataset.read(part.split, chosen, crop, visits)
        stream["image"] = stream["image"].astype(self._dtype, copy=False)
        if self._masks and "mask" not in stream:
            stream["mask"] = np.full(stream["image"].shape[:-1], UNMARKED, np.uint8)
        if not self._labelled:
            nothing = np.zeros((len(chosen), 0), np.float32)
            kept = ("mask",) if self._masks else ()
            stream = {n: values for n, values in stream.items() if n in kept or n not in ANNOTATIONS}
            stream |= {"label": nothing, "label_weight": nothing}
        return stream


def _visits(which: np.ndarray, index: np.ndarray) -> np.ndarray:
    """How many earlier rows of a global batch are of the same example of the same part, (B,) uint32."""
    names = which * (index.max() + 1) + index
    together = np.argsort(names, kind="stable")
    ordered = names[together]
    visits = np.empty(len(names), np.uint32)
    visits[together] = np.arange(len(names)) - np.searchsorted(ordered, ordered)
    return visits


def rows(batch_size: int, shard: tuple[int, int], key: str = "config.train.batch_size") -> slice:
    """Rows i*B/n ... (i+1)*B/n of a global batch of B, for ``shard`` (i, n).

    Raises:
        InputError: the batch does not divide over the processes.
    """
    i, n = shard
    if batch_size < 1 or batch_size % n:
        raise InputError(f"{key} is {batch_size}; it must be a positive multiple of the {n} process(es)")
    each = batch_size // n
    return slice(i * each, (i + 1) * each)


def seed_of(seed: int, stream: str) -> int:
    """The seed of a stream's order: ``main`` keeps the run's own, so that another stream beside it moves nothing."""
    if stream == "main":
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=8).digest(), "big")
