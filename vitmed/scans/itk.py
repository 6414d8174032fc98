"""MetaImage and NRRD volumes (and whatever else of that family), read with SimpleITK."""

import numpy as np
import SimpleITK as sitk

from vitmed.scans.geometry import canonical
from vitmed.scans.images import grey_if_equal
from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")


def read(path: str) -> Scan:
    """Reads a 2D image (y, x, C) or a volume (z, y, x, C) near the LPS axes; ITK's world is LPS already.

    Raises:
        Refused: broken, or of more than three dimensions.
    """
    try:
        image = sitk.ReadImage(path)
    except RuntimeError as error:
        raise Refused("not a readable volume", str(error).strip().splitlines()[-1]) from None
    dimension = image.GetDimension()
    if dimension not in (2, 3):
        raise Refused("not an image or volume", f"it has {dimension} dimensions")
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    array = grey_if_equal(array)
    span = (0.0, 255.0) if array.dtype == np.uint8 else None
    spacing = np.asarray(image.GetSpacing(), float)
    if dimension == 2:
        return Scan(array, span=span, spacing=tuple(spacing[::-1].tolist()))
    affine = np.eye(4)
    affine[:3, :3] = (np.asarray(image.GetDirection()).reshape(3, 3) * spacing)[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    array, affine = canonical(array, affine)
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(array, span=span, spacing=spacing, affine=affine)
