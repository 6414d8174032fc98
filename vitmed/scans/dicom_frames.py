"""Where each image of a DICOM file lies, also where one file holds many.

Enhanced CT, MR and others keep the geometry of each frame in functional groups, shared by all frames or given
per frame (DICOM PS3.3 C.7.6.16). Older multi-frame objects, cine ultrasound among them, have none: their
frames are pictures in time.
"""

import dataclasses
import math

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from vitmed.scans.dicom_values import Values
from vitmed.scans.scan import Refused

_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_CENTIMETRES, _TISSUE = 3, 1


@dataclasses.dataclass(slots=True, frozen=True)
class Plane:
    """Where an image lies and what its values mean; of a file, or of one frame.

    Attributes:
        position, orientation: as DICOM gives them, LPS millimetres; None where missing.
        spacing: (row, column) millimetres, or None. Of a radiograph that was not calibrated it is the detector's
            (ImagerPixelSpacing), which is larger than the patient's by the magnification.
        thickness: of the slice, for choosing only; None unknown.
        slope, intercept: of the modality LUT, None where missing.
        rescale_type: what slope and intercept give (RescaleType, PS3.3 C.11.1.1.2), "" where it is not said.
        window: (centre, width, function), or None.
        apart: (name, value) of what makes images differ that lie at one place: echo, echo time, b-value, time ...
    """

    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    slope: float | None = None
    intercept: float | None = None
    rescale_type: str = ""
    window: tuple[float, float, str] | None = None
    apart: tuple[tuple[str, object], ...] = ()


def planes_of(data: Dataset, get: Values, image_type: tuple[str, ...], frames: int) -> tuple[Plane, ...]:
    """One plane for all frames of a file, or one a frame where functional groups tell them apart.

    Raises:
        Refused: functional groups of another number than there are frames.
    """
    if _PER_FRAME not in get:
        return (_plane(get, image_type),)
    each = data[_PER_FRAME].value
    if len(each) != frames:
        raise Refused("broken DICOM header", f"{frames} frames, but functional groups of {len(each)}")
    shared = data[_SHARED].value[0] if _SHARED in data and len(data[_SHARED].value) else Dataset()
    return tuple(_frame(own, shared, image_type) for own in each)


def _plane(get: Values, image_type: tuple[str, ...]) -> Plane:
    """The plane of a file whose header tells it directly."""
    apart = (
        ("echo", get.number(0x00180086)),
        ("TE", get.number(0x00180081)),
        ("b", get.b_value()),
        ("time", get.number(0x00200100)),
        ("type", "-".join(image_type[2:]) or None),
        ("acquisition", get.number(0x00200012)),
        ("trigger", get.number(0x00181060)),
    )
    window = get.numbers(0x00281050), get.numbers(0x00281051)
    return Plane(
        position=_some(get.numbers(0x00200032), 3),
        orientation=_some(get.numbers(0x00200037), 6),
        spacing=_some(get.numbers(0x00280030), 2) or _some(get.numbers(0x00181164), 2) or _regions(get),
        thickness=get.number(0x00180050),
        slope=get.number(0x00281053),
        intercept=get.number(0x00281052),
        rescale_type=get.text(0x00281054),
        window=(window[0][0], window[1][0], get.text(0x00281056) or "LINEAR") if all(window) else None,
        apart=tuple((name, value) for name, value in apart if value is not None),
    )


def _frame(own: Dataset, shared: Dataset, image_type: tuple[str, ...]) -> Plane:
    """The plane of one frame; what its own groups leave out is in the shared ones.

    Raises:
        Refused: several values of what a frame has once, or none of a number where there is one.
    """

    def group(name: str) -> Dataset:
        for holder in (own, shared):
            sequence = holder.get(name)
            if sequence:
                return sequence[0]
        return Dataset()

    def one(name: str, keyword: str):
        value = group(name).get(keyword)
        if isinstance(value, list | MultiValue):
            raise Refused("broken DICOM header", f"{keyword} of a frame is {list(value)}, not one value")
        return value

    def number(name: str, keyword: str) -> float | None:
        value = one(name, keyword)
        try:
            found = _float(value)
        except (TypeError, ValueError):  # of another VR than the keyword has
            found = math.nan
        if found is not None and not math.isfinite(found):
            raise Refused("broken DICOM header", f"{keyword} of a frame is {str(value)[:40]!r}, not a number")
        return found

    measures = group("PixelMeasuresSequence")
    rescale, voi = group("PixelValueTransformationSequence"), group("FrameVOILUTSequence")
    kind = group("MRImageFrameTypeSequence") or group("CTImageFrameTypeSequence")
    frame_type = list(kind.get("FrameType") or image_type)
    stack = one("FrameContentSequence", "StackID")
    apart = (
        ("stack", None if stack is None else str(stack)),
        ("TE", number("MREchoSequence", "EffectiveEchoTime")),
        ("b", number("MRDiffusionSequence", "DiffusionBValue")),
        ("time", number("FrameContentSequence", "TemporalPositionIndex")),
        ("type", "-".join(map(str, frame_type[2:])) or None),
        ("acquisition", number("FrameContentSequence", "FrameAcquisitionNumber")),
        ("trigger", number("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")),
    )
    centre, width = voi.get("WindowCenter"), voi.get("WindowWidth")
    window = None
    if centre is not None and width is not None:
        centre, width = (float(v if isinstance(v, int | float) else v[0]) for v in (centre, width))
        window = (centre, width, str(voi.get("VOILUTFunction") or "LINEAR"))
    return Plane(
        position=_some(group("PlanePositionSequence").get("ImagePositionPatient"), 3),
        orientation=_some(group("PlaneOrientationSequence").get("ImageOrientationPatient"), 6),
        spacing=_some(measures.get("PixelSpacing"), 2),
        thickness=_float(measures.get("SliceThickness")),
        slope=_float(rescale.get("RescaleSlope")),
        intercept=_float(rescale.get("RescaleIntercept")),
        rescale_type=str(rescale.get("RescaleType") or ""),
        window=window,
        apart=tuple((name, value) for name, value in apart if value is not None),
    )


def _regions(get: Values) -> tuple[float, float] | None:
    """The pixel spacing of an ultrasound image with one region of tissue, given in centimetres."""
    if 0x00186011 not in get:
        return None
    tissue = [r for r in get.data[0x00186011].value if r.get("RegionSpatialFormat") == _TISSUE]
    if len(tissue) != 1:
        return None
    (region,) = tissue
    units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
    if units != (_CENTIMETRES, _CENTIMETRES):
        return None
    return 10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX))


def _some(values, count: int) -> tuple[float, ...] | None:
    """That many numbers, or None where there are none.

    Raises:
        Refused: another number of them, or NaN or infinity among them.
    """
    if values is None or len(values) == 0:
        return None
    found = tuple(float(v) for v in values)
    if len(found) != count or not all(map(math.isfinite, found)):
        raise Refused("broken DICOM header", f"{found} where {count} finite numbers were expected")
    return found


def _float(value) -> float | None:
    return None if value is None or value == "" else float(value)
