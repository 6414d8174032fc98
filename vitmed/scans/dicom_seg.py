"""DICOM segmentations (SEG): the mask of a series, put on the series' own grid.

DICOM PS3.3 A.51 and C.8.20. A BINARY segmentation holds one frame of bits for each segment and slice, a LABELMAP
(Supplement 243) one frame a slice, whose pixels are the numbers of segments. Slices without a voxel of a segment may
be left out, so the grid is that of the positions there are. Frames may lie on a grid of their own: each voxel of the
scan takes the label of the nearest voxel of the segmentation. Of a FRACTIONAL one nothing says from which
probability on a voxel belongs to a segment, so it is refused.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from vitmed import words
from vitmed.scans import dicom_header, dicom_kind, geometry, limits
from vitmed.scans.dicom_frames import planes_of
from vitmed.scans.dicom_stack import EVEN, SAME
from vitmed.scans.dicom_values import Values
from vitmed.scans.layout import Mask, Segments
from vitmed.scans.scan import Refusals, Refused, Scan, Source


@dataclasses.dataclass(frozen=True)
class Seg:
    """What the header of a segmentation says.

    Attributes:
        labelmap: whether its pixels are numbers of segments.
        labels: the name of each segment, by its number; that of the background left out.
        series, instances: UIDs of what it was drawn on.
    """

    path: str
    labelmap: bool
    labels: dict[int, str]
    series: frozenset[str]
    instances: frozenset[str]


def look(path: str) -> Seg:
    """Reads the header of a segmentation.

    Raises:
        Refused: neither BINARY nor LABELMAP, without named segments, or no header at all.
    """
    try:
        data = dicom_header.header(path)
        kind = str(data.get("SegmentationType", ""))
        if not kind:
            raise Refused(dicom_kind.SEGMENTATION, "it has no SegmentationType")
        if kind not in ("BINARY", "LABELMAP"):
            raise Refused("segmentation that is neither BINARY nor LABELMAP", f"it is {kind}")
        if not data.get("PerFrameFunctionalGroupsSequence"):
            raise Refused("segmentation without frames")
        labels = {int(s.SegmentNumber): _name(s) for s in data.get("SegmentSequence") or ()}
        if kind == "LABELMAP" and data.get("PixelPaddingValue") is not None:
            labels.pop(int(data.PixelPaddingValue), None)
        if not labels or not all(labels.values()):
            raise Refused("segmentation without named segments", "SegmentLabel is missing")
        return Seg(path, kind == "LABELMAP", labels, *_references(data))
    except Refused:
        raise
    except Exception as error:  # pydicom raises whatever the fault brought it to
        raise Refused("not a readable DICOM file", dicom_header.first_line(error)) from None


def match(
    segs: list[Seg], sources: list[Source], names: dict[str, str]
) -> tuple[dict[str, Mask], list[Segments], Refusals]:
    """Which segmentations make the mask of which scan, by the images that they reference.

    All that reference a scan make its mask together. Where only a series is referenced, it must be one scan.

    Returns:
        The masks by the ids of the scans, what their files name, and (file, reason, detail) of the others.
    """
    held: dict[str, list[str]] = {}
    named: list[Segments] = []
    refused: Refusals = []
    for seg in segs:
        fits = [s for s in sources if s.kind == "dicom" and seg.instances & {i.instance for i, _ in s.parts}]
        if not fits:
            fits = [s for s in sources if s.kind == "dicom" and s.parts[0][0].series in seg.series]
            if len(fits) > 1:
                detail = f"{len(fits)} scans, and it says of none of their images that it was drawn on it"
                refused.append((names[seg.path], "segmentation of a series of several scans", detail))
                continue
        if not fits:
            refused.append(
                (names[seg.path], "segmentation of no scan here", "it references none that is taken")
            )
            continue
        if any(len(s.parts) < 2 or s.item is not None and s.item[0] != "stack" for s in fits):
            refused.append((names[seg.path], "segmentation of a picture", "only volumes have a place for it"))
            continue
        for source in fits:
            held.setdefault(source.id, []).append(seg.path)
        named.append(Segments(seg.path, names[seg.path], tuple(sorted(set(seg.labels.values())))))
    masks = {scan: Mask(tuple(sorted(files)), segments=True) for scan, files in held.items()}
    return masks, named, refused


def read(mask: Mask, scan: Scan) -> np.ndarray:
    """The mask (*S) uint8 of ``scan``; 0 where no segment is.

    Args:
        mask: with the value of each structure in ``values``.

    Raises:
        Refused: a file with a fault, segments of different names that overlap, or none that lies in the scan.
    """
    values = dict(mask.values)
    out, owner = np.zeros(scan.size, np.uint8), {v: n for n, v in values.items()}
    for file in mask.files:
        try:
            found, affine = _volume(file, values, scan)
        except Refused:
            raise
        except Exception as error:  # a damaged file
            raise Refused("segmentation that cannot be read", dicom_header.first_line(error)) from None
        here = geometry.onto(found, affine, scan.size, scan.affine, nearest=True)
        if found.any() and not here.any():
            raise Refused("mask that lies elsewhere", f"{os.path.basename(file)} has no voxel in the scan")
        _put(out, here, owner)
    return out


def _volume(path: str, values: dict[str, int], scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The labels of one file (slices, rows, columns) and the affine of their index to LPS millimetres."""
    seg = look(path)
    data = dicom_header.dataset(path)
    frames, rows, columns = int(data.get("NumberOfFrames", 1)), int(data.Rows), int(data.Columns)
    packed = uid.UID(data.file_meta.TransferSyntaxUID).is_compressed
    limits.declared(frames * rows * columns * int(data.BitsAllocated) // 8, os.path.getsize(path), packed)
    pixels = np.asarray(data.pixel_array).reshape(frames, rows, columns)
    planes = planes_of(data, Values(data), (), frames)
    if any(p.position is None or p.orientation is None or p.spacing is None for p in planes):
        raise Refused(
            "segmentation without a place", "position, orientation or spacing of its frames is missing"
        )
    orientations = np.array([p.orientation for p in planes])
    spacings = np.array([p.spacing for p in planes])
    if np.abs(orientations - orientations[0]).max() > SAME or np.ptp(spacings, axis=0).max() > SAME:
        raise Refused("segmentation of several grids", "orientation or spacing differ between its frames")
    row, column = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(row, column)
    positions = np.array([p.position for p in planes])
    along = positions @ normal
    across = positions - np.outer(along, normal)
    if np.abs(across - across[0]).max() > 0.1 * spacings[0].min():
        raise Refused("segmentation of several grids", "its frames do not lie along their normal")
    step = _step(along, data, normal, scan)
    places = np.rint((along - along.min()) / step).astype(int)
    limits.declared((places.max() + 1) * rows * columns, limits.MAX_BYTES, False)
    out = np.zeros((places.max() + 1, rows, columns), np.uint8)
    owner = {v: n for n, v in values.items()}
    labelled = _numbered if seg.labelmap else _drawn
    for place, here in zip(places, labelled(pixels, data, seg.labels, values), strict=True):
        _put(out[place], here, owner)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = normal * step, column * spacings[0, 0], row * spacings[0, 1]
    affine[:3, 3] = positions[along.argmin()]
    return out, affine


def _drawn(
    frames: np.ndarray, data: Dataset, labels: dict[int, str], values: dict[str, int]
) -> Iterator[np.ndarray]:
    """The labels (rows, columns) of each frame of a BINARY segmentation."""
    shared = data.get("SharedFunctionalGroupsSequence") or (Dataset(),)
    for frame, held in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        which = held.get("SegmentIdentificationSequence") or shared[0].SegmentIdentificationSequence
        value = values[labels[int(which[0].ReferencedSegmentNumber)]]
        yield np.where(frame, np.uint8(value), np.uint8(0))


def _numbered(
    frames: np.ndarray, data: Dataset, labels: dict[int, str], values: dict[str, int]
) -> Iterator[np.ndarray]:
    """The labels (rows, columns) of each frame of a LABELMAP.

    Its background is what PixelPaddingValue says, and 0 where no segment has that number.

    Raises:
        Refused: a pixel with the number of no segment.
    """
    table = np.zeros(65536, np.uint8)
    known = np.zeros(65536, bool)
    known[0] = True
    if data.get("PixelPaddingValue") is not None:
        known[int(data.PixelPaddingValue)] = True
    for number, name in labels.items():
        table[number], known[number] = values[name], True
    for frame in frames:
        if not known[frame].all():
            unnamed = ", ".join(map(str, np.unique(frame[~known[frame]])[:5]))
            raise Refused("segmentation with numbers of no segment", f"{unnamed} in its pixels")
        yield table[frame]


def _put(out: np.ndarray, new: np.ndarray, owner: dict[int, str]) -> None:
    """Writes labels over background.

    Raises:
        Refused: another label is there already.
    """
    both = (out != 0) & (new != 0) & (out != new)
    if both.any():
        names = " and ".join(sorted({owner[int(out[both][0])], owner[int(new[both][0])]}))
        raise Refused(
            "overlapping segments",
            f"{names}, in {words.plural(int(both.sum()), 'voxel')}; a mask has one label a voxel",
        )
    np.copyto(out, new, where=new != 0)


def _step(along: np.ndarray, data: Dataset, normal: np.ndarray, scan: Scan) -> float:
    """The distance of slices: one that all positions are whole steps of, told, or else the scan's, or the least."""
    gaps = np.diff(np.sort(along))
    gaps = gaps[gaps > 10 * SAME]  # of several segments' frames, many lie at one place
    shared = data.get("SharedFunctionalGroupsSequence") or (Dataset(),)
    measures = (shared[0].get("PixelMeasuresSequence") or (Dataset(),))[0]
    told = float(measures.get("SpacingBetweenSlices") or 0)
    directions = scan.affine[:3, :3] / np.asarray(scan.spacing)
    own = [s for s, d in zip(scan.spacing, directions.T, strict=True) if abs(d @ normal) > 1 - SAME]
    for step in (told, *own, *(gaps.min(initial=np.inf),) * bool(len(gaps))):
        if (
            step > 0
            and np.abs(gaps / step - np.rint(gaps / step)).max(initial=0.0) < EVEN
            and (not len(gaps) or gaps.min() > step / 2)
        ):
            return step
    if not len(gaps) and float(measures.get("SliceThickness") or 0) > 0:
        return float(measures.SliceThickness)
    raise Refused("segmentation of uneven slices", "its frames are no whole number of slices apart")


def _references(data: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """UIDs of the series and of the images that a segmentation says it was drawn on."""
    series, instances = set(), set()
    for item in data.get("ReferencedSeriesSequence") or ():
        series.add(str(item.get("SeriesInstanceUID", "")))
        instances.update(_instances(item.get("ReferencedInstanceSequence")))
    groups = (*(data.get("SharedFunctionalGroupsSequence") or ()), *data.PerFrameFunctionalGroupsSequence)
    for group in groups:
        for derivation in group.get("DerivationImageSequence") or ():
            instances.update(_instances(derivation.get("SourceImageSequence")))
    instances.update(_instances(data.get("SourceImageSequence")))
    return frozenset(series - {""}), frozenset(instances - {""})


def _instances(sequence) -> set[str]:
    return {str(item.get("ReferencedSOPInstanceUID", "")) for item in sequence or ()}


def _name(segment: Dataset) -> str:
    """What a segment is called: its label, else the meaning of its type's code."""
    code = (segment.get("SegmentedPropertyTypeCodeSequence") or (Dataset(),))[0]
    return " ".join(str(segment.get("SegmentLabel") or code.get("CodeMeaning") or "").split())
