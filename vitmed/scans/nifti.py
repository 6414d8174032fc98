"""NIfTI volumes, turned to the LPS axes.

NIfTI-1: https://nifti.nimh.nih.gov/nifti-1. Its world is RAS; ours, like DICOM's, is LPS.
"""

import logging
import zlib

import nibabel as nib
import numpy as np

from vitmed.scans.geometry import canonical
from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".nii", ".nii.gz")

# Its remarks on headers that it repairs; what matters in them is refused here.
nib.imageglobals.logger.setLevel(logging.ERROR)

_MILLIMETRES = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}


def read(path: str) -> Scan:
    """Reads a 3D volume as (z, y, x, 1) with the header's slope and intercept applied.

    A file that leaves its unit of length open is taken to be in millimetres, as every NIfTI reader does.

    Raises:
        Refused: broken, not 3D, or without spacing or orientation (they are never invented).
    """
    try:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise Refused("not a readable NIfTI file", str(error)) from None
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3 or data.dtype.kind not in "uif":
        raise Refused("not a volume of one contrast", f"its shape is {data.shape}, of {data.dtype}")
    header = image.header
    zooms = _stored_zooms(image)
    if not (np.isfinite(zooms) & (zooms > 0)).all():
        raise Refused("no voxel spacing", f"the header says {tuple(map(float, zooms))}")
    if header.get("sform_code", 1) == 0 and header.get("qform_code", 1) == 0:
        raise Refused("orientation unknown", "sform and qform codes are both 0")
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine.astype(float)
    to_lps[:3] *= _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    array, affine = canonical(data, to_lps)
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(array[..., None], spacing=spacing, affine=affine)


def _stored_zooms(image: nib.Nifti1Image) -> np.ndarray:
    """The three voxel sizes as they stand in the file; nibabel's own header has turned zeros into ones."""
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        header = type(image.header).from_fileobj(file, check=False)
    return np.asarray(header["pixdim"][1:4], float)
