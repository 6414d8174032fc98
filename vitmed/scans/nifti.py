"""NIfTI volumes, turned to the LPS axes.

NIfTI-1: https://nifti.nimh.nih.gov/nifti-1; NIfTI-2 alike. Its world is RAS; ours, like DICOM's, is LPS.
"""

import contextlib
import logging
import math
import os
import zlib

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from vitmed.scans import limits
from vitmed.scans.geometry import axes_of, canonical
from vitmed.scans.inflate import Inflated
from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".nii", ".nii.gz")

# Its remarks on headers that it repairs; what matters in them is refused here.
nib.imageglobals.logger.setLevel(logging.ERROR)

_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by xyzt_units: not told, metre, millimetre, micron
_EXTENSIONS = 16 * 2**20  # bytes that may lie between the header and the voxels
CONFLICT = 0.05  # of the distance between the far corners: by how much sform and qform may differ


def read(path: str, item: tuple[str, int | str] | None = None) -> Scan:
    """Reads a volume as (z, y, x, C) with the header's slope and intercept applied.

    A file that leaves its unit of length open is taken to be in millimetres, as every NIfTI reader does. The
    sform is used where it is set, else the qform; where both are and turn or scale it differently, nothing is. Where
    they differ in the origin alone, which tells of no voxel what it shows, the sform's is taken.

    Args:
        item: ("frame", i) for one volume of a 4D file, ("channels", n) for all of them as channels.

    Raises:
        Refused: broken, not one volume, or without spacing or orientation (they are never invented).
    """
    with _opened(path) as file:
        header = _header(file, path)
        shape = header.get_data_shape()
        last = math.prod(shape[3:])
        if len(shape) < 3 or (last != 1 and item is None):
            raise Refused("not a volume of one contrast", f"its shape is {shape}")
        affine, dtype = _affine(header), header.get_data_dtype()
        if dtype.kind not in "uif":
            raise Refused("not a volume of numbers", f"they are {dtype}")
        proxy = ArrayProxy(file, (shape, dtype, _offset(header), *_scaling(header)), mmap=False)
        try:
            data = np.asarray(
                proxy[..., item[1]] if item and item[0] == "frame" and len(shape) == 4 else proxy
            )
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise Refused("not a readable NIfTI file", str(error)) from None
    if item is None or item[0] == "frame":
        data = data.reshape(shape[:3])
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    array, turned = canonical(data, affine)
    spacing = tuple(float(s) for s in np.linalg.norm(turned[:3, :3], axis=0))
    array = array[..., None] if array.ndim == 3 else array
    return Scan(array, spacing=spacing, affine=turned, orientation=axes_of(affine))


def measure(path: str) -> tuple[tuple[int, ...], np.ndarray]:
    """(i, j, k) size and the affine of that index to LPS millimetres, from the header alone.

    Raises:
        Refused: as ``read``, for faults of the header.
    """
    with _opened(path) as file:
        header = _header(file, path)
        shape = header.get_data_shape()
        if len(shape) < 3:
            raise Refused("not a volume of one contrast", f"its shape is {shape}")
        return tuple(map(int, shape[:3])), _affine(header)


def volumes(path: str) -> int:
    """How many volumes a file holds, by its header; 1 where it cannot be read, which ``read`` then says.

    Raises:
        Refused: more than it can hold, or of five dimensions.
    """
    try:
        with _opened(path) as file:
            shape = _header(file, path).get_data_shape()
    except Refused as fault:
        if fault.reason in ("declares more than it holds", "too large"):
            raise
        return 1
    if math.prod(shape[4:]) > 1:
        raise Refused("not a volume of one contrast", f"its shape is {shape}")
    return shape[3] if len(shape) > 3 else 1


@contextlib.contextmanager
def _opened(path: str):
    """The file, inflated as it is read where it is compressed."""
    try:
        with contextlib.ExitStack() as stack:
            if path.lower().endswith(".gz"):
                yield Inflated(stack.enter_context(open(path, "rb")))
            else:
                yield stack.enter_context(contextlib.closing(limits.bounded(path)))
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise Refused("cannot be opened", error.strerror or str(error)) from None
        raise Refused("not a readable NIfTI file", str(error)) from None


def _header(file, path: str) -> nib.Nifti1Header:
    """The header as it stands in the file, checked against what the file can hold.

    Extensions are never read: their declared length is not to be trusted.
    """
    block = file.read(540)
    kinds = ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540))
    sizes = [int.from_bytes(block[:4], order) for order in ("little", "big")]
    found = next(((k, n) for k, n in kinds if n in sizes and len(block) >= n), None)
    if found is None:
        raise Refused("not a readable NIfTI file", "it does not begin with a NIfTI header")
    kind, size = found
    try:
        header = kind(block[:size], check=False)
        if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
            raise Refused("not a readable NIfTI file", "its voxels are in another file; convert it to .nii")
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError, ValueError) as error:
        raise Refused("not a readable NIfTI file", str(error)) from None
    if not shape or min(shape) < 1:
        raise Refused("empty image", f"its shape is {tuple(map(int, shape))}")
    held, packed = os.path.getsize(path), path.lower().endswith(".gz")
    limits.declared(math.prod(map(int, shape)) * dtype.itemsize, held, packed)
    offset = _offset(header)
    if not size <= offset <= _EXTENSIONS:
        raise Refused("not a readable NIfTI file", f"its voxels begin at byte {offset}")
    return header


def _offset(header) -> int:
    offset = float(header["vox_offset"])
    return int(offset) if math.isfinite(offset) else -1


def _scaling(header) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 means none, NaN is a fault of the file."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or (math.isnan(slope) and math.isnan(intercept)):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise Refused("not a readable NIfTI file", f"its slope is {slope} and its intercept {intercept}")
    return slope, intercept


def _affine(header) -> np.ndarray:
    """Index (i, j, k) to LPS millimetres.

    Raises:
        Refused: no spacing, no orientation, or two that disagree.
    """
    zooms = np.asarray(header["pixdim"][1:4], float)
    if not (np.isfinite(zooms) & (zooms > 0)).all():
        raise Refused("no voxel spacing", f"the header says {tuple(map(float, zooms))}")
    both = []
    if header["sform_code"] > 0:
        both.append(header.get_sform())
    if header["qform_code"] > 0:
        try:
            both.append(header.get_qform())
        except (ValueError, nib.spatialimages.HeaderDataError) as error:
            raise Refused("orientation unknown", f"its qform is none: {error}") from None
    if not both:
        raise Refused("orientation unknown", "sform and qform codes are both 0")
    if not all(np.isfinite(matrix).all() for matrix in both):
        raise Refused("orientation unknown", "its sform or qform holds what is no number")
    shape = header.get_data_shape()[:3]
    if len(both) == 2 and len(shape) == 3:
        _refuse_conflict(*both, shape)
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ both[0].astype(float)
    unit = int(header["xyzt_units"]) & 7  # of length; the other bits are that of time
    if unit not in _MILLIMETRES:
        raise Refused("no voxel spacing", f"its unit of length has the code {unit}, which stands for none")
    to_lps[:3] *= _MILLIMETRES[unit]
    return to_lps


def _refuse_conflict(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses two matrices that turn or scale a volume differently; another origin alone is another space.

    An sform may lead to a standard space (a template's) that the qform does not, at any place and angle; but
    then it is not known which of both the labels and the other scans are in.
    """
    diagonal = np.asarray(shape, float)
    a, b = sform[:3, :3], qform[:3, :3]
    far = np.linalg.norm(np.abs(b) @ diagonal)
    if np.linalg.norm((a - b) * diagonal) > CONFLICT * far:
        ways = " and ".join("".join(c or "?" for c in nib.aff2axcodes(m)) for m in (sform, qform))
        sizes = [np.linalg.norm(m, axis=0).round(3).tolist() for m in (a, b)]
        raise Refused("sform and qform disagree", f"{ways}, voxels of {sizes[0]} and {sizes[1]} mm")
