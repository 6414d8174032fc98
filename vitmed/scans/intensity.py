"""From a scan's values to the integers that are stored, with the scale and offset that lead to units.

The meaning of units by modality is told in ``vitmed.scans.recipe``.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from vitmed.scans import precision
from vitmed.scans.scan import Refused, Scan

AIR = -1000.0  # HU, by definition
MR_STEPS = 4096  # stored steps between the two percentiles; int16 then reaches 8 times as far either way
_SHARES = np.array([0.005, 0.995])  # of the foreground that lie below the two percentiles
_PART = 2**16  # values of an array that are worked on at a time
_MANY = 2**16  # values from which on it is quicker to count 16-bit ones than to order them


def background(scan: Scan, modality: str) -> float | np.ndarray:
    """The value that stands for "nothing here", in the scan's own values, for padding; (C,) where channels differ."""
    if modality == "ct":
        return AIR
    if modality == "mr":  # whose window says how it was looked at, not what air is
        return np.array([channel.min() for channel in np.moveaxis(scan.array, -1, 0)])
    return float(scan.span[0]) if scan.span is not None else float(scan.array.min())


def check(scan: Scan, modality: str) -> None:
    """Refuses values that cannot be what the modality says.

    Raises:
        Refused: NaN or infinite values, or a CT of 8 bits, which cannot hold Hounsfield units.
    """
    if scan.array.dtype.kind == "f" and not all(np.isfinite(scan.array[p]).all() for p in _parts(scan.array)):
        count = int(np.size(scan.array) - np.isfinite(scan.array).sum())
        raise Refused("NaN or infinite pixels", f"{count} of {np.size(scan.array)}")
    if modality == "ct" and scan.array.dtype == np.uint8:
        raise Refused(
            "8-bit CT",
            "grey levels are not Hounsfield units; ingest a picture of one with --modality unknown",
        )


Counts = tuple[np.ndarray, np.ndarray]  # levels, rising, and how often each is


def store(scan: Scan, modality: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Counts] | None]:
    """The integers to store, and ``scale`` and ``offset`` (C,) float32 with units = image * scale + offset.

    Last comes what ``counts`` would give of each channel's integers, where it fell off on the way, or None.

    CT: int16 HU. MR: int16 with 4096 steps from the 0.5th to the 99.5th percentile of the foreground (all
    that is brighter than the darkest value), per channel. Others: uint8 as they are; wider ones uint16 over
    their window or, where the file gives none, their own range.

    Raises:
        Refused: a blank scan whose relative scale cannot be told.
    """
    array, channels = scan.array, scan.array.shape[-1]
    if modality == "ct":
        stored = array if array.dtype == np.int16 else _map(array, lambda a: _round(a, np.int16), np.int16)
        return stored, np.ones(channels, np.float32), np.zeros(channels, np.float32), None
    if modality == "mr":
        parts, counted = zip(*map(_stepped, np.moveaxis(array, -1, 0)), strict=True)
        stored = parts[0][..., None] if channels == 1 else np.stack(parts, -1)
        told = None if None in counted else list(counted)
        return stored, np.full(channels, 1 / MR_STEPS, np.float32), np.zeros(channels, np.float32), told
    if array.dtype == np.uint8 and scan.span in (None, (0.0, 255.0)):
        return array, np.full(channels, 1 / 255, np.float32), np.zeros(channels, np.float32), None
    low, high = scan.span or (float(array.min()), float(array.max()))
    stored = _map(array, lambda a: _round(_relative(a, low, high) * 65535, np.uint16), np.uint16)
    return stored, np.full(channels, 1 / 65535, np.float32), np.zeros(channels, np.float32), None


def widen(image: np.ndarray) -> np.ndarray:
    """An 8-bit relative image as the uint16 of equal units (255 * 257 = 65535), for a set that holds both."""
    return image.astype(np.uint16) * np.uint16(257) if image.dtype == np.uint8 else image


def counts(values: np.ndarray) -> Counts:
    """(levels, counts): every value from the smallest to the largest of an integer array, and how often it is.

    Args:
        values: integers of at most 16 bits.
    """
    low, high = int(values.min()), int(values.max())
    found = np.zeros(high - low + 1, np.int64)
    for part in _parts(values):
        place = np.subtract(values[part], low, dtype=np.intp)  # the numbers that NumPy counts with
        found += np.bincount(place.ravel(), minlength=len(found))
    return np.arange(low, high + 1), found


def _parts(array: np.ndarray) -> Iterator[slice]:
    """Parts along the first axis, small enough that what is made of one on the way stays in the processor's cache."""
    step = max(1, _PART // max(1, math.prod(array.shape[1:])))
    return (slice(start, start + step) for start in range(0, len(array), step))


def _map(array: np.ndarray, function: Callable[[np.ndarray], np.ndarray], dtype) -> np.ndarray:
    """``function`` of every value."""
    out = np.empty(array.shape, dtype)
    for part in _parts(array):
        out[part] = function(array[part])
    return out


def _stepped(values: np.ndarray) -> tuple[np.ndarray, Counts | None]:
    """One channel of MR as its steps between the percentiles, and how often each step is, where that is known."""
    counted = None
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2 and values.size >= _MANY:
        counted = counts(values)
    low, high = _percentiles(values) if counted is None else _counted_percentiles(*counted)

    def steps(part: np.ndarray) -> np.ndarray:
        return _round(_relative(part, low, high) * MR_STEPS, np.int16)

    stored = _map(values, steps, np.int16)
    if counted is None:
        return stored, None
    levels, found = counted
    rising = steps(levels.astype(values.dtype))
    first, last = int(rising[0]), int(rising[-1])
    again = np.bincount(rising.astype(np.intp) - first, found, last - first + 1).astype(np.int64)
    return stored, (np.arange(first, last + 1), again)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Of what is above the smallest value, which comes first in the order of all."""
    least = values.min()
    dark = np.count_nonzero(values == least)
    above = values.size - dark
    if above == 0:
        raise Refused("blank scan", "every pixel has the same value")
    place = dark + _SHARES * (above - 1)
    below = np.floor(place).astype(int)
    ordered = values.flatten()
    ordered.partition(np.unique([below, np.minimum(below + 1, values.size - 1)]))
    low, high = (
        float(np.quantile(ordered[k : k + 2], share)) for k, share in zip(below, place - below, strict=True)
    )
    return (low, high) if high > low else (float(least), high)


def _counted_percentiles(every: np.ndarray, counted: np.ndarray) -> tuple[float, float]:
    """The same from counts: the order statistics on either side, and a straight line between them."""
    levels, found = every[1:], counted[1:]
    total = int(found.sum())
    if total == 0:
        raise Refused("blank scan", "every pixel has the same value")
    upto = np.cumsum(found)
    place = _SHARES * (total - 1)
    below, above = (levels[np.searchsorted(upto, side(place), "right")] for side in (np.floor, np.ceil))
    low, high = below + (above - below) * (place - np.floor(place))
    return (float(low), float(high)) if high > low else (float(every[0]), float(high))


def _relative(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if not high > low:
        raise Refused("blank scan", "every pixel has the same value")
    kind = precision.working(values.dtype, low, high)
    return (values.astype(kind) - kind(low)) / kind(high - low)


def _round(values: np.ndarray, dtype) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.rint(np.clip(values, limits.min, limits.max)).astype(dtype)
