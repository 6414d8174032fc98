"""Slices to a volume: their order along the normal, their distance from their positions, holes and copies.

DICOM PS3.3 C.7.6.2 (Image Plane). SliceThickness and SpacingBetweenSlices are what was asked of the scanner,
and InstanceNumber is the order of whatever wrote the files: none of them is used.
"""

import numpy as np

from vitmed.scans.dicom_header import Image
from vitmed.scans.scan import Refused

EVEN = 0.05  # of the usual distance between slices: by how much one may differ
SHEAR = 0.02  # of the way through the stack: how far it may lead off the normal
SAME = 1e-3  # millimetres: slices nearer than this lie at one position
# Of RescaleType (PS3.3 C.11.1.1.2), what names the same unit as another, or, with "", none: US is "unspecified",
# "normalized" Philips' word for it in MR.
_UNITS = {"HU_MOD": "HU", "US": "", "normalized": ""}


def order(parts: list[tuple[Image, int]]) -> tuple[list[int], np.ndarray]:
    """The order of slices along their normal, and the affine of the stack (slice, row, column) to LPS.

    Args:
        parts: (image, frame) of at least two slices.

    Raises:
        Refused: they do not make one evenly spaced, unsheared volume.
    """
    _agree(parts)
    planes = [image.plane(frame) for image, frame in parts]
    if any(p.orientation is None or p.position is None for p in planes):
        raise Refused("slices without position", "ImagePositionPatient or ImageOrientationPatient is missing")
    orientations = np.array([p.orientation for p in planes])
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise Refused("mixed orientation in one series", f"of {len(parts)} slices")
    row, column = orientations[0, :3], orientations[0, 3:]
    if abs(row @ column) > 1e-3 or max(abs(row @ row - 1), abs(column @ column - 1)) > 1e-3:
        raise Refused("orientation unknown", "the directions of its rows and columns are not at right angles")
    normal = np.cross(row, column)
    positions = np.array([p.position for p in planes])
    along = positions @ normal
    ordered = np.argsort(along, kind="stable")
    gaps = np.diff(along[ordered])
    step = float(np.median(gaps))
    if gaps.min() < SAME:
        count = int((gaps < SAME).sum())
        raise Refused(
            "several slices at one position", f"{count} of {len(parts)}, and nothing tells them apart"
        )
    if gaps.max() - step > EVEN * step:
        where = int(gaps.argmax())
        lost = round(gaps[where] / step) - 1
        about = f"{lost} missing" if lost > 0 and abs(gaps[where] / step - lost - 1) < EVEN else "uneven"
        raise Refused(
            "missing slices",
            f"{gaps[where]:.4g} mm after slice {where + 1} of {len(parts)} where {step:.4g} mm is usual: {about}",
        )
    if step - gaps.min() > EVEN * step:
        raise Refused("uneven slices", f"{gaps.min():.4g} mm between two where {step:.4g} mm is usual")
    path = (positions[ordered[-1]] - positions[ordered[0]]) / (len(parts) - 1)
    if np.linalg.norm(path - normal * (path @ normal)) > SHEAR * np.linalg.norm(path):
        raise Refused("sheared slices", "their positions do not lie along their normal (gantry tilt)")
    spacings = {p.spacing for p in planes}
    if None in spacings:
        raise Refused("no voxel spacing", "PixelSpacing is missing")
    in_plane = np.array(sorted(spacings))
    if in_plane.min() <= 0:
        raise Refused("no voxel spacing", f"PixelSpacing is {tuple(in_plane.min(0).tolist())}")
    if np.abs(in_plane / in_plane[0] - 1).max() > 1e-3:
        raise Refused(
            "mixed pixel spacing in one series", f"{in_plane[0].tolist()} and {in_plane[-1].tolist()}"
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = path, column * in_plane[0, 0], row * in_plane[0, 1]
    affine[:3, 3] = positions[ordered[0]]
    return ordered.tolist(), affine


def _agree(parts: list[tuple[Image, int]]) -> None:
    """Refuses slices that differ in what one volume has once."""
    for name, what in (("modality", "Modality"), ("photometric", "PhotometricInterpretation")):
        found = sorted({getattr(image, name) for image, _ in parts})
        if len(found) > 1:
            raise Refused(f"mixed {what} in one series", " and ".join(found))
    told = {image.plane(frame).rescale_type for image, frame in parts}
    units = sorted({_UNITS.get(unit, unit) for unit in told} - {""})
    if len(units) > 1:
        raise Refused("mixed RescaleType in one series", " and ".join(units))
    shapes = sorted({(image.rows, image.columns, image.samples) for image, _ in parts})
    if len(shapes) > 1:
        raise Refused("mixed image sizes in one series", f"{shapes[0]} and {shapes[-1]}")
