"""Source to scan: the reader of each kind, imported when the first file of the kind is met."""

import warnings

import numpy as np

from vitmed.errors import VitmedError
from vitmed.scans.scan import Refused, Scan, Source

NEAR, FAR = 1e-4, 1e3  # millimetres: finer than any micro-CT, and a metre


def read(source: Source) -> Scan:
    """Reads one scan.

    Raises:
        Refused: the file has a fault, told in the reason.
    """
    try:
        with warnings.catch_warnings():  # remarks on headers; what matters in them is refused
            warnings.simplefilter("ignore")
            return _checked(_read(source))
    except (Refused, VitmedError, MemoryError):
        raise
    except Exception as error:  # a codec's own kind of complaint about a file no reader has met before
        raise Refused("cannot be read", f"{type(error).__name__}: {error}") from error


def _read(source: Source) -> Scan:
    match source.kind:
        case "npz":
            from vitmed.scans import arrays

            return arrays.read_item(source.files[0], source.item)
        case "image":
            from vitmed.scans import images

            return images.read(source.files[0], source.item)
        case "array":
            from vitmed.scans import arrays

            return arrays.read(source.files[0])
        case "nifti":
            from vitmed.scans import nifti

            return nifti.read(source.files[0], source.item)
        case "itk":
            from vitmed.scans import itk

            return itk.read(source.files[0], source.item)
        case "dicom":
            from vitmed.scans import dicom

            return dicom.read(source)
    raise ValueError(f"no reader for {source.kind}")


def _checked(scan: Scan) -> Scan:
    """Refuses what no reader may let through: nothing at all, or a geometry that cannot be."""
    if 0 in scan.array.shape:
        raise Refused("empty image", f"its shape is {scan.array.shape}")
    if scan.spacing is not None:
        spacing = np.asarray(scan.spacing, float)
        if not (np.isfinite(spacing) & (spacing > 0)).all():
            raise Refused("no voxel spacing", f"the file says {tuple(scan.spacing)}")
        if spacing.max() > FAR or spacing.min() < NEAR:
            raise Refused("impossible voxel spacing", f"{tuple(scan.spacing)} mm; are the units right?")
    if scan.affine is not None and not np.isfinite(scan.affine).all():
        raise Refused("orientation unknown", "its position is not finite")
    return scan


def read_mask(path: str) -> Scan:
    """Reads the mask that lies beside a scan, by its suffix."""
    from vitmed.scans.find import kind_of

    return read(Source(path, kind_of(path) or "dicom", (path,)))
