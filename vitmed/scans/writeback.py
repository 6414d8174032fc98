"""What was made on a dataset's grid goes back onto the grid of the scan it was made from, and to NIfTI."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from vitmed.errors import InputError
from vitmed.scans import geometry

_AXES = {side: (axis, side in "IAR") for axis, sides in enumerate(("SI", "PA", "LR")) for side in sides}


def onto_scan(
    array: np.ndarray, record: Mapping, *, nearest: bool, fill: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Puts an array that lies on a record's grid onto the grid of the file that the record was made from.

    The voxels are those of the file, in the order of its axes as its reader had them: (i, j, k) of a NIfTI file,
    (slice, row, column) of a DICOM series, (z, y, x) of MHA and NRRD; pictures and arrays keep theirs. To half a
    voxel, what was ingested comes back to its place.

    Args:
        array: (*S) or (*S, C), S the size of the record's image.
        record: an example as a dataset gives it; ``affine grid orientation read_size`` are read.
        nearest: for masks: the value of the nearest voxel. Else linear between voxels, float32.
        fill: the value where the dataset's grid does not reach (what was cropped away).

    Returns:
        The array, and (4, 4) its index to LPS millimetres, NaN where the file did not tell.

    Raises:
        InputError: the array is not of the record's size.
    """
    grid, size = _grid_of(record)
    n = len(size)
    _check(array.shape, array.ndim - n, record)
    channels = [array] if array.ndim == n else list(np.moveaxis(array, -1, 0))
    back = [geometry.onto(c, grid, size, np.eye(n + 1), nearest, fill) for c in channels]
    return _at_home(back[0] if array.ndim == n else np.stack(back, axis=-1), record)


def likeliest_onto_scan(probability: np.ndarray, record: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class of every voxel of the file that a record was made from.

    Probabilities are read between the voxels of the record's grid, and then compared: where that grid is coarser than the
    file, the border of a mask that was chosen before would follow the coarse voxels.

    Args:
        probability: (*S, 1 + K), the background's first, S the size of the record's image.
        record: as for ``onto_scan``.

    Returns:
        (*F) uint8 of the file's size, 0 where the record's grid does not reach, and (4, 4) as ``onto_scan`` gives it.

    Raises:
        InputError: as ``onto_scan``.
    """
    grid, size = _grid_of(record)
    n, classes = len(size), probability.shape[-1]
    _check(probability.shape, 1, record)
    if np.allclose(grid, np.rint(grid), atol=1e-6) and abs(np.linalg.det(grid)) < 1.5:
        # Voxel lies on voxel: there is nothing between them to read.
        return onto_scan(probability.argmax(axis=-1).astype(np.uint8), record, nearest=True)
    best = geometry.onto(probability[..., 0], grid, size, np.eye(n + 1), False, 1.0)
    likeliest = np.zeros(size, np.uint8)
    for k in range(1, classes):
        # The likeliest has no less than an equal share, and what lies between voxels no more than the larger of both.
        box = _box(probability[..., k] > 1 / classes)
        if box is None:
            continue
        low = np.maximum(box[0] - 2, 0)
        part = probability[tuple(slice(a, b) for a, b in zip(low, box[1] + 2)) + (k,)]
        corners = np.array(list(itertools.product(*zip(box[0] - 1, box[1])))) @ grid[:n, :n].T + grid[:n, n]
        start = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, size)
        stop = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, start, size)
        here = tuple(slice(a, b) for a, b in zip(start, stop))
        layer = geometry.onto(part, grid @ _moved(low), tuple(stop - start), _moved(start), False)
        likeliest[here][layer > best[here]] = k
        np.maximum(best[here], layer, out=best[here])
    return _at_home(likeliest, record)


def _grid_of(record: Mapping) -> tuple[np.ndarray, tuple[int, ...]]:
    """(n + 1, n + 1) the record's index to that of its file, axes as the record has them, and the file's size."""
    return np.asarray(record["grid"], float), tuple(int(n) for n in record["read_size"])


def _check(shape: tuple[int, ...], channels: int, record: Mapping) -> None:
    held = np.shape(record["image"])[:-1]
    if shape[: len(held)] != held or channels > 1 or len(shape) != len(held) + channels:
        raise InputError(f"an array of {shape} does not lie on the grid of {record['id']}, which is {held}")


def _at_home(array: np.ndarray, record: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """An array on the grid of the record's file, with the axes of that file, and where it lies."""
    grid, size = _grid_of(record)
    affine = np.asarray(record["affine"], float)
    if len(size) == 3:
        affine = affine @ np.linalg.inv(grid)
    return _turned_back(array, affine, record["orientation"])


def _box(there: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Of what is true: (n,) first indices, and those after the last; None of nothing."""
    along = [there.any(axis=tuple(b for b in range(there.ndim) if b != a)) for a in range(there.ndim)]
    if not along[0].any():
        return None
    ends = [np.flatnonzero(one)[[0, -1]] for one in along]
    return np.array([e[0] for e in ends]), np.array([e[1] + 1 for e in ends])


def _moved(start: np.ndarray) -> np.ndarray:
    """The index of a part that begins at ``start`` to that of the whole."""
    made = np.eye(len(start) + 1)
    made[:-1, -1] = start
    return made


def write_nifti(path: str | Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Writes a volume (i, j, k) or (i, j, k, C) as NIfTI-1.

    Args:
        affine: (4, 4) its index to LPS millimetres.

    Raises:
        InputError: no volume, or of unknown place: NIfTI cannot say that.
    """
    if array.ndim not in (3, 4):
        raise InputError(f"{path}: NIfTI is for volumes, not for an array of {array.shape}")
    if not np.isfinite(affine).all():
        raise InputError(f"{path} cannot be written: where its voxels lie is not known, which NIfTI must say")
    image = nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _turned_back(array: np.ndarray, affine: np.ndarray, orientation: str) -> tuple[np.ndarray, np.ndarray]:
    """From S, P, L to the axes that the letters name, the inverse of ``geometry.canonical``."""
    if not orientation:
        return array, affine
    axes = [_AXES[side] for side in orientation]
    change = np.zeros((4, 4))
    change[3, 3] = 1.0
    for here, (there, flipped) in enumerate(axes):
        change[there, here] = -1.0 if flipped else 1.0
        change[there, 3] = array.shape[there] - 1 if flipped else 0.0
    rest = range(3, array.ndim)
    turned = array.transpose([there for there, _ in axes] + list(rest))
    turned = np.flip(turned, [here for here, (_, flipped) in enumerate(axes) if flipped])
    return np.ascontiguousarray(turned), affine @ change
