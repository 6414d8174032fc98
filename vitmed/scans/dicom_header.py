"""One DICOM file's header, read once: what is needed to group, order and decode its images.

DICOM PS3.10 (files), PS3.3 C.7.6 (images).
"""

import dataclasses
import functools
import io
import logging
import os
import struct
import sys
import warnings
import zlib

import pydicom
from pydicom import filereader, uid
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator, read_dataset

from vitmed.scans import deidentify, dicom_kind, limits
from vitmed.scans.dicom_frames import Plane, planes_of
from vitmed.scans.dicom_values import Values
from vitmed.scans.scan import Refused

# Its remarks on odd values quote them, and they may be a person's.
logging.getLogger("pydicom").setLevel(logging.ERROR)

_HEAD = 65536  # bytes that hold the header of most files
_SYNTAX = 0x00020010
_OTHERWISE = (uid.DeflatedExplicitVRLittleEndian, uid.ExplicitVRBigEndian)
_MODALITY_LUT = 0x00283000
_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)
# Modalities whose images are slices of a volume.
SLICES = frozenset(("CT", "MR", "PT"))
# Of the first elements of files that lack the preamble.
_GROUPS = (0x0002, 0x0008)
_VRS = set(
    "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


@dataclasses.dataclass(slots=True, frozen=True)
class Image:
    """A DICOM file that holds an image.

    Attributes:
        planes: one for all frames, or one a frame.
        pixels: (offset, bytes) of pixels that lie in the file as they are, or None.
        stored: (bits allocated, bits stored, 1 if signed).
        person: marks (``Values.mark``) of the patient's name and date of birth, whose words are not kept.
        padding: (lowest, highest) stored value that stands for "nothing here", or None.
        luts: whether it has tables (modality, VOI, palette), for which the whole header is read again.
        modality_lut: what its modality table gives (ModalityLUTType, "" where it is not said), None where it has none.
        said: what the header says of the person, as far as it stands in the path; None where that was not asked, as
            of slices, which are asked of one a volume (``deidentify``).
    """

    path: str
    series: str
    study: str
    instance: str
    patient: str
    person: tuple[str, str]
    site: str
    modality: str
    description: str
    photometric: str
    syntax: str
    rows: int
    columns: int
    samples: int
    frames: int
    stored: tuple[int, int, int]
    padding: tuple[int, int] | None
    luts: bool
    modality_lut: str | None
    pixels: tuple[int, int] | None
    planes: tuple[Plane, ...]
    said: deidentify.Header | None = None

    @property
    def coded(self) -> bool:
        """Whether its pixels are a JPEG, JPEG-LS or JPEG 2000 stream."""
        syntax = uid.UID(self.syntax)
        return syntax.is_compressed and syntax not in (uid.RLELossless, uid.DeflatedExplicitVRLittleEndian)

    def plane(self, frame: int) -> Plane:
        return self.planes[frame if len(self.planes) > 1 else 0]


def is_dicom(path: str) -> bool:
    """Whether a file begins as DICOM does: with the preamble, or without it with a plausible first element."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return False
    return head[128:] == b"DICM" or _bare(head, size)


def look(path: str, include: tuple[str, ...] = ()) -> Image:
    """Reads a file's header.

    Args:
        include: kinds of images to take though they are usually left out (``how.INCLUDABLE``).

    Raises:
        Refused: not DICOM, not an image, left out, or declaring what cannot be.
    """
    try:
        with warnings.catch_warnings():  # remarks on odd values; what matters in them is refused
            warnings.simplefilter("ignore")
            data, pixels, size = _read(path)
            return _image(path, data, pixels, size, include)
    except Refused:
        raise
    except OSError as error:
        raise Refused("cannot be opened", error.strerror or str(error)) from None
    except Exception as error:  # pydicom raises whatever the fault brought it to
        raise Refused("not a readable DICOM file", first_line(error)) from None


def header(path: str) -> Dataset:
    """All of a file before its pixels, as pydicom gives it; no allocation goes by what the file declares.

    Raises:
        Exception: whatever pydicom makes of a fault.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(path)[0]


def said(path: str) -> deidentify.Header:
    """What a file's header says of the person."""
    try:
        return deidentify.of(header(path))
    except Exception:  # whatever pydicom makes of a fault
        return deidentify.Header(None, None)


def dataset(path: str) -> Dataset:
    """The whole file as pydicom gives it, with a transfer syntax, and nothing inflated beyond the limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = limits.bounded(path)
        _refuse_bomb(file)
        data = pydicom.dcmread(file, force=True)
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = _syntax(data)
    return data


def first_line(error: Exception) -> str:
    """What an error says, on one line; what follows a colon at its end belongs to it."""
    lines = (str(error) or repr(error)).splitlines()
    return " ".join(" ".join(lines).split())[:200] if lines[0].endswith(":") else lines[0]


def _read(path: str) -> tuple[Dataset, tuple[int, int] | None, int]:
    """The header, where native pixels lie (offset, bytes), and the size of the file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEAD)
    if not (head[128:132] == b"DICM" or _bare(head[:132], size)):
        raise Refused("not a readable DICOM file", "it does not begin as DICOM does")
    source = io.BytesIO(head)
    if size > len(head):
        try:
            data = _before_pixels(head, source)
            pixels = _at(head[source.tell() : source.tell() + 12], source.tell(), data)
        except Exception:  # the header is longer than the piece that was read
            pixels = None
        if pixels is not None:
            return data, pixels, size
        source = limits.bounded(path)
    data = _before_pixels(head, source)
    if _syntax(data) == uid.DeflatedExplicitVRLittleEndian:
        return data, None, size
    start = source.tell()
    return data, _at(source.read(12), start, data), size


def _before_pixels(head: bytes, source) -> Dataset:
    """What ``pydicom.dcmread`` gives up to the pixels, where ``source`` then stands.

    Its steps one by one for little-endian files that are not deflated: what it adds to a file as a whole costs as
    much as the header.

    Args:
        head: the first bytes of ``source``.
    """
    meta = {}
    if head[128:132] == b"DICM":
        source.seek(132)
        meta = {
            e.tag: e for e in data_element_generator(source, False, True, lambda tag, vr, n: tag >> 16 != 2)
        }
    syntax = (meta[_SYNTAX].value or b"").rstrip(b"\0 ").decode("ascii", "replace") if _SYNTAX in meta else ""
    if not syntax.startswith("1.2.840.10008.") or syntax in _OTHERWISE:
        source.seek(0)
        _refuse_bomb(source)
        return pydicom.dcmread(source, stop_before_pixels=True, force=True)
    implicit = syntax == uid.ImplicitVRLittleEndian
    data = read_dataset(source, implicit, True, stop_when=lambda tag, vr, n: tag in _PIXEL_TAGS)
    data.file_meta = Dataset(meta)
    return data


def _at(element: bytes, start: int, data: Dataset) -> tuple[int, int] | None:
    """(offset, bytes) of the pixel data whose element begins with these bytes; None where it does not."""
    if data.original_encoding[1] is False or element[:4] != _PIXELS or len(element) < 12:
        return None
    explicit = not data.original_encoding[0]
    length = int.from_bytes(element[8:12] if explicit else element[4:8], "little")
    return start + (12 if explicit else 8), length


def _bare(head: bytes, size: int) -> bool:
    """Whether these bytes are the first element of a DICOM file without preamble."""
    if len(head) < 8:
        return False
    explicit = head[4:6].decode("latin-1") in _VRS
    group, element, length = struct.unpack("<HHI", head[:8])
    if explicit and group >= 0x0100:  # big endian
        group, element = struct.unpack(">HH", head[:4])
    return group in _GROUPS and element <= 0x0100 and (explicit or length <= min(size - 8, 1024))


def _refuse_bomb(file) -> None:
    """Inflates a deflated file piece by piece without keeping it, to see that it stays within the limit.

    What is deflated begins where pydicom's own steps end; lengths that the file tells are not to be trusted.
    """
    try:
        filereader.read_preamble(file, force=True)
        meta = filereader._read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
            return
        filereader._read_command_set_elements(file)
        body = file.read()
        most = min(limits.MAX_BYTES // 8, 300 * len(body) + 2**22)
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while body and not inflate.eof:
            size += len(inflate.decompress(body, 2**22))
            body = inflate.unconsumed_tail
            if size > most:
                raise Refused("declares more than it holds", "its deflated part grows without end")
    finally:
        file.seek(0)


def _syntax(data: Dataset) -> str:
    """The transfer syntax, or what the encoding of the header says where a file has no meta information."""
    # The raw element, where there is one: as an object it would take longer than all else here together.
    element = data.file_meta.get_item(_SYNTAX) if _SYNTAX in data.file_meta else None
    if element is not None and element.value:
        value = element.value
        return value.decode("ascii", "replace").rstrip("\0 ") if isinstance(value, bytes) else str(value)
    implicit, little = data.original_encoding
    if not little:
        return uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian


@functools.lru_cache(maxsize=64)
def _packed(syntax: str) -> bool:
    """Whether pixels take fewer bytes in the file than they would.

    Raises:
        ValueError: no transfer syntax.
    """
    return uid.UID(syntax).is_compressed or syntax == uid.DeflatedExplicitVRLittleEndian


def _image(path, data: Dataset, pixels, size: int, include: tuple[str, ...]) -> Image:
    get = Values(data)
    modality, sop_class = get.text(0x00080060), get.text(0x00080016)
    told = sop_class or str(data.file_meta.get("MediaStorageSOPClassUID") or "")
    dicom_kind.refuse_others(told, modality)
    rows, columns = get.whole(0x00280010), get.whole(0x00280011)
    if not rows or not columns:
        raise Refused("DICOM without an image")
    if not get.text(0x0020000E):
        raise Refused("DICOM without a SeriesInstanceUID", "the series it belongs to is not known")
    image_type = tuple(part.strip() for part in get.text(0x00080008).split("\\"))
    description = get.text(0x0008103E)
    other = dicom_kind.aside(sop_class, image_type, description)
    if other is not None and other[0] not in include:
        raise Refused(*other[1:])
    samples, frames = get.whole(0x00280002) or 1, int(get.number(0x00280008) or 1)
    allocated = get.whole(0x00280100) or (32 if 0x7FE00008 in get else 0)
    syntax = _syntax(data)
    packed = _packed(syntax)
    if frames < 1 or frames > limits.MAX_FRAMES:
        raise Refused("declares more than it holds", f"{frames} frames")
    told = (
        2 if get.text(0x00280004) == "YBR_FULL_422" and not packed else samples
    )  # two colours for two pixels
    limits.declared(rows * columns * told * frames * max(1, allocated // 8), size, packed or allocated < 8)
    if allocated < 8 or packed or pixels is None or pixels[1] == 0xFFFFFFFF:
        pixels = None
    else:
        whole = rows * columns * frames * allocated // 8 if samples == 1 else 0  # colour may be subsampled
        if pixels[0] + pixels[1] > size or pixels[1] < whole:
            held = (
                f"{min(pixels[1], size - pixels[0])} bytes of pixels, {max(whole, pixels[1])} were expected"
            )
            raise Refused("broken DICOM file", f"{os.path.basename(path)}: {held}")
    signed = get.whole(0x00280103) or 0
    return Image(
        path=path,
        # Kept once: of a hundred thousand files most say the same.
        series=sys.intern(get.text(0x0020000E)),
        study=sys.intern(get.text(0x0020000D)),
        instance=get.text(0x00080018),
        patient=sys.intern(get.text(0x00100020)),
        person=(get.mark(0x00100010), get.mark(0x00100030)),
        site=sys.intern(get.text(0x00080080)),
        modality=sys.intern(modality),
        description=sys.intern(description),
        photometric=sys.intern(get.text(0x00280004)),
        syntax=sys.intern(str(syntax)),
        rows=rows,
        columns=columns,
        samples=samples,
        frames=frames,
        stored=(allocated, get.whole(0x00280101) or allocated, signed),
        padding=_padding(get, signed),
        luts=any(tag in get for tag in (_MODALITY_LUT, 0x00283010, 0x00281101)),
        modality_lut=_modality_lut(data) if _MODALITY_LUT in get else None,
        pixels=pixels,
        planes=planes_of(data, get, image_type, frames),
        said=None if modality in SLICES else deidentify.of(data).in_path(path),
    )


def _modality_lut(data: Dataset) -> str | None:
    tables = data[_MODALITY_LUT].value
    return str(tables[0].get("ModalityLUTType") or "") if tables else None


def _padding(get: Values, signed: int) -> tuple[int, int] | None:
    value, limit = get.whole(0x00280120, signed), get.whole(0x00280121, signed)
    if value is None:
        return None
    return (value, value) if limit is None else (min(value, limit), max(value, limit))
