"""Source to scan: the reader of each kind, imported when the first file of the kind is met."""

import dataclasses
import itertools
import warnings

import numpy as np

from vitmed.errors import VitmedError
from vitmed.scans.kinds import kind_of
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
        case "channels":
            return _stacked(source)
    raise ValueError(f"no reader for {source.kind}")


def _stacked(source: Source) -> Scan:
    """Several files of one grid as the channels of one scan.

    Raises:
        Refused: they differ in size, place, spacing or modality, or one of them has several channels itself.
    """
    scans = [read(Source(file, kind_of(file) or "dicom", (file,))) for file in source.files]
    first = scans[0]
    for number, scan in enumerate(scans):
        if scan.array.shape[-1] != 1:
            raise Refused(
                "several channels in one channel's file", f"{scan.array.shape[-1]} in channel {number}"
            )
        if scan.size != first.size:
            raise Refused(
                "channels of different sizes", f"{first.size} and, in channel {number}, {scan.size}"
            )
        if half_told(scan, first):
            raise Refused(
                "channels of which one says no place",
                f"channel {number} or channel 0 does not say which way it lies; give all in a format that does",
            )
        if not same_place(scan, first):
            raise Refused(
                "channels that lie elsewhere",
                f"the position, spacing or orientation of channel {number} is not channel 0's",
            )
        if scan.modality != first.modality:
            raise Refused("channels of different modalities", f"{first.modality} and {scan.modality}")
    spans = {scan.span for scan in scans}
    return dataclasses.replace(
        first,
        array=np.concatenate([scan.array for scan in scans], axis=-1),
        span=spans.pop() if len(spans) == 1 else None,
    )


def same_place(one: Scan, other: Scan) -> bool:
    """Whether the corners of two scans of one size lie within a tenth of a voxel, as far as both know."""
    if one.affine is not None and other.affine is not None:
        corners = np.array([*itertools.product(*((0, n - 1) for n in one.size))], float)
        apart = np.c_[corners, np.ones(len(corners))] @ (one.affine - other.affine).T
        return bool(np.linalg.norm(apart[:, :3], axis=1).max() <= 0.1 * min(other.spacing))
    if one.spacing is not None and other.spacing is not None:
        return bool(np.allclose(one.spacing, other.spacing, rtol=0.01))
    return True


def half_told(one: Scan, other: Scan) -> bool:
    """Whether of two volumes one alone says how it lies, so that it was turned to S, P, L and the other was not."""
    return len(one.size) == 3 and (one.affine is None) != (other.affine is None)


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
    return read(Source(path, kind_of(path) or "dicom", (path,)))
