"""A dataset on disk, opened: sizes, labels and patients of its splits, and examples by index as NumPy arrays.

A dataset is a TFDS folder of ArrayRecord shards with a datasheet, written by ``vitmed ingest``. Images travel
as the integers they were stored as; turning them into units is the compiled step's work
(``vitmed.scans.recipe``).

A split whose decoded arrays fit in ``CACHE_BYTES`` is decoded once and kept, so that a batch of it costs one
fancy-indexed copy instead of a parse an example: small images cost more to parse than to copy, and on a
machine of few cores the parsing would be taken from the training step. Larger splits are read from disk batch
by batch, and so are all whose images are stored in chunks: of these, a crop reads what it touches.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vitmed.data import chunks, datasheet
from vitmed.data.annotations import TOLD
from vitmed.data.chunks import Chunks
from vitmed.data.crops import Crop
from vitmed.data.shards import Shards
from vitmed.data.structures import class_table, structures_of
from vitmed.errors import InputError
from vitmed.scans.recipe import Recipe

CACHE_BYTES = 256 * 2**20
VOXELS = 1000  # of a structure of a scan that are kept, for boxes about them

Stream = dict[str, np.ndarray]

_ARRAYS = ("image", "scale", "offset", "spacing", "label", "label_weight", "mask", "example")
_PIXELS = ("image", "mask")
_COLUMNS = ("label", "label_weight", "id", "patient", "site", "example")


class Dataset:
    """A dataset opened for reading; safe to read from several threads. Made by ``Dataset.open``.

    Attributes:
        path: the folder.
        datasheet: what ingest wrote about it.
        splits: names of the splits that hold examples.
    """

    def __init__(
        self,
        path: Path,
        sheet: dict,
        shards: Shards,
        cache: int | None = None,
        pixels: Shards | None = None,
    ):
        self.path = path
        self.datasheet = sheet
        self.splits = shards.splits
        self._shards, self._pixels = shards, pixels
        self._decoder = shards.decoder
        self._cache_bytes = cache
        self._chunks = None
        if pixels is not None:
            size, chunk = tuple(sheet["size"]), tuple(sheet["chunk"])
            self._chunks = Chunks(size, chunk, pixels.decoder, pixels.records)
        self._lock = threading.Lock()
        self._cached: dict[str, Stream | None] = {}
        self._columns = functools.cache(self._read_columns)
        self._marked = functools.cache(self._read_marked)
        self._voxels: dict[tuple[str, int], tuple[np.ndarray, ...]] = {}
        self._voxel_bytes = 0

    @classmethod
    def open(cls, path: str | Path, cache: int | None = None) -> "Dataset":
        """Opens the dataset in folder ``path``.

        Args:
            cache: bytes of a split, and of the voxels of structures, that are kept in memory at most; None is
                ``CACHE_BYTES``.

        Raises:
            InputError: no such folder, not a vitmed dataset, of a newer format, or with shards missing.
        """
        path = Path(path)
        sheet = datasheet.read(path)
        shards = Shards.open(path)
        pixels = Shards.open(path, f"{chunks.FOLDER}/") if "chunk" in sheet else None
        return cls(path, sheet, shards, cache, pixels)

    @property
    def bytes_read(self) -> int:
        """Bytes of records, so far."""
        return self._shards.bytes_read + (self._pixels.bytes_read if self._pixels else 0)

    @property
    def image_dtype(self) -> np.dtype:
        """What images are stored as."""
        return self._dtypes["image"]

    @property
    def has_masks(self) -> bool:
        """Whether examples come with masks."""
        return "mask" in self._dtypes

    @property
    def _dtypes(self) -> dict[str, np.dtype]:
        return (self._chunks or self._decoder).dtypes

    def has_split(self, split: str) -> bool:
        """Whether ``split`` holds any example."""
        return split in self.splits

    def size(self, split: str) -> int:
        """Number of examples in ``split``; InputError where the dataset has no such split."""
        return self._shards.size(split)

    def read(
        self,
        split: str,
        indices: np.ndarray,
        crop: Crop | None = None,
        visits: np.ndarray | None = None,
    ) -> Stream:
        """Examples by index, stacked.

        Args:
            split: name of a split.
            indices: (B,) integers in [0, size(split)), in any order, repeats allowed.
            crop: the box to read of each; None is all of it.
            visits: (B,) uint32, the third word of ``example``; None leaves it out.

        Returns:
            ``image`` (B, *S, C) stored integers, ``scale`` and ``offset`` (B, C) float32 to units,
            ``spacing`` (B, n) float32 mm (nan where unknown), ``label`` and ``label_weight`` (B, K) float32
            (weight 0 where missing), ``mask`` (B, *S) uint8 if the set has masks, ``weight`` (B,) float32
            ones, ``example`` (B, 2) or (B, 3) uint32, as ``vitmed.data.keys.example_keys`` takes them. With ``crop``,
            *S is its size.

        Raises:
            InputError: no such split, a damaged shard, or images of different sizes in one batch.
        """
        cached = self._cache(split)
        if cached is not None:
            stream = {
                name: values[indices]
                for name, values in cached.items()
                if crop is None or name not in _PIXELS
            }
            if visits is not None:
                stream["example"] = np.column_stack([stream["example"], visits])
            if crop is not None:
                about = [functools.partial(self.voxels, split, int(i)) for i in indices]
                starts = crop.starts(stream["example"], cached["image"].shape[1:-1], about)
                stream |= {
                    name: np.stack([cached[name][i][_box(a, crop.size)] for i, a in zip(indices, starts)])
                    for name in _PIXELS
                    if name in cached
                }
        else:
            chosen = [int(i) for i in indices]
            stream = self._stack(split, self._shards.records(split, chosen), crop, chosen, visits)
        stream["weight"] = np.ones(len(indices), np.float32)
        return stream

    def labels(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and their weights (0 = missing) of a whole split, each (n, K) float32."""
        columns = self._columns(split)
        return columns["label"], columns["label_weight"]

    def marked(self, split: str) -> np.ndarray:
        """Which values the mask of each example holds, ``(n, 256)`` booleans; nothing where the set has no masks.

        Read once, and then kept: all masks of the split are gone through.
        """
        return self._marked(split)

    def value_counts(
        self, split: str, indices: np.ndarray, told: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """How many voxels of these examples' masks have each value, ``(256,)`` int64; all these masks are gone through.

        ``told`` is called after each.
        """
        found = np.zeros(256, np.int64)
        for index in indices if self.has_masks else ():
            mask = self._mask(split, self._shards.records(split, [int(index)])[0])
            found += np.bincount(mask.ravel(), minlength=256)
            told()
        return found

    def voxels(self, split: str, index: int) -> tuple[np.ndarray, ...]:
        """Voxels (m, n) of each structure that an example's mask holds, in the order of structures; () where of none.

        Of a structure that has more than ``VOXELS``, so many evenly spread over it. The whole mask is read, and the
        voxels are kept while those of all examples take no more than ``CACHE_BYTES``: as examples come round in turn, what
        is kept first is of as much use as what came last.

        Raises:
            InputError: structures that overlap.
        """
        found = self._voxels.get((split, index))
        if found is None:
            found = self._read_voxels(split, index)
            size = sum(voxels.nbytes for voxels in found)
            with self._lock:
                new = (split, index) not in self._voxels  # another thread may have been as quick
                if new and self._voxel_bytes + size <= self._most_cached:
                    self._voxels[split, index] = found
                    self._voxel_bytes += size
        return found

    def examples(self, split: str) -> np.ndarray:
        """Identities of a split's examples, (n, 2) uint32."""
        return self._columns(split)["example"]

    def ids(self, split: str) -> list[str]:
        """The id of each example: where it came from in the ingested source."""
        return self._columns(split)["id"]

    def patients(self, split: str) -> list[str] | None:
        """The patient of each example ("" where unknown), or None where no patient is known."""
        patients = self._columns(split)["patient"]
        return patients if any(patients) else None

    def spacings(self, split: str) -> np.ndarray:
        """Millimetres a voxel of each example, (n, axes) float32, array order; nan where unknown."""
        return np.stack(
            [self._decoder(record, ["spacing"])["spacing"] for record in self._shards.whole(split)]
        )

    def sites(self, split: str) -> list[str]:
        """The site of each example, "" where unknown."""
        return self._columns(split)["site"]

    def groups(self, split: str, column: str) -> list[str]:
        """What ``column`` says of each example, "" where unknown: for numbers by group.

        Args:
            split: name of a split.
            column: a column of words that ingest stored with each example, such as ``site``; in a multi-label
                set also the name of a label, whose groups are "yes" and "no".

        Raises:
            InputError: no such split or column.
        """
        texts = sorted(set(self._decoder.texts) - {"id", "patient"})
        if column in texts:
            return [self._decoder(record, [column])[column] for record in self._shards.whole(split)]
        labels = list(self.datasheet["classes"]) if self.datasheet["task"] == "multilabel" else []
        if column not in labels:
            raise InputError(
                f"dataset {self.path} has no column {column!r} to group by; it has {', '.join(texts + labels)}"
            )
        label, weight = (values[:, labels.index(column)] for values in self.labels(split))
        return [("yes" if x == 1 else "no") if w else "" for x, w in zip(label, weight, strict=True)]

    def told(self, split: str, name: str) -> list[str]:
        """The ``study``, ``series``, ``view`` or ``timepoint`` of each example, "" where unknown."""
        columns = self._columns(split)
        return columns[name] if name in columns else [""] * self.size(split)

    def records(self, split: str) -> Iterator[dict[str, np.ndarray | str]]:
        """Every example of a split, whole, in the order they are stored."""
        return (self._joined(split, self._decoder(record)) for record in self._shards.whole(split))

    def record(self, split: str, index: int) -> dict[str, np.ndarray | str]:
        """One example, whole."""
        return self._joined(split, self._decoder(self._shards.records(split, [index])[0]))

    def recipe(self, size: tuple[int, ...] | None = None) -> Recipe:
        """How a model fed from this dataset gets its input, from the datasheet.

        Args:
            size: the spatial size a config asks for; it must be the dataset's own.

        Raises:
            InputError: ``size`` is another, or the dataset's images differ in size.
        """
        sheet = self.datasheet
        if sheet["size"] is None:
            raise InputError(f"images of {self.path} differ in size; ingest again with --size, such as 64,64")
        own = tuple(sheet["size"])
        if size is not None and tuple(size) != own:
            wanted, found = (",".join(map(str, s)) for s in (size, own))
            raise InputError(
                f"config.data.size is {wanted}, but {self.path} holds images of {found}; "
                f"ingest again with --size {wanted} or leave the key out"
            )
        return Recipe(
            modality=sheet["modality"],
            channels=sheet["channels"],
            size=own,
            spacing=None if sheet["spacing"] is None else tuple(sheet["spacing"]),
            unit=sheet["unit"],
            window=tuple(sheet["window"]),
            mean=tuple(sheet["intensity"]["mean"]),
            std=tuple(sheet["intensity"]["std"]),
            patch_size=None,
            model=None,
        )

    def _joined(self, split: str, example: dict, crop: Crop | None = None, index: int = 0) -> dict:
        """An example with its pixels: those of its chunks where it has any, those of the crop where one is asked.

        The crop may be about what the mask of the example of this ``index`` holds.
        """
        size = self._chunks.size if self._chunks else example["image"].shape[:-1]
        start, box = (0,) * len(size), size
        if crop is not None:
            about = [functools.partial(self.voxels, split, index)]
            start, box = tuple(map(int, crop.starts(example["example"][None], size, about)[0])), crop.size
        if self._chunks:
            first = int(example["chunks"][0])
            told = {name: value for name, value in example.items() if name != "chunks"}
            return told | self._chunks.read(split, first, start, box)
        if crop is None:
            return example
        return example | {name: example[name][_box(start, box)] for name in _PIXELS if name in example}

    def _stack(
        self,
        split: str,
        records: Sequence[bytes],
        crop: Crop | None = None,
        indices: Sequence[int] = (),
        visits: np.ndarray | None = None,
    ) -> Stream:
        """The examples of these records, stacked; ``indices`` are theirs, which a crop needs."""
        known = self._decoder.names
        large = [name for name in (*_PIXELS, "chunks", "example") if name in known]
        numbers = {name: [] for name in _ARRAYS if name in known and name not in large}
        identities, pixels = [], {}
        for row, record in enumerate(records):
            told = self._decoder(record, large, numbers)
            for name, values in numbers.items():
                values.append(told.pop(name))
            own = told["example"]
            identities.append(own if visits is None else np.append(own, visits[row]))
            told["example"] = identities[-1]
            held = self._joined(split, told, crop, indices[row] if indices else 0)
            # Into its row at once: of a batch whose pixels are there twice the memory costs as much as the copy.
            for name in _PIXELS:
                if name not in held:
                    continue
                if row == 0:
                    pixels[name] = np.empty((len(records), *held[name].shape), held[name].dtype)
                if pixels[name].shape[1:] != held[name].shape:
                    sizes = sorted([pixels["image"].shape[1:-1], held["image"].shape[:-1]])
                    raise InputError(
                        f"images of {self.path} differ in size ({sizes[0]} and {sizes[1]}); ingest again with --size"
                    )
                np.copyto(pixels[name][row], held[name], casting="no")
        return (
            pixels
            | {name: self._decoder.stacked(name, values) for name, values in numbers.items()}
            | {"example": np.stack(identities)}
        )

    def _cache(self, split: str) -> Stream | None:
        """The whole split decoded, or None where it is too large or its images differ in size."""
        if split not in self._cached:
            with self._lock:
                if split not in self._cached:
                    self._cached[split] = self._decode_split(split)
        return self._cached[split]

    @property
    def _most_cached(self) -> int:
        return CACHE_BYTES if self._cache_bytes is None else self._cache_bytes

    def _decode_split(self, split: str) -> Stream | None:
        n = self.size(split)
        if self._chunks:
            return None
        first = self._stack(split, self._shards.records(split, [0]))
        size = n * sum(values.nbytes for values in first.values())
        if self.datasheet["size"] is None or size > self._most_cached:
            return None
        whole = {name: np.empty((n, *v.shape[1:]), v.dtype) for name, v in first.items()}
        for start, records in self._shards.runs(split):
            for name, values in self._stack(split, records).items():
                whole[name][start : start + len(records)] = values
        return whole

    def _read_columns(self, split: str) -> dict[str, np.ndarray | list[str]]:
        names = [*_COLUMNS, *(name for name in TOLD if name in self._decoder.names)]
        examples = [self._decoder(record, names) for record in self._shards.whole(split)]
        columns = {name: [example[name] for example in examples] for name in names}
        return columns | {name: np.stack(columns[name]) for name in ("label", "label_weight", "example")}

    def _read_marked(self, split: str) -> np.ndarray:
        held = np.zeros((self.size(split), 256), bool)
        if not self.has_masks:
            return held
        for row, record in zip(held, self._shards.whole(split), strict=True):
            row[np.unique(self._mask(split, record))] = True
        return held

    def _mask(self, split: str, record: bytes) -> np.ndarray:
        """The mask (*S) of a record, whose image is not decoded."""
        if not self._chunks:
            return self._decoder(record, ["mask"])["mask"]
        first, size = int(self._decoder(record, ["chunks"])["chunks"][0]), self._chunks.size
        return self._chunks.read(split, first, (0,) * len(size), size, ["mask"])["mask"]

    def _read_voxels(self, split: str, index: int) -> tuple[np.ndarray, ...]:
        if not self.has_masks:
            return ()
        structures = structures_of(self.datasheet)
        classes = class_table(structures)[self._mask(split, self._shards.records(split, [index])[0])]
        found = []
        for k in range(1, len(structures) + 1):
            places = np.flatnonzero(classes == k)
            few = min(len(places), VOXELS)
            if few:
                kept = places[np.arange(few) * len(places) // few]
                found.append(np.stack(np.unravel_index(kept, classes.shape), axis=-1).astype(np.int32))
        return tuple(found)


def _box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
