"""Near-duplicates: one picture met twice, re-encoded, resized, of another brightness or contrast, or mirrored.

A scan's *signature* is the low corner of its discrete cosine transform, which does not depend on how many
pixels the scan has (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions").
Coefficients weighted by their frequency make a vector that is nearly white for natural images: two different
chests, whose plain correlation is 0.95, have one near 0 here. Mirroring an axis turns the signs of its odd
coefficients, so the product of two vectors, taken apart by parity, tells the products under every mirroring at
the cost of one: their absolute sum is never less than the best of them. Matrix products in blocks therefore find
every pair that can be alike. Each is then confirmed twice: by the correlation of the vectors, and by local
correlation, in which every region of the picture counts alike, so that a skull or a bed cannot speak for what is
inside (normalised cross-correlation in windows).

Thresholds were set on real scans: 150 each of PneumoniaMNIST (28 x 28), MedNIST (64 x 64) and breast ultrasound
(256 x 256), re-encoded as JPEG of quality 30 to 75, resized by 0.5 to 1.5, and shifted by 30 grey levels; and by
looking at the pairs that they find among 5,856, 6,600 and 780 images.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from vitmed.data.joined import Joined
from vitmed.data.rows import Rows
from vitmed.progress import Bar

CORRELATION = 0.95  # of the weighted coefficients
LOCAL = 0.85  # mean of the local correlations
KEPT = {2: 32, 3: 16}  # coefficients an axis, by dimension
SEARCHED = {2: 16, 3: 12}  # those of them that are searched by, at most
_SHARE = (
    0.43  # of a scan's pixels along its shortest side: finer waves of a small scan do not outlive a codec
)
_WIDTH = {2: 2.5, 3: 1.5}  # sigma of the local windows, in pixels of a picture of KEPT
_NOISE = 2 / 255  # local contrast below this share of the window is noise, and counts as alike
_BLOCK = 2048
_TOLD = 6  # blocks of scans from which on the search takes longer than a person waits without a word
_MARGIN = 2e-3  # float32 products may be this wrong; what they let through is computed again in float64


def signature(picture: np.ndarray | Iterable[np.ndarray], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """What a scan looks like.

    Args:
        picture: (*S) in 0..1 over the modality's window, 2D or 3D; or its slabs along the first axis, one by one,
            float32.
        shape: S, where slabs are given.

    Returns:
        (K,) * dimension float16, K by ``KEPT``; zeros where the scan has fewer pixels than that. Its values are
        Fourier amplitudes in thousandths of the window.
    """
    shape = picture.shape if shape is None else shape
    kept = KEPT[len(shape)]
    waves = [_basis(min(kept, length), length) for length in shape]
    if len(shape) == 2:
        found = waves[0] @ picture @ waves[1].T
    else:
        down, across = (w.astype(np.float32) for w in waves[1:])
        found = np.tensordot(waves[0], np.stack([down @ slab @ across.T for slab in picture]), 1)
    out = np.zeros((kept,) * len(shape), np.float16)
    out[tuple(slice(n) for n in found.shape)] = 1000 * found
    return out


def links(
    signatures: np.ndarray | Rows, size: tuple[int, ...], folder: Path | None = None, progress: bool = False
) -> np.ndarray:
    """Pairs of scans that are alike, copies included: as many as it takes to link all that hang together.

    Time grows with the square of the number of scans, as matrix products: 100,000 take minutes. Memory is a hundred
    megabytes, whatever their number: what is searched by lies in a file, 1 kB a scan (2D) or 7 (3D).

    Args:
        signatures: (n, *(K,) * dimension), of ``signature``.
        size: pixels of the scans, of which the shortest side counts.
        folder: whose disk holds what is searched by; None for that of temporary files.
        progress: show it, and the time left, where it takes more than a moment.

    Returns:
        (m, 2) int64, the smaller index first, in order; no pair closes a ring.
    """
    ndim = signatures.ndim - 1
    wide = (min(SEARCHED[ndim], max(2, round(_SHARE * min(size)))),) * ndim
    weight = np.sqrt(sum(k**2 for k in np.ix_(*(np.arange(n, dtype=np.float64) for n in wide))))
    corner = (slice(None), *(slice(n) for n in wide))

    def vectors_of(which) -> np.ndarray:
        found = (signatures[which][corner].astype(np.float32) * weight.astype(np.float32)).reshape(
            -1, weight.size
        )
        length = np.sqrt(np.square(found, dtype=np.float64).sum(1))
        return found / np.where(length > 0, length, 1).astype(np.float32)[:, None]

    parts = _by_parity(vectors_of, len(signatures), wide, folder)
    signs = _signs(wide).reshape(-1, weight.size)
    cluster = Joined(len(signatures))
    found = []
    for one, two in _candidates(parts, progress):
        a, b = vectors_of(one).astype(np.float64), vectors_of(two).astype(np.float64)
        products = np.stack([(a * (b * sign)).sum(1) for sign in signs])
        for k in np.flatnonzero(products.max(0) >= CORRELATION):
            i, j = int(one[k]), int(two[k])
            if cluster.of(i) == cluster.of(j):
                continue
            mirrored = _signs(signatures.shape[1:])[products[:, k].argmax()]
            if _local(signatures[i], signatures[j] * mirrored) >= LOCAL:
                cluster.join(i, j)
                found.append((i, j))
    return np.array(sorted(found), np.int64).reshape(-1, 2)


@functools.lru_cache(maxsize=64)
def _basis(count: int, length: int) -> np.ndarray:
    """(count, length): the first cosines over ``length`` pixels, which give mean amplitudes."""
    waves = np.cos(np.pi * np.arange(count)[:, None] * (np.arange(length) + 0.5) / length)
    waves[1:] *= np.sqrt(2)
    waves /= length
    waves.flags.writeable = False  # shared by all who ask
    return waves


@functools.cache
def _signs(shape: tuple[int, ...]) -> np.ndarray:
    """(2 ** dimension, *shape): what each mirroring of the picture does to its coefficients."""
    alternate = [(np.ones(n, np.float32), (-1.0) ** np.arange(n, dtype=np.float32)) for n in shape]
    every = [functools.reduce(np.multiply.outer, waves) for waves in itertools.product(*alternate)]
    return np.stack(every)


@functools.cache
def _cosines(count: int) -> np.ndarray:
    """(count, count): amplitudes back to a picture of ``count`` pixels an axis."""
    return _basis(count, count).T * count


def _by_parity(vectors_of: Callable, n: int, shape: tuple[int, ...], folder: Path | None) -> list[Rows]:
    """The vectors (n, d) taken apart into those coefficients that every mirroring turns alike, block by block."""
    parity = functools.reduce(np.add.outer, [(np.arange(n) % 2) << i for i, n in enumerate(shape)]).ravel()
    places = [np.flatnonzero(parity == p) for p in range(2 ** len(shape))]
    parts = [Rows(n, (len(place),), np.float32, folder) for place in places]
    for low in range(0, n, _BLOCK):
        block = slice(low, min(low + _BLOCK, n))
        vectors = vectors_of(block)
        for part, place in zip(parts, places, strict=True):
            part[low] = vectors[:, place]
    return parts


def _candidates(parts: list[Rows], progress: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (i < j) that some mirroring may make alike, in portions."""
    n = len(parts[0])
    blocks = -(-n // _BLOCK)
    with Bar("comparing", blocks * (blocks + 1) // 2, "blocks", quiet=not progress or blocks < _TOLD) as bar:
        for low in range(0, n, _BLOCK):
            high = min(low + _BLOCK, n)
            here = [part[low:high] for part in parts]
            for start in range(0, high, _BLOCK):
                columns = slice(start, min(start + _BLOCK, high))
                bound = np.zeros((high - low, columns.stop - start), np.float32)
                for mine, part in zip(here, parts, strict=True):
                    product = mine @ part[columns].T
                    bound += np.abs(product, out=product)
                later, earlier = np.nonzero(bound >= CORRELATION - _MARGIN)
                later, earlier = later + low, earlier + start
                kept = earlier < later
                if kept.any():
                    yield from _portions(earlier[kept], later[kept])
                bar.advance()


def _portions(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(one), _BLOCK):
        yield one[start : start + _BLOCK], two[start : start + _BLOCK]


def _local(one: np.ndarray, two: np.ndarray) -> float:
    """The mean local correlation of two scans by their signatures, brought to one contrast."""
    a, b = _picture(one), _picture(two)
    width = _WIDTH[a.ndim]

    def blurred(values):
        return gaussian_filter(values, width)

    mean_a, mean_b = blurred(a), blurred(b)
    var_a = np.maximum(blurred(a * a) - mean_a**2, 0)
    var_b = np.maximum(blurred(b * b) - mean_b**2, 0)
    gain = np.sqrt(var_b.mean() / max(var_a.mean(), 1e-12))
    var_a = gain**2 * var_a
    both = gain * (blurred(a * b) - mean_a * mean_b) + _NOISE**2
    found = both / np.sqrt((var_a + _NOISE**2) * (var_b + _NOISE**2))
    telling = (var_a + var_b) / (var_a + var_b + 2 * _NOISE**2)  # empty background says nothing
    return float(np.average(found, weights=telling)) if telling.any() else 0.0


def _picture(coefficients: np.ndarray) -> np.ndarray:
    """The blurred scan that a signature tells of, K pixels an axis, in 0..1."""
    out = coefficients.astype(np.float64) / 1000
    for axis, count in enumerate(coefficients.shape):
        out = np.moveaxis(np.tensordot(_cosines(count), out, (1, axis)), 0, axis)
    return out
