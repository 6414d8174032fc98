"""DICOM series: one file, or slices that are put together by their positions.

DICOM PS3.3: Image Plane Module (C.7.6.2), Modality LUT (C.11.1), VOI LUT (C.11.2), Image Pixel (C.7.6.3).
"""

import dataclasses
import os
import warnings

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut

from vitmed.errors import InputError
from vitmed.scans.geometry import canonical
from vitmed.scans.images import grey_if_equal
from vitmed.scans.recipe import modality as canonical_modality
from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".dcm", ".dicom", ".ima")

# Objects that refer to scans but are none.
_NOT_SCANS = set("SEG SR PR KO RTSTRUCT RTPLAN RTDOSE REG FID DOC PLAN AU ECG".split())
_HEADER = ["SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "Columns"]


@dataclasses.dataclass(frozen=True)
class _Slice:
    values: np.ndarray  # (H, W, C), rescaled
    header: pydicom.Dataset


def is_dicom(path: str) -> bool:
    """Whether a file has the DICOM preamble (files need no suffix)."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def series_of(path: str) -> str:
    """The SeriesInstanceUID of a file, read from its header alone.

    Raises:
        Refused: not DICOM, not an image, or without a series.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise Refused("not a readable DICOM file", _first_line(error)) from None
    if header.get("Modality", "") in _NOT_SCANS:
        raise Refused("DICOM that is not a scan", f"its modality is {header.Modality}")
    if not header.get("Rows") or not header.get("Columns"):
        raise Refused("DICOM without an image")
    if not header.get("SeriesInstanceUID"):
        raise Refused("DICOM without a SeriesInstanceUID", "the series it belongs to is not known")
    return str(header.SeriesInstanceUID)


def read(files: tuple[str, ...]) -> Scan:
    """Reads a series: one file as (H, W, C), several as a volume (z, y, x, C) near the LPS axes.

    Rescale slope and intercept are applied (CT is then in HU); MONOCHROME1 is inverted, so that more is
    brighter everywhere. Slices are ordered along their normal and their distance is measured, never read from
    SliceThickness.

    Raises:
        Refused: an unreadable file, or slices that do not make one evenly spaced, unsheared volume.
    """
    slices = [_read(file) for file in files]
    first = slices[0].header
    modality = _modality(first)
    if modality == "ct" and "RescaleIntercept" not in first:
        raise Refused("CT without rescale", "no RescaleIntercept, so its Hounsfield units are not known")
    values = slices[0].values
    span = _span(first, values) if modality != "ct" else None
    spacing, affine = _pixel_spacing(first), None
    if len(slices) > 1:
        order, affine = _stack(slices)
        values = np.stack([slices[i].values for i in order])
        span = (0.0, 255.0) if span == (0.0, 255.0) else None  # a window of one slice is not the volume's
    if first.get("PhotometricInterpretation") == "MONOCHROME1":
        values = -values.astype(np.float32)
        span = None if span is None else (-span[1], -span[0])
    if affine is not None:
        values, affine = canonical(values, affine)
        spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(
        grey_if_equal(values),
        span=span,
        spacing=spacing,
        affine=affine,
        modality=modality,
        patient=str(first.get("PatientID") or "").strip(),
        site=str(first.get("InstitutionName") or "").strip(),
    )


def _read(path: str) -> _Slice:
    name = os.path.basename(path)
    try:
        data = pydicom.dcmread(path)
        if int(data.get("NumberOfFrames") or 1) > 1:
            raise Refused("several frames in one DICOM file", f"{name} holds {data.NumberOfFrames}")
        pixels = data.pixel_array
        if data.PhotometricInterpretation == "PALETTE COLOR":
            pixels = (apply_color_lut(pixels, data) >> 8).astype(np.uint8)
    except Refused:
        raise
    except Exception as error:  # decoders raise whatever their codec raises
        raise Refused("broken DICOM file", f"{name}: {_first_line(error)}") from None
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    slope, intercept = float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)
    if (slope, intercept) != (1.0, 0.0):
        pixels = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    del data.PixelData  # the header is kept for as long as the series is read
    return _Slice(pixels, data)


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _stack(slices: list[_Slice]) -> tuple[list[int], np.ndarray]:
    """The order of slices along their normal, and the affine of the stack (slice, row, column) to LPS."""
    headers = [s.header for s in slices]
    for what in ("Modality", "PhotometricInterpretation"):
        found = sorted({str(h.get(what, "")) for h in headers})
        if len(found) > 1:
            raise Refused(f"mixed {what} in one series", " and ".join(found))
    shapes = sorted({s.values.shape for s in slices})
    if len(shapes) > 1:
        raise Refused("mixed image sizes in one series", f"{shapes[0]} and {shapes[1]}")
    if any("ImageOrientationPatient" not in h or "ImagePositionPatient" not in h for h in headers):
        raise Refused("slices without position", "ImagePositionPatient or ImageOrientationPatient is missing")
    orientations = np.array([h.ImageOrientationPatient for h in headers], float)
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise Refused("mixed orientation in one series", f"of {len(slices)} slices")
    positions = np.array([h.ImagePositionPatient for h in headers], float)
    row, column = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(row, column)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    step = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise Refused("several slices at one position", "more than one stack (echoes, times) in the series")
    if np.abs(gaps - step).max() > 0.05 * step:
        raise Refused(
            "missing slices", f"{gaps.max():.4g} mm between two slices where {step:.4g} mm is usual"
        )
    path = (positions[order[-1]] - positions[order[0]]) / (len(slices) - 1)
    if np.linalg.norm(path - normal * (path @ normal)) > 0.02 * np.linalg.norm(path):
        raise Refused("sheared slices", "their positions do not lie along their normal (gantry tilt)")
    in_plane = _pixel_spacing(headers[0])
    if in_plane is None:
        raise Refused("no voxel spacing", "PixelSpacing is missing")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = path, column * in_plane[0], row * in_plane[1]
    affine[:3, 3] = positions[order[0]]
    return order.tolist(), affine


def _modality(header: pydicom.Dataset) -> str:
    try:
        return canonical_modality(header.get("Modality") or "unknown")
    except InputError:  # a real modality (PT, NM, OPT ...) that has no conventions of its own here
        return "unknown"


def _pixel_spacing(header: pydicom.Dataset) -> tuple[float, float] | None:
    """(row, column) millimetres; at the detector where a radiograph gives only that."""
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if not spacing or len(spacing) != 2 or min(map(float, spacing)) <= 0:
        return None
    return float(spacing[0]), float(spacing[1])


def _span(header: pydicom.Dataset, values: np.ndarray) -> tuple[float, float] | None:
    """The values of black and white: the first window, else all of 8 bits, else not said."""
    centre, width = header.get("WindowCenter"), header.get("WindowWidth")
    if centre is not None and width is not None:
        centre, width = (float(v if isinstance(v, (int, float)) else v[0]) for v in (centre, width))
        if header.get("VOILUTFunction", "LINEAR") == "LINEAR" and width > 1:
            return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        if width > 0:
            return centre - width / 2, centre + width / 2
    return (0.0, 255.0) if values.dtype == np.uint8 else None
