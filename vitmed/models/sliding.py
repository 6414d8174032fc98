"""A model on scans larger than its window: overlapping windows, blended by Gaussian weights (Isensee et al. 2021).

The blend is a running mean, moved by each window's share of the weight so far. So what all windows agree on comes out
as it is, to the bit, and a scan of one window costs no rounding.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

OVERLAP = 0.5  # of neighbouring windows along an axis, at least
SIGMA = 0.125  # deviation of the weights, in sizes of the window
_FAINTEST = 1e-3  # weight of a window's corners, of its centre's


def starts(size: tuple[int, ...], window: tuple[int, ...], overlap: float = OVERLAP) -> list[tuple[int, ...]]:
    """Where the windows over a scan of ``size`` begin: evenly from edge to edge along each axis, as few as overlap enough."""
    axes = []
    for n, w in zip(size, window, strict=True):
        room = max(n - w, 0)
        count = 1 + int(np.ceil(room / max(1, int(w * (1 - overlap)))))
        axes.append([room * i // max(count - 1, 1) for i in range(count)])
    return list(itertools.product(*axes))


def weights(window: tuple[int, ...]) -> np.ndarray:
    """(*window) float32 weights of a window's voxels, 1 at the centre and positive everywhere."""
    total = np.ones(window)
    for axis, n in enumerate(window):
        distance = (np.arange(n) - (n - 1) / 2) / (SIGMA * n)
        total *= np.exp(-0.5 * distance**2).reshape(-1, *(1,) * (len(window) - 1 - axis))
    return np.maximum(total, _FAINTEST).astype(np.float32)


def blended(
    scans: Iterable[np.ndarray],
    function: Callable[[np.ndarray], np.ndarray],
    window: tuple[int, ...],
    batch: int,
    overlap: float = OVERLAP,
) -> Iterator[np.ndarray]:
    """What ``function`` makes of each scan, in order.

    Windows are batched whichever scan they are of, so small scans fill a batch together.

    Args:
        scans: (*S, C) float32; smaller ones than the window are padded around with their own least value a channel, which
            is air, and the padding is cut off again.
        function: (batch, *window, C) to (batch, *window, K).

    Yields:
        (*S, K) float32, of each scan.
    """
    share = weights(window)[..., None]
    waiting: list[tuple[_Canvas, tuple[int, ...]]] = []
    canvases: list[_Canvas] = []

    def answer() -> Iterator[np.ndarray]:
        parts = [canvas.part(start) for canvas, start in waiting]
        filled = np.stack(parts + parts[-1:] * (batch - len(parts)))
        for (canvas, start), made in zip(waiting, np.asarray(function(filled))):
            canvas.add(start, made, share)
        waiting.clear()
        while canvases and not canvases[0].left:
            yield canvases.pop(0).result()

    for scan in scans:
        canvas = _Canvas(scan, window, overlap)
        canvases.append(canvas)
        for start in canvas.starts:
            waiting.append((canvas, start))
            if len(waiting) == batch:
                yield from answer()
    if waiting:
        yield from answer()


class _Canvas:
    """A scan, and the running mean of what windows made of it."""

    def __init__(self, scan: np.ndarray, window: tuple[int, ...], overlap: float):
        self.window, self.size = window, scan.shape[:-1]
        lack = [max(w - n, 0) for n, w in zip(self.size, window, strict=True)]
        self.before = tuple(n // 2 for n in lack)
        if any(lack):
            padded = np.empty((*np.add(self.size, lack), scan.shape[-1]), scan.dtype)
            padded[...] = scan.min(axis=tuple(range(scan.ndim - 1)))
            padded[_box(self.before, self.size)] = scan
            scan = padded
        self.scan = scan
        self.starts = starts(scan.shape[:-1], window, overlap)
        self.left = len(self.starts)
        self.mean = self.mass = None

    def part(self, start: tuple[int, ...]) -> np.ndarray:
        return self.scan[_box(start, self.window)]

    def add(self, start: tuple[int, ...], made: np.ndarray, share: np.ndarray) -> None:
        if self.mean is None:
            self.mean = np.zeros((*self.scan.shape[:-1], made.shape[-1]), np.float32)
            self.mass = np.zeros((*self.scan.shape[:-1], 1), np.float32)
        box = _box(start, self.window)
        self.mass[box] += share
        self.mean[box] += (share / self.mass[box]) * (made - self.mean[box])
        self.left -= 1

    def result(self) -> np.ndarray:
        return self.mean[_box(self.before, self.size)]


def _box(start: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
