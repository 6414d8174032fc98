"""Prepared scans to records: whole, or what is told of them in one set and their pixels, in chunks, in one beside it.

Chunks are most of the work of writing, so the shards that hold them are written side by side. Where one ends follows
from the sizes of the scans alone, and not from who writes it.
"""

import concurrent.futures
import hashlib
import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vitmed.data import chunks, records
from vitmed.data.records import Shard, Writer

Pixels = Callable[[], dict[str, np.ndarray]]  # what gives ``image`` (*S, C) and perhaps ``mask`` (*S)


def writer_of(
    folder: Path,
    shape: tuple[int, ...],
    dtype: np.dtype,
    outputs: int,
    masks: bool,
    chunk: tuple[int, ...] | None,
    workers: int,
    advance: Callable[[], None],
) -> "Whole | Chunked":
    """What writes scans of (*S, C) into ``folder``.

    Args:
        outputs: labels of a scan.
        masks: whether scans have masks.
        chunk: of their pixels; None to store them whole.
        workers: threads that write chunks.
        advance: called once for each scan that is written.
    """
    size, channels = shape[:-1], shape[-1]
    writer = Writer(folder, records.features(size, channels, dtype, outputs, masks, chunk is not None))
    if chunk is None:
        return Whole(writer, advance)
    beside = folder / chunks.FOLDER
    beside.mkdir()
    pixels = Writer(beside, chunks.features(len(size), channels, dtype, masks), hashed=False)
    in_shard = math.ceil(records.SHARD_BYTES / (math.prod(size) * (channels * dtype.itemsize + masks)))
    return Chunked(writer, pixels, size, chunk, masks, in_shard, workers, advance)


class Whole:
    """Writes the pixels of a scan into its record."""

    def __init__(self, writer: Writer, advance: Callable[[], None]):
        self._writer, self._advance = writer, advance

    def add(self, split: str, told: dict, pixels: Pixels, image: bytes) -> None:
        """Appends a scan; all of a split come one after the other. Its image has the digest ``image``."""
        self._writer.add(split, told | pixels())
        self._advance()

    def close(self) -> str:
        """A SHA-256 over all records."""
        return self._writer.close()


class Chunked:
    """Writes what is told of scans to one writer as they come, and in the end their pixels to another, in chunks."""

    def __init__(
        self,
        scans: Writer,
        pixels: Writer,
        size: tuple[int, ...],
        chunk: tuple[int, ...],
        masks: bool,
        in_shard: int,
        workers: int,
        advance: Callable[[], None],
    ):
        self._scans, self._pixels, self._chunk, self._masks = scans, pixels, chunk, masks
        self._many, self._in_shard = chunks.count(size, chunk), in_shard
        self._workers, self._advance = workers, advance
        self._hash = hashlib.sha256(str(chunk).encode())
        self._splits: dict[str, list[tuple[Pixels, np.ndarray]]] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()

    def add(self, split: str, told: dict, pixels: Pixels, image: bytes) -> None:
        """As ``Whole.add``; the pixels are asked for in ``close``, in another thread, and for the mask's sake here."""
        self._hash.update(image)
        if self._masks:
            self._hash.update(np.ascontiguousarray(pixels()["mask"]).data)
        before = self._splits.setdefault(split, [])
        first = self._many * len(before)
        self._scans.add(split, told | {"chunks": np.array([first, self._many], np.int64)})
        before.append((pixels, told["example"]))

    def close(self) -> str:
        """A SHA-256 that tells of the scans' records, their pixels (by their digests) and their masks."""
        shards = [
            (self._pixels.shard(split), scans[start : start + self._in_shard])
            for split, scans in self._splits.items()
            for start in range(0, len(scans), self._in_shard)
        ]
        with concurrent.futures.ThreadPoolExecutor(min(self._workers, len(shards))) as threads:
            try:
                begun = [threads.submit(self._fill, *share) for share in shards]
                for filled in concurrent.futures.as_completed(begun):  # a fault is met when it comes
                    filled.result()
            except BaseException:  # also ctrl-C: what is begun is of no use, and its folder is cleared away
                self._stop.set()
                threads.shutdown(wait=True, cancel_futures=True)
                raise
        self._pixels.close()
        return hashlib.sha256(f"{self._scans.close()} {self._hash.hexdigest()}".encode()).hexdigest()

    def _fill(self, shard: Shard, scans: list[tuple[Pixels, np.ndarray]]) -> None:
        for pixels, example in scans:
            for block in chunks.cut(pixels() | {"example": example}, self._chunk):
                if self._stop.is_set():
                    return
                shard.add(block)
            with self._lock:
                self._advance()
        shard.close()
