"""Scan to record, the one pure function of ingest: the same file and plan give the same bytes anywhere."""

import dataclasses
import hashlib

import numpy as np

from vitmed.data import alike, exposed
from vitmed.scans import geometry, intensity
from vitmed.scans.kinds import kind_of
from vitmed.scans.layout import UNMARKED, Mask
from vitmed.scans.read import half_told, read, read_mask, same_place
from vitmed.scans.recipe import window_of
from vitmed.scans.scan import Refused, Scan, Source

BINS = 64  # of the intensity histogram, over the modality's window
OTHER_MODALITY = "its header says so"  # why a scan of another modality than was told is refused


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done to every scan of a set.

    Attributes:
        modality: given for the whole set, or None to believe the files.
        spacing: millimetres to resample to, array order, or None.
        size: voxels to end with, array order, or None.
        why: how spacing and size were chosen, where the set chose them and not a person.
    """

    modality: str | None = None
    spacing: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One scan to prepare: its source, its mask, and the modality that is told of it beside the file."""

    source: Source
    mask: Mask | None = None
    modality: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What is known of a prepared scan beside its pixels, wherever these are.

    Each kind also has its ``signature``, by which near-duplicates are found (``vitmed.data.alike``), and ``load()``, which
    gives its pixels and takes ``held`` bytes of memory for them.

    Attributes:
        id: what the scan is called.
        scale, offset: (C,) float32, from stored integers to units.
        spacing: (n,) float32 millimetres, NaN unknown.
        affine: (4, 4) float64 index to LPS millimetres, NaN unknown.
        grid: (n + 1, n + 1) float64 index to that of the scan as read, before it was resampled, cropped or padded.
        orientation: the sides the axes of the file ran towards, such as "LPI"; "" unknown.
        digest: of the stored pixels and their shape, by which exact copies are found.
        total, square: per channel, the sum of clipped units and of their squares (float64).
        histogram: (BINS,) counts of units over the window, all channels together.
        read_size, read_spacing: (n,) voxels int64 and millimetres float32 (NaN unknown) as the file has them.
        marked: the values that its mask holds; None without a mask.
        exposed: how its pixels may show who the patient is (``vitmed.data.exposed``).
    """

    id: str
    modality: str
    scale: np.ndarray
    offset: np.ndarray
    spacing: np.ndarray
    affine: np.ndarray
    grid: np.ndarray
    orientation: str
    digest: bytes
    total: np.ndarray
    square: np.ndarray
    histogram: np.ndarray
    read_size: np.ndarray
    read_spacing: np.ndarray
    marked: tuple[int, ...] | None
    exposed: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Read(Described):
    """A scan just read, with what ingest turns into pseudonyms before anything is written.

    Attributes:
        patient, site: as the header has them, "" unknown.
        telling: values of its header that may identify and stand in its path, so that they can be taken out there.
    """

    patient: str
    site: str
    telling: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared(Read):
    """A scan ready to be stored: ``image`` (*S, C) uint8, int16 or uint16, ``mask`` (*S) uint8 or None."""

    image: np.ndarray
    mask: np.ndarray | None
    signature: np.ndarray


def prepare(task: Task, plan: Plan) -> Prepared:
    """Reads a scan, brings it to the plan's geometry and to stored integers.

    Raises:
        Refused: the file has a fault, or does not fit the plan.
    """
    scan = read(task.source)
    modality = _agreed(scan.modality, task.modality, plan.modality)
    intensity.check(scan, modality)
    telling, burned_in = _header(task.source) if task.source.kind == "dicom" else ((), None)
    shown = exposed.of(scan, modality, burned_in)
    mask = None if task.mask is None else _mask(task.mask, scan)
    unknown = (np.nan,) * len(scan.size)
    read_size, read_spacing = scan.size, scan.spacing or unknown
    scan, mask = geometry.fit(scan, plan.spacing, plan.size, intensity.background(scan, modality), mask)
    image, scale, offset, counted = intensity.store(scan, modality)
    image = np.ascontiguousarray(image)
    total, square, histogram, signature = statistics(image, scale, offset, window_of(modality), counted)
    return Prepared(
        id=task.source.id,
        modality=modality,
        image=image,
        scale=scale,
        offset=offset,
        spacing=np.asarray(scan.spacing or unknown, np.float32),
        affine=np.full((4, 4), np.nan) if scan.affine is None else np.asarray(scan.affine, np.float64),
        grid=np.eye(len(scan.size) + 1) if scan.grid is None else scan.grid,
        mask=mask,
        patient=scan.patient,
        site=scan.site,
        orientation=scan.orientation,
        digest=digest(image),
        total=total,
        square=square,
        histogram=histogram,
        signature=signature,
        read_size=np.asarray(read_size, np.int64),
        read_spacing=np.asarray(read_spacing, np.float32),
        marked=marked(mask),
        exposed=shown,
        telling=telling,
    )


def _header(source: Source) -> tuple[tuple[str, ...], bool | None]:
    """Identifying values that stand in a DICOM file's path, and what is said of burned-in text.

    Of a header that cannot be read whole anything may stand there, so every part of the path counts.
    """
    from vitmed.scans import dicom_header

    first = source.files[0]
    if source.parts and source.parts[0][0].said is not None:
        header = source.parts[0][0].said
    else:
        header = dicom_header.said(first).in_path(first)
    values = header.values
    if values is not None and source.named_by not in ("", first):
        named = dicom_header.said(source.named_by).in_path(source.named_by).values
        values = None if named is None else (*values, *named)
    return tuple(source.id.split("/")) if values is None else values, header.burned_in


def _agreed(file: str | None, row: str | None, given: str | None) -> str:
    said = given or row
    if said and file and file != said:
        raise Refused(f"{file}, not {said}", OTHER_MODALITY)
    return said or file or "unknown"


def _mask(mask: Mask, scan: Scan) -> np.ndarray:
    if mask.segments:
        from vitmed.scans import dicom_seg

        return dicom_seg.read(mask, scan)
    values = _values(mask.files[0], mask, scan)
    for file in mask.files[1:]:  # several lesions of one scan, each in a file of its own
        more = _values(file, mask, scan)
        if ((values > 0) & (more > 0) & (values != more)).any():
            raise Refused(
                "masks that overlap", "a voxel has one value in one of its files and another in the next"
            )
        values = np.maximum(values, more)
    named = {0, UNMARKED, mask.ignore, *(value for _, value in mask.values)}
    unnamed = set(np.flatnonzero(np.bincount(values.ravel())).tolist()) - named
    if mask.values and unnamed:
        raise Refused("mask with values that nobody named", ", ".join(map(str, sorted(unnamed))))
    if mask.ignore is not None:
        values[values == mask.ignore] = UNMARKED
    return values


def _values(file: str, mask: Mask, scan: Scan) -> np.ndarray:
    """What one file says of a scan's voxels, (*S) uint8."""
    try:
        found = read_mask(file)
    except Refused as fault:  # the id of the scan stands beside it, whose own file may be whole
        raise Refused(
            "mask that cannot be read", ": ".join(filter(None, (fault.reason, fault.detail)))
        ) from None
    if found.array.shape[-1] != 1:
        raise Refused(
            "mask in colour",
            f"{found.array.shape[-1]} channels; one with the number of a structure was expected",
        )
    if found.size != scan.size:
        raise Refused("mask of another shape", f"{found.size}, the scan has {scan.size}")
    if half_told(found, scan):
        which, other = ("mask", "scan") if found.affine is None else ("scan", "mask")
        raise Refused(
            "mask that cannot be laid on its scan",
            f"the file of the {which} does not say how it lies, that of the {other} does; give both as NIfTI, MHA or NRRD",
        )
    if not same_place(found, scan):
        raise Refused("mask that lies elsewhere", "its position, orientation or spacing is not the scan's")
    values = found.array[..., 0]
    if not np.array_equal(values, np.rint(values)) or values.min() < 0 or values.max() > UNMARKED:
        raise Refused(
            "mask that holds no labels", "whole numbers from 0 to 254 (255: unmarked) were expected"
        )
    values = values.astype(np.uint8)
    if not mask.values and kind_of(file) == "image" and _blurred(values, file):
        raise Refused(
            "mask with grey edges",
            f"{len(np.unique(values))} values, by compression or resizing; write structures as 1, 2 ... or one as 255, "
            "in a format that keeps values (PNG)",
        )
    if mask.ignore is None and not mask.values and values.max() == UNMARKED and not (values % UNMARKED).any():
        if kind_of(file) != "image":
            raise Refused(
                "mask of 0 and 255 alone",
                "255 is what nobody has looked at; write the structure as 1, or make it a picture",
            )
        values = values // UNMARKED  # white on black, as pictures of one structure are
    return values


def _blurred(values: np.ndarray, file: str) -> bool:
    """Whether white on black was resized or compressed: greys next to 255 are the numbers of no structure.

    JPEG keeps no number but where all is black or white.
    """
    if file.lower().endswith((".jpg", ".jpeg")):
        return bool((values % UNMARKED).any())
    return bool((values == UNMARKED).any() and ((values > 200) & (values < UNMARKED)).any())


def statistics(
    image: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
    window: tuple[float, float],
    counted: list[intensity.Counts] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``total``, ``square``, ``histogram`` and ``signature`` of stored pixels (*S, C), see ``Prepared``.

    Sums are taken over the counts of each stored value, of which there are at most 65536; of a smaller picture
    over its pixels. ``counted`` are these counts of each channel, where they are known.
    """
    low, high = window
    total, square, histogram = [], [], np.zeros(BINS)
    every = [(float(s), float(o)) for s, o in zip(scale, offset, strict=True)]

    def units_of(values: np.ndarray, c: int) -> np.ndarray:
        units = values * every[c][0]
        units += every[c][1]
        return np.clip(units, low, high, out=units)

    def grey(part: np.ndarray, kind: type = np.float32) -> np.ndarray:
        """The mean of the channels, in 0..1 over the window."""
        shares = []
        for c, (s, o) in enumerate(every):
            share = np.multiply(part[..., c], kind(s / (high - low)), dtype=kind)
            share += kind((o - low) / (high - low))
            shares.append(np.clip(share, 0, 1, out=share))
        return shares[0] if len(shares) == 1 else sum(shares) / kind(len(shares))

    for c in range(image.shape[-1]):
        if counted is not None:
            levels, counts = counted[c]
        elif image[..., c].size >= 65536:
            levels, counts = intensity.counts(image[..., c])
        else:
            levels, counts = image[..., c].ravel(), np.ones(image[..., c].size, np.int64)
        units = units_of(levels, c)
        total.append(counts @ units)
        square.append(counts @ np.square(units))
        bins = np.minimum(((units - low) * (BINS / (high - low))).astype(np.int64), BINS - 1)
        histogram += np.bincount(bins, counts, BINS)  # whole numbers far below 2**53, so exact
    if image.ndim == 4:  # slab by slab, or a volume would be held as floats
        signature = alike.signature(map(grey, image), image.shape[:-1])
    else:
        signature = alike.signature(grey(image, np.float64))
    return np.array(total), np.array(square), histogram.astype(np.int64), signature


def marked(mask: np.ndarray | None) -> tuple[int, ...] | None:
    """The values that a mask (*S) uint8 holds."""
    return None if mask is None else tuple(np.flatnonzero(np.bincount(mask.ravel())).tolist())


def digest(image: np.ndarray, wide: bool = False) -> bytes:
    """A hash of stored pixels, their shape and their type.

    Args:
        wide: of 8 bits as a set holds them that has wider ones too.
    """
    image = intensity.widen(image) if wide else image
    # Of good hashes the quickest, as processors since 2018 or so have instructions for it.
    found = hashlib.sha256(f"{image.dtype.str}{image.shape}".encode())
    found.update(np.ascontiguousarray(image).data)
    return found.digest()[:16]
