"""DICOM to scan: one image, or slices that are put together by their positions.

``dicom_header`` reads what a file is, ``dicom_group`` which files belong together, ``dicom_stack`` where the
slices lie, ``dicom_pixels`` what they hold; here it becomes one array.
"""

import numpy as np

from vitmed.scans import dicom_group, dicom_header, dicom_pixels, dicom_stack, geometry
from vitmed.scans.dicom_frames import Plane
from vitmed.scans.dicom_header import Image
from vitmed.scans.how import INCLUDABLE
from vitmed.scans.images import grey_if_equal
from vitmed.scans.recipe import modality_or_unknown
from vitmed.scans.scan import Refused, Scan, Source

_HOUNSFIELD = ("", "HU", "HU_MOD", "US")  # US is "unspecified", which converters write beside true HU


def read(source: Source | tuple[str, ...]) -> Scan:
    """Reads the images of a source: one as (H, W, C), several as a volume (z, y, x, C) near the LPS axes.

    Rescale slope and intercept are applied (CT is then in HU); of others than CT MONOCHROME1 is inverted, so that
    more is brighter everywhere. A source with its item ``("channels", n)`` gives (H, W, n).

    Args:
        source: as found, or just files, which must then be of one volume.

    Raises:
        Refused: an unreadable file, a CT in other units than HU, or slices that do not make one evenly spaced,
            unsheared volume.
    """
    channels = isinstance(source, Source) and source.item is not None and source.item[0] == "channels"
    parts = _parts(source)
    first, plane = parts[0][0], parts[0][0].plane(parts[0][1])
    modality = modality_or_unknown(first.modality)
    affine, spacing = None, plane.spacing
    if len(parts) > 1 and not channels:
        order, affine = dicom_stack.order(parts)
        parts = [parts[i] for i in order]
    dicom_pixels.check_total(first, len(parts))
    if modality == "ct":
        _refuse_ct_without_units(parts)
    array, span = _array(parts)
    if len(parts) == 1 or channels:
        array = array[0] if not channels else _as_channels(array)
        span = span or (_span(first, plane, array) if modality != "ct" else None)
    elif array.dtype == np.uint8 and _span(first, plane, array) == (0.0, 255.0):
        span = (0.0, 255.0)  # a window of one slice is not the volume's
    if first.photometric == "MONOCHROME1" and modality != "ct":
        array = -array.astype(np.float32)
        span = None if span is None else (-span[1], -span[0])
    orientation = ""
    if affine is not None:
        orientation = geometry.axes_of(affine)
        array, affine = geometry.canonical(array, affine)
        spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    elif spacing is not None and min(spacing) <= 0:
        spacing = None
    return Scan(
        array if channels else grey_if_equal(array),
        span=span,
        spacing=spacing,
        affine=affine,
        modality=modality,
        patient=first.patient,
        site=first.site,
        orientation=orientation,
    )


def _parts(source: Source | tuple[str, ...]) -> list[tuple[Image, int]]:
    if isinstance(source, Source) and source.parts:
        return list(source.parts)
    files = source.files if isinstance(source, Source) else source
    images = [dicom_header.look(file, INCLUDABLE) for file in files]
    several = next((i for i in images if i.frames > 1 and len(i.planes) == 1), None)
    if several is not None:
        raise Refused("several images in one file", f"{several.frames} frames")
    parts = [(image, frame) for image in images for frame in range(image.frames)]
    stacks = dicom_group.stacks(parts)
    if len(stacks) > 1:
        what = sorted({word.rsplit("-", 1)[0] for label, _ in stacks for word in label.split("+")})
        named = "orientation" if {"axial", "coronal", "sagittal"} & set(what) else " and ".join(what)
        raise Refused(f"mixed {named} in one series", " and ".join(label for label, _ in stacks[:3]))
    return parts


def _array(parts: list[tuple[Image, int]]) -> tuple[np.ndarray, tuple[float, float] | None]:
    """All images as (n, H, W, C), in one type that holds them all, and the span of a VOI table."""
    array, span = None, None
    for k, (image, frame) in enumerate(parts):
        values, span = dicom_pixels.values(image, frame)
        if array is None:
            array = np.empty((len(parts), *values.shape), values.dtype)
        elif values.dtype != array.dtype:
            array = array.astype(np.promote_types(array.dtype, values.dtype), copy=False)
        if values.shape != array.shape[1:]:
            raise Refused("mixed image sizes in one series", f"{array.shape[1:]} and {values.shape}")
        array[k] = values
    return array, span


def _as_channels(array: np.ndarray) -> np.ndarray:
    if array.shape[-1] != 1:
        raise Refused(
            "colour frames cannot be channels", f"{array.shape[0]} frames of {array.shape[-1]} channels"
        )
    return np.moveaxis(array[..., 0], 0, -1)


def _refuse_ct_without_units(parts: list[tuple[Image, int]]) -> None:
    for image, frame in parts:
        plane = image.plane(frame)
        if not image.photometric:
            raise Refused(
                "CT without Hounsfield units", "it has no PhotometricInterpretation; it may be colours"
            )
        if not image.photometric.startswith("MONOCHROME"):
            raise Refused("CT without Hounsfield units", f"its pixels are colours ({image.photometric})")
        if image.modality_lut is not None:  # stands in the rescale's place (PS3.3 C.11.1)
            if image.modality_lut != "HU":
                found = image.modality_lut or "missing"
                raise Refused("CT without Hounsfield units", f"its ModalityLUTType is {found}, not HU")
        elif plane.intercept is None:
            raise Refused("CT without rescale", "no RescaleIntercept, so its Hounsfield units are not known")
        elif plane.rescale_type not in _HOUNSFIELD:
            raise Refused("CT without Hounsfield units", f"its RescaleType is {plane.rescale_type}")


def _span(image: Image, plane: Plane, values: np.ndarray) -> tuple[float, float] | None:
    """The values of black and white: the window, else all of 8 bits, else not said.

    DICOM PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3.2 (LINEAR_EXACT). A SIGMOID (C.11.2.1.3.1) reaches neither; its tangent
    at the centre does so where LINEAR_EXACT would. Colours have none (C.11.2.1.2).
    """
    grey = image.photometric.startswith("MONOCHROME")
    if grey and plane.window is not None and np.isfinite(plane.window[:2]).all():
        centre, width, function = plane.window
        if function == "LINEAR" and width > 1:
            return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        if width > 0:
            return centre - width / 2, centre + width / 2
    return (0.0, 255.0) if values.dtype == np.uint8 else None
