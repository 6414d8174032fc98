"""Rows of numbers that wait in a file without a name: of very many scans even a kilobyte each is too much memory."""

import math
import os
import tempfile
from pathlib import Path

import numpy as np


class Rows:
    """An array (n, *shape) on disk that is written and read by rows; gone with the object.

    Args:
        count: n.
        shape: of a row.
        dtype: of its numbers.
        folder: whose disk holds it; None for that of temporary files.
    """

    def __init__(
        self, count: int, shape: tuple[int, ...], dtype: type | np.dtype, folder: Path | None = None
    ):
        self.shape, self.dtype = (count, *shape), np.dtype(dtype)
        self._row = math.prod(shape) * self.dtype.itemsize
        self._file = tempfile.TemporaryFile(buffering=0, dir=folder)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, first: int, rows: np.ndarray) -> None:
        """Writes rows (m, *shape) from ``first`` on."""
        data = memoryview(np.ascontiguousarray(rows, self.dtype)).cast("B")
        place = first * self._row
        while data:
            written = os.pwrite(self._file.fileno(), data, place)
            data, place = data[written:], place + written

    def __getitem__(self, which: int | slice | np.ndarray) -> np.ndarray:
        """A row, those of a slice of step 1, or those of (m,) indices, as an array in memory."""
        if isinstance(which, slice):
            start, stop, _ = which.indices(len(self))
            return self._read(start, stop - start)
        if np.ndim(which) == 0:
            return self._read(int(which), 1)[0]
        out = np.empty((len(which), *self.shape[1:]), self.dtype)
        for k, i in enumerate(which):
            out[k] = self._read(int(i), 1)[0]
        return out

    def _read(self, first: int, count: int) -> np.ndarray:
        out = np.empty((count, *self.shape[1:]), self.dtype)
        left, place = memoryview(out).cast("B"), first * self._row
        while left:
            got = os.preadv(self._file.fileno(), [left], place)
            if not got:
                raise IndexError(f"rows {first} to {first + count} of {len(self)} were never written")
            left, place = left[got:], place + got
        return out
