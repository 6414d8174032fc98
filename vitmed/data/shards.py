"""Records of a dataset's splits, by index: ArrayRecord shards in a TFDS folder, and how much of them has been read."""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from vitmed.data.decode import Decoder
from vitmed.errors import InputError

# Records of a split that are fetched at a time where all are read, at most. ArrayRecord takes up to five times their bytes.
RUN, RUN_BYTES = 1024, 16 * 2**20


class Shards:
    """Safe to read from several threads.

    Args:
        path: of the dataset, for messages.
        decoder: of the records.
        sources: of each split that holds any.

    Attributes:
        decoder: as given.
        splits: names of the splits that hold records.
        bytes_read: so far.
    """

    def __init__(self, path: Path, decoder: Decoder, sources: Mapping[str, ArrayRecordDataSource]):
        self.decoder, self.splits = decoder, tuple(sources)
        self.bytes_read = 0
        self._path, self._sources = path, sources
        self._counting = threading.Lock()

    @classmethod
    def open(cls, folder: Path, inside: str = "") -> "Shards":
        """Those of the TFDS folder ``inside`` the dataset in ``folder``.

        Raises:
            InputError: a file of it is missing.
        """
        for name in ("dataset_info.json", "features.json"):
            if not (folder / inside / name).is_file():
                raise InputError(f"dataset {folder} lacks its {inside}{name}; ingest it again")
        info = tfds.builder_from_directory(folder / inside).info
        sources = {}
        for name, split in info.splits.items():
            if not split.num_examples:
                continue
            for shard in (Path(part.filename) for part in split.file_instructions):
                if not shard.is_file():
                    raise InputError(
                        f"dataset {folder} lacks its shard {inside}{shard.name}; ingest it again"
                    )
            sources[name] = ArrayRecordDataSource(split.file_instructions)
        return cls(folder, Decoder(info.features), sources)

    def size(self, split: str) -> int:
        """Number of records in ``split``; InputError where there is no such split."""
        return len(self._source(split))

    def records(self, split: str, indices: Sequence[int]) -> Sequence[bytes]:
        """Records by index.

        Raises:
            InputError: no such split, or a damaged shard.
        """
        try:
            records = self._source(split).__getitems__(indices)
        except RuntimeError as error:  # the shards carry checksums, and ArrayRecord verifies them
            raise InputError(
                f"split {split!r} of {self._path} is damaged; ingest it again ({error})"
            ) from None
        with self._counting:
            self.bytes_read += sum(map(len, records))
        return records

    def whole(self, split: str) -> Iterator[bytes]:
        """Every record of a split, in order."""
        return itertools.chain.from_iterable(records for _, records in self.runs(split))

    def runs(self, split: str) -> Iterator[tuple[int, Sequence[bytes]]]:
        """Every record of a split, a run at a time, with the index of its first: as many as take ``RUN_BYTES``.

        How large a record is, is known by those before it; so the first comes alone.
        """
        start, count, largest = 0, 1, 1
        while start < self.size(split):
            records = self.records(split, range(start, min(start + count, self.size(split))))
            yield start, records
            start += len(records)
            largest = max(largest, *map(len, records))
            count = max(1, min(RUN, RUN_BYTES // largest))

    def _source(self, split: str) -> ArrayRecordDataSource:
        if split not in self._sources:
            raise InputError(f"dataset {self._path} has no split {split!r}; it has {', '.join(self.splits)}")
        return self._sources[split]
