"""What was made on a dataset's grid goes back onto the grid of the scan it was made from, and to NIfTI."""

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
    grid, size = np.asarray(record["grid"], float), tuple(int(n) for n in record["read_size"])
    n, held = len(size), np.shape(record["image"])[:-1]
    if array.shape[:n] != held or array.ndim > n + 1:
        raise InputError(
            f"an array of {array.shape} does not lie on the grid of {record['id']}, which is {held}"
        )
    channels = [array] if array.ndim == n else list(np.moveaxis(array, -1, 0))
    back = [geometry.onto(c, grid, size, np.eye(n + 1), nearest, fill) for c in channels]
    out = back[0] if array.ndim == n else np.stack(back, axis=-1)
    affine = np.asarray(record["affine"], float)
    if n == 3:
        affine = affine @ np.linalg.inv(grid)
    return _turned_back(out, affine, record["orientation"])


def likeliest_onto_scan(probability: np.ndarray, record: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest class of every voxel of the file that a record was made from.

    Probabilities are read between the voxels of the record's grid, and then compared: where that grid is coarser than the
    file, the border of a mask that was chosen before would follow the coarse voxels.

    Args:
        probability: (*S, 1 + K), the background's first, S the size of the record's image. One class at a time is brought
            to the file's grid.
        record: as for ``onto_scan``.

    Returns:
        (*F) uint8 of the file's size, 0 where the record's grid does not reach, and (4, 4) as ``onto_scan`` gives it.

    Raises:
        InputError: as ``onto_scan``.
    """
    best, affine = onto_scan(probability[..., 0], record, nearest=False, fill=1.0)
    likeliest = np.zeros(best.shape, np.uint8)
    for k in range(1, probability.shape[-1]):
        layer, _ = onto_scan(probability[..., k], record, nearest=False)
        likeliest[layer > best] = k
        np.maximum(best, layer, out=best)
    return likeliest, affine


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
