"""Where voxels lie: canonical axes, resampling to a spacing, cropping and padding to a size.

All in array order. ``affine`` maps the index (z, y, x, 1) to LPS millimetres (x, y, z, 1).
"""

import dataclasses
import functools
import math

import nibabel as nib
import numpy as np
from scipy import ndimage

from vitmed.scans import limits, precision
from vitmed.scans.scan import Refused, Scan

_SMALL = 2048  # pixels of a plane, below which a step of Python for each plane takes longer than the sums
_RUN = 16  # pixels that must lie beside one another in a plane for it to be read quickly


def canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Permutes and flips axes so that (0, 1, 2) run most nearly to Superior, Posterior, Left.

    Nothing is interpolated. ``affine`` maps an index of ``array``, whatever its axis order, to LPS.

    Raises:
        Refused: an affine from which no orientation can be read.
    """
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise Refused("orientation unknown", "the matrix from voxels to millimetres is singular")
    orientation = _orientation(affine)
    if not np.isfinite(
        orientation
    ).all():  # two axes that all but coincide, of voxels large enough for the above
        raise Refused("orientation unknown", "the matrix from voxels to millimetres is singular")
    orientation[:, 0] = 2 - orientation[:, 0]  # z first
    turned = nib.orientations.apply_orientation(array, orientation)
    return turned, affine @ nib.orientations.inv_ornt_aff(orientation, array.shape[:3])


def axes_of(affine: np.ndarray) -> str:
    """The sides that the axes of an array run towards, three letters of L R, P A, S I ("SPL" once canonical).

    Args:
        affine: index to LPS millimetres.
    """
    if not np.isfinite(affine).all():
        return ""
    sides = nib.orientations.ornt2axcodes(_orientation(affine), (("R", "L"), ("A", "P"), ("I", "S")))
    return "".join(side or "" for side in sides)


def _orientation(affine: np.ndarray) -> np.ndarray:
    """Of each array axis, the LPS axis that it runs along and its direction, (3, 2); NaN where there is none."""
    return np.array(_remembered(np.asarray(affine, np.float64).tobytes()))


# Scans of one set often lie alike, and the singular values take as long as a header.
@functools.lru_cache(maxsize=64)
def _remembered(affine: bytes) -> tuple[tuple[float, float], ...]:
    return tuple(map(tuple, nib.orientations.io_orientation(np.frombuffer(affine).reshape(4, 4))))


def fit(
    scan: Scan,
    spacing: tuple[float, ...] | None,
    size: tuple[int, ...] | None,
    fill: float | np.ndarray,
    mask: np.ndarray | None = None,
) -> tuple[Scan, np.ndarray | None]:
    """Brings a scan (and its mask) to a spacing and a size.

    A volume is resampled to ``spacing``, then cropped around its foreground or padded to ``size``. A 2D image
    without ``spacing`` is instead resized as a whole, keeping its aspect, and padded. Images are interpolated
    linearly (averaging where they shrink), masks by nearest neighbour.

    Args:
        spacing: millimetres, or None to keep.
        size: voxels, or None to keep.
        fill: the value of what lies outside the scan, or one of each channel.
        mask: (*S) uint8.

    Raises:
        Refused: another dimension than ``spacing`` or ``size`` have, a spacing that is not known, or one so wide
            that there would be more voxels than a scan may have.
    """
    n = len(scan.size)
    for name, wanted in (("--spacing", spacing), ("--size", size)):
        if wanted is not None and len(wanted) != n:
            raise Refused(f"{n}D, but {name} has {len(wanted)} numbers")
    if spacing is not None:
        if scan.spacing is None:
            raise Refused("no voxel spacing", "--spacing needs to know it")
        step = tuple(want / have for want, have in zip(spacing, scan.spacing, strict=True))
        shape = tuple(max(1, round(length / s)) for length, s in zip(scan.size, step, strict=True))
        for axis in range(n + 1):  # as it grows and shrinks axis by axis; 2 bytes a voxel when it is stored
            size_now = math.prod((*shape[:axis], *scan.array.shape[axis:]))
            limits.declared(2 * size_now, limits.MAX_BYTES, packed=False)
        scan, mask = resample(scan, shape, step, mask)
    elif size is not None and n == 2:
        step = max(have / want for have, want in zip(scan.size, size, strict=True))
        shape = tuple(
            min(want, max(1, round(have / step))) for have, want in zip(scan.size, size, strict=True)
        )
        scan, mask = resample(scan, shape, (step, step), mask)
    if size is not None:
        scan, mask = crop_or_pad(scan, size, fill, mask)
    return scan, mask


def resample(
    scan: Scan, shape: tuple[int, ...], step: tuple[float, ...], mask: np.ndarray | None = None
) -> tuple[Scan, np.ndarray | None]:
    """Samples a scan every ``step`` voxels onto ``shape`` voxels about the same centre.

    Separable triangle filter, as wide as the step where the scan shrinks, so that nothing aliases.
    8-bit scans stay 8-bit; others become float32, or float64 where that is too coarse (``vitmed.scans.precision``).
    """
    if shape == scan.size and all(abs(s - 1) < 1e-6 for s in step):
        return scan, mask
    along = zip(scan.size, shape, step, strict=True)
    start = tuple((have - 1 - (want - 1) * s) / 2 for have, want, s in along)
    array = scan.array
    dtype = precision.working(array.dtype, float(array.min()), float(array.max()))
    for axis, (length, s, first) in enumerate(zip(shape, step, start, strict=True)):
        centres = first + np.arange(length) * s
        array = _filter(array, axis, centres, max(1.0, s), dtype)
        if mask is not None:
            nearest = np.clip(np.rint(centres), 0, mask.shape[axis] - 1).astype(int)
            mask = np.take(mask, nearest, axis)
    if scan.array.dtype == np.uint8:
        array = np.rint(array).astype(np.uint8)
    spacing = None if scan.spacing is None else tuple(h * s for h, s in zip(scan.spacing, step, strict=True))
    return dataclasses.replace(_moved(scan, start, step), array=array, spacing=spacing), mask


def onto(
    array: np.ndarray,
    affine: np.ndarray,
    size: tuple[int, ...],
    target: np.ndarray,
    nearest: bool,
    fill: float = 0.0,
) -> np.ndarray:
    """What ``array`` holds at the voxels of another grid.

    A voxel fills its cell: what lies up to half a voxel beyond the outermost centres is inside.

    Args:
        array: (*S) numbers.
        affine: (n + 1, n + 1) its index to a common space, such as LPS millimetres.
        size: (n) voxels of the other grid.
        target: (n + 1, n + 1) the other grid's index to that space.
        nearest: take the nearest voxel, as labels need it, and keep the type; else interpolate linearly, to float32.
        fill: the value of what lies outside.
    """
    n = array.ndim
    matrix = np.linalg.inv(affine) @ target
    # A millionth of a voxel decides what lies halfway, so that rounding errors do not.
    move = matrix[:n, :n], matrix[:n, n] - 1e-6
    if nearest:
        return ndimage.affine_transform(array, *move, tuple(size), order=0, mode="grid-constant", cval=fill)
    array = array.astype(np.float32)
    inside = ndimage.affine_transform(
        np.ones(array.shape, np.uint8), *move, tuple(size), order=0, mode="grid-constant"
    )
    values = ndimage.affine_transform(
        array, matrix[:n, :n], matrix[:n, n], tuple(size), order=1, mode="nearest"
    )
    return np.where(inside, values, np.float32(fill))


def crop_or_pad(
    scan: Scan, size: tuple[int, ...], fill: float | np.ndarray, mask: np.ndarray | None = None
) -> tuple[Scan, np.ndarray | None]:
    """Cuts a window of ``size`` voxels around the foreground; axes that are too short are padded evenly.

    The foreground is what is brighter than the mean; the window is centred on its centre of mass, but never
    leaves the scan where it need not. A padded scan whose values are of a type that cannot hold ``fill`` (air in a CT
    of unsigned ones, a window that begins below the black of 8 bits) becomes float32, or float64 as in ``resample``.
    """
    if scan.size == tuple(size):
        return scan, mask
    if any(want > have for have, want in zip(scan.size, size, strict=True)):
        scan = _holding(scan, fill)
    start = []
    foreground = None
    for axis, (have, want) in enumerate(zip(scan.size, size, strict=True)):
        if want >= have:
            start.append(-((want - have) // 2))
            continue
        if foreground is None:
            brightness = scan.array.mean(axis=-1, dtype=np.float64)
            foreground = brightness > brightness.mean()
        profile = foreground.sum(axis=tuple(a for a in range(foreground.ndim) if a != axis))
        total = profile.sum()
        centre = (profile @ np.arange(have)) / total if total else (have - 1) / 2
        start.append(int(np.clip(round(centre - (want - 1) / 2), 0, have - want)))
    array = _window(scan.array, (*start, 0), (*size, scan.array.shape[-1]), fill)
    mask = None if mask is None else _window(mask, start, size, 0)
    return dataclasses.replace(_moved(scan, start, (1.0,) * len(size)), array=array), mask


def _filter(array: np.ndarray, axis: int, centres: np.ndarray, width: float, dtype: type) -> np.ndarray:
    """Triangle-weighted means about ``centres`` along one axis; taps outside the scan do not count."""
    taps = np.floor(centres - width).astype(int)[:, None] + np.arange(int(np.ceil(2 * width)) + 2)
    weights = np.maximum(0.0, 1.0 - np.abs(taps - centres[:, None]) / width)
    weights[(taps < 0) | (taps >= array.shape[axis])] = 0.0
    outside = weights.sum(1) == 0  # beyond the border by more than the filter: the border voxel
    taps = np.clip(taps, 0, array.shape[axis] - 1)
    weights[outside, 0] = 1.0
    weights = (weights / weights.sum(1, keepdims=True)).astype(dtype)
    # Products and sums of numbers, in the order of the taps and never as a product of matrices: the same bits on any
    # number of threads.
    if array.size < _SMALL * array.shape[axis]:
        return _summed(array, axis, taps, weights)
    if math.prod(array.shape[axis + 1 :]) < _RUN:
        rows = np.ascontiguousarray(np.moveaxis(array, axis, 0))
        return np.ascontiguousarray(np.moveaxis(_summed_by_planes(rows, 0, taps, weights), 0, axis))
    return _summed_by_planes(array, axis, taps, weights)


def _summed(array: np.ndarray, axis: int, taps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum over k of ``weights[:, k]`` times what lies at ``taps[:, k]`` along ``axis``, tap by tap, in the weights' type."""
    column = (-1,) + (1,) * (array.ndim - 1 - axis)
    out = np.zeros((*array.shape[:axis], len(taps), *array.shape[axis + 1 :]), weights.dtype)
    for k in range(taps.shape[1]):
        if weights[:, k].any():
            out += np.take(array, taps[:, k], axis).astype(weights.dtype) * weights[:, k].reshape(column)
    return out


def _summed_by_planes(array: np.ndarray, axis: int, taps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same numbers plane by plane, which stays in the processor's cache: of volumes five times as fast."""
    out = np.zeros((*array.shape[:axis], len(taps), *array.shape[axis + 1 :]), weights.dtype)
    before = (slice(None),) * axis
    weighted = np.empty((*array.shape[:axis], *array.shape[axis + 1 :]), weights.dtype)
    for i in range(len(taps)):
        target = out[(*before, i)]
        for tap, weight in zip(taps[i], weights[i], strict=True):
            if weight:
                np.multiply(
                    array[(*before, tap)], weight, out=weighted, dtype=weights.dtype, casting="unsafe"
                )
                target += weighted
    return out


def _holding(scan: Scan, fill: float | np.ndarray) -> Scan:
    """The scan with values of a type that ``fill`` is one of; cast to another one it would wrap around."""
    array, wanted = scan.array, np.asarray(fill)
    if array.dtype.kind == "f":
        return scan
    ends = np.iinfo(array.dtype)
    if (wanted == np.rint(wanted)).all() and ends.min <= wanted.min() and wanted.max() <= ends.max:
        return scan
    wide = precision.working(array.dtype, float(array.min()), float(array.max()))
    return dataclasses.replace(scan, array=array.astype(wide))


def _window(array: np.ndarray, start, size, fill: float | np.ndarray) -> np.ndarray:
    out = np.full(size, fill, array.dtype)
    source = tuple(slice(max(0, s), min(n, s + w)) for s, w, n in zip(start, size, array.shape, strict=True))
    target = tuple(slice(c.start - s, c.stop - s) for c, s in zip(source, start, strict=True))
    out[target] = array[source]
    return out


def _moved(scan: Scan, start, step) -> Scan:
    """The scan's affine and grid after new index i means old index ``start + i * step``."""
    change = np.diag([*step, 1.0])
    change[:-1, -1] = start
    return dataclasses.replace(
        scan,
        affine=None if scan.affine is None else scan.affine @ change,
        grid=change if scan.grid is None else scan.grid @ change,
    )
