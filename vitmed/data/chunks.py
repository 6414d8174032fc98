"""Volumes in chunks: a large one is stored as many small records, so that a part of it is read without the rest.

A set of large volumes (or images) holds two TFDS folders: DATASET, whose records tell everything of a scan but its
pixels, and DATASET/chunks, whose records are blocks of these. Both open with plain ``tfds.builder_from_directory``.
The chunks of a scan follow one another in the order of their ``start``, the last axis fastest; ``chunks`` of the
scan's record says where among those of its split they begin and how many they are.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from vitmed.data.decode import Decoder
from vitmed.errors import InputError

FOLDER = "chunks"
LARGE = 4 * 2**20  # bytes of an image: larger ones are stored in chunks
SIDE = {
    2: 256,
    3: 32,
}  # of a chunk, by dimension: 64 to 128 KiB, a read of which costs about as much as finding it
AUTO, NONE = "auto", "none"

Shape = tuple[int, ...]


def shape_of(size: Shape, channels: int, dtype: np.dtype, asked: Shape | str = AUTO) -> Shape | None:
    """The shape of the chunks of a set's images, array order, or None where they are stored whole.

    Args:
        size: of every image of the set.
        asked: ``"auto"``: ``SIDE`` a side where an image takes more than ``LARGE`` bytes; ``"none"``: never; or a
            shape, for images of any size.

    Raises:
        InputError: a shape of another dimension.
    """
    if asked == NONE:
        return None
    if asked == AUTO:
        if math.prod(size) * channels * np.dtype(dtype).itemsize <= LARGE:
            return None
        asked = (SIDE[len(size)],) * len(size)
    if len(asked) != len(size):
        raise InputError(
            f"--chunk {','.join(map(str, asked))} has {len(asked)} axes, the scans have {len(size)}"
        )
    return tuple(min(c, n) for c, n in zip(asked, size, strict=True))


def features(n: int, channels: int, dtype: np.dtype, masks: bool) -> tfds.features.FeaturesDict:
    """What a chunk of an n-dimensional scan holds.

    ``image`` (*s, C) stored integers, smaller than the others at the far ends; ``mask`` (*s) where the set has masks;
    ``start`` (n,) index of its first voxel in the scan; ``example`` (2,) as the scan's record has it.
    """
    tensor = tfds.features.Tensor
    held = {
        "image": tensor(shape=(*(None,) * n, channels), dtype=dtype, encoding="bytes"),
        "start": tensor(shape=(n,), dtype=np.int64),
        "example": tensor(shape=(2,), dtype=np.uint32),
    }
    if masks:
        held["mask"] = tensor(shape=(None,) * n, dtype=np.uint8, encoding="bytes")
    return tfds.features.FeaturesDict(held)


def count(size: Shape, chunk: Shape) -> int:
    """How many chunks a scan has."""
    return math.prod(_grid(size, chunk))


def cut(example: dict, chunk: Shape) -> Iterator[dict]:
    """The chunks of an example that holds ``image`` (*S, C), ``example`` and perhaps ``mask`` (*S), in order."""
    size = example["image"].shape[:-1]
    for cell in itertools.product(*map(range, _grid(size, chunk))):
        start = np.multiply(cell, chunk)
        block = tuple(slice(a, a + c) for a, c in zip(start, chunk, strict=True))
        yield {
            "start": start.astype(np.int64),
            "example": example["example"],
            **{k: example[k][block] for k in ("image", "mask") if k in example},
        }


class Chunks:
    """Reads boxes of scans that are stored in chunks.

    Args:
        size: of every scan.
        chunk: shape of the chunks.
        decoder: of their records.
        records: (split, indices) to the chunks' records.
    """

    def __init__(
        self,
        size: Shape,
        chunk: Shape,
        decoder: Decoder,
        records: Callable[[str, Sequence[int]], Sequence[bytes]],
    ):
        self.size, self.chunk = tuple(size), tuple(chunk)
        self.dtypes = decoder.dtypes
        self._names = tuple(name for name in ("image", "mask") if name in decoder.names)
        self._decoder, self._records = decoder, records

    def read(
        self, split: str, first: int, start: Shape, size: Shape, names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """``image`` (*size, C), and ``mask`` (*size) where there are masks, of a scan from ``start`` on.

        Args:
            first: the index of the scan's first chunk.
            start, size: of the box, which lies within the scan.
            names: those of the two that are wanted; None is what there is.
        """
        names = self._names if names is None else names
        stop = tuple(a + n for a, n in zip(start, size, strict=True))
        cells = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, self.chunk, strict=True)]
        numbers = [
            first + int(np.ravel_multi_index(cell, _grid(self.size, self.chunk)))
            for cell in itertools.product(*cells)
        ]
        made: dict[str, np.ndarray] = {}
        for record in self._records(split, numbers):
            block = self._decoder(record, (*names, "start"))
            there, here = [], []  # what is wanted of this chunk, and where it goes
            for a, b, origin, n in zip(start, stop, block["start"], block[names[0]].shape):
                low, high = max(a, int(origin)), min(b, int(origin) + n)
                there.append(slice(low - origin, high - origin))
                here.append(slice(low - a, high - a))
            for name in names:
                part = block[name]
                if name not in made:
                    made[name] = np.empty((*size, *part.shape[len(size) :]), part.dtype)
                made[name][tuple(here)] = part[tuple(there)]
        return made


def _grid(size: Shape, chunk: Shape) -> Shape:
    return tuple(-(-n // c) for n, c in zip(size, chunk, strict=True))
