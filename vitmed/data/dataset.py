"""A dataset on disk, opened: sizes, labels and patients of its splits, and examples by index as NumPy arrays.

A dataset is a TFDS folder of ArrayRecord shards with a datasheet, written by ``vitmed ingest``. Images travel
as the integers they were stored as; turning them into units is the compiled step's work
(``vitmed.scans.recipe``).

A split whose decoded arrays fit in ``CACHE_BYTES`` is decoded once and kept, so that a batch of it costs one
fancy-indexed copy instead of a parse an example: small images cost more to parse than to copy, and on a
machine of few cores the parsing would be taken from the training step. Larger splits are read from disk batch
by batch.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from vitmed.data import datasheet
from vitmed.data.annotations import TOLD
from vitmed.data.decode import Decoder
from vitmed.errors import InputError
from vitmed.scans.recipe import Recipe

CACHE_BYTES = 256 * 2**20

Stream = dict[str, np.ndarray]

_ARRAYS = ("image", "scale", "offset", "spacing", "label", "label_weight", "mask", "example")
_COLUMNS = ("label", "label_weight", "id", "patient", "site", "example")
_CHUNK = 1024


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
        decoder: Decoder,
        sources: dict[str, ArrayRecordDataSource],
        cache: int | None = None,
    ):
        self.path = path
        self.datasheet = sheet
        self.splits = tuple(sources)
        self._decoder = decoder
        self._sources = sources
        self._cache_bytes = cache
        self._lock = threading.Lock()
        self._cached: dict[str, Stream | None] = {}
        self._columns = functools.cache(self._read_columns)

    @classmethod
    def open(cls, path: str | Path, cache: int | None = None) -> "Dataset":
        """Opens the dataset in folder ``path``.

        Args:
            cache: bytes of a split that are kept in memory at most; None is ``CACHE_BYTES``.

        Raises:
            InputError: no such folder, not a vitmed dataset, of a newer format, or with shards missing.
        """
        path = Path(path)
        sheet = datasheet.read(path)
        for name in ("dataset_info.json", "features.json"):
            if not (path / name).is_file():
                raise InputError(f"dataset {path} lacks its {name}; ingest it again")
        info = tfds.builder_from_directory(path).info
        sources = {}
        for name, split in info.splits.items():
            if not split.num_examples:
                continue
            for shard in (Path(part.filename) for part in split.file_instructions):
                if not shard.is_file():
                    raise InputError(f"dataset {path} lacks its shard {shard.name}; ingest it again")
            sources[name] = ArrayRecordDataSource(split.file_instructions)
        return cls(path, sheet, Decoder(info.features), sources, cache)

    @property
    def image_dtype(self) -> np.dtype:
        """What images are stored as."""
        return self._decoder.dtypes["image"]

    @property
    def has_masks(self) -> bool:
        """Whether examples come with masks."""
        return "mask" in self._decoder.names

    def has_split(self, split: str) -> bool:
        """Whether ``split`` holds any example."""
        return split in self._sources

    def size(self, split: str) -> int:
        """Number of examples in ``split``; InputError where the dataset has no such split."""
        return len(self._source(split))

    def read(self, split: str, indices: np.ndarray) -> Stream:
        """Examples by index, stacked.

        Args:
            split: name of a split.
            indices: (B,) integers in [0, size(split)), in any order, repeats allowed.

        Returns:
            ``image`` (B, *S, C) stored integers, ``scale`` and ``offset`` (B, C) float32 to units,
            ``spacing`` (B, n) float32 mm (nan where unknown), ``label`` and ``label_weight`` (B, K) float32
            (weight 0 where missing), ``mask`` (B, *S) uint8 if the set has masks, ``weight`` (B,) float32
            ones, ``example`` (B, 2) uint32.

        Raises:
            InputError: no such split, a damaged shard, or images of different sizes in one batch.
        """
        cached = self._cache(split)
        if cached is not None:
            stream = {name: values[indices] for name, values in cached.items()}
        else:
            stream = self._stack(self._records(split, [int(i) for i in indices]))
        stream["weight"] = np.ones(len(indices), np.float32)
        return stream

    def labels(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and their weights (0 = missing) of a whole split, each (n, K) float32."""
        columns = self._columns(split)
        return columns["label"], columns["label_weight"]

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
            return [self._decoder(record, [column])[column] for record in self._whole(split)]
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
        return map(self._decoder, self._whole(split))

    def record(self, split: str, index: int) -> dict[str, np.ndarray | str]:
        """One example, whole."""
        return self._decoder(self._records(split, [index])[0])

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

    def _source(self, split: str) -> ArrayRecordDataSource:
        if split not in self._sources:
            raise InputError(f"dataset {self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return self._sources[split]

    def _records(self, split: str, indices: Sequence[int]) -> Sequence[bytes]:
        try:
            return self._source(split).__getitems__(indices)
        except RuntimeError as error:  # the shards carry checksums, and ArrayRecord verifies them
            raise InputError(
                f"split {split!r} of {self.path} is damaged; ingest it again ({error})"
            ) from None

    def _stack(self, records: Sequence[bytes]) -> Stream:
        names = [name for name in _ARRAYS if name in self._decoder.names]
        examples = [self._decoder(record, names) for record in records]
        sizes = sorted({example["image"].shape[:-1] for example in examples})
        if len(sizes) > 1:
            raise InputError(
                f"images of {self.path} differ in size ({sizes[0]} and {sizes[-1]}); ingest again with --size"
            )
        return {name: np.stack([example[name] for example in examples]) for name in names}

    def _cache(self, split: str) -> Stream | None:
        """The whole split decoded, or None where it is too large or its images differ in size."""
        if split not in self._cached:
            with self._lock:
                if split not in self._cached:
                    self._cached[split] = self._decode_split(split)
        return self._cached[split]

    def _decode_split(self, split: str) -> Stream | None:
        n = self.size(split)
        first = self._stack(self._records(split, [0]))
        size = n * sum(values.nbytes for values in first.values())
        most = CACHE_BYTES if self._cache_bytes is None else self._cache_bytes
        if self.datasheet["size"] is None or size > most:
            return None
        whole = {name: np.empty((n, *v.shape[1:]), v.dtype) for name, v in first.items()}
        for part in _chunks(n):
            for name, values in self._stack(self._records(split, part)).items():
                whole[name][part.start : part.stop] = values
        return whole

    def _whole(self, split: str) -> Iterator[bytes]:
        for part in _chunks(self.size(split)):
            yield from self._records(split, part)

    def _read_columns(self, split: str) -> dict[str, np.ndarray | list[str]]:
        names = [*_COLUMNS, *(name for name in TOLD if name in self._decoder.names)]
        examples = [self._decoder(record, names) for record in self._whole(split)]
        columns = {name: [example[name] for example in examples] for name in names}
        return columns | {name: np.stack(columns[name]) for name in ("label", "label_weight", "example")}


def _chunks(n: int) -> list[range]:
    return [range(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]
