"""What in a DICOM header can tell who a person is, so that none of it is carried on.

DICOM PS3.15, Table E.1-1 (Basic Application Level Confidentiality Profile) lists what to remove. Lists grow old,
and private attributes are on none, so it is turned round here: every text, date, time and identifier in a header
counts as identifying, at any depth, save what names the machine or the kind of object. Nothing of a header enters
a dataset but numbers, the modality, and pseudonyms; these values are read to find them where they must not be:
in paths and in messages.
"""

import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Iterator

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from vitmed.scans.dicom_values import public_vr
from vitmed.scans.shown import shown

_TELLING = set("PN LO SH ST LT UT UC UI DA DT TM AE AS UR".split())
_SINGLE = {"LT", "ST", "UR", "UT"}  # text in which a backslash is a backslash
# Numbers, codes and bytes; what they hold is read nowhere. A VR that is none of all these is left to pydicom.
_SILENT = set("AT CS DS FD FL IS OB OD OF OL OV OW SL SS SV UL US UV".split()) | {
    "US or SS",
    "OB or OW",
    "US or OW",
}
_BURNED_IN = 0x00280301
_HARMLESS = {0x00080070, 0x00081090}  # Manufacturer, Manufacturer's Model Name
_PERSON = {"PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber"}
_OF_THE_STANDARD = "1.2.840.10008."  # the root of UIDs that DICOM itself gives out


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a DICOM header says of the person.

    Attributes:
        values: every value that may identify, sorted, names in their parts too; None where the header cannot be
            read whole.
        burned_in: whether text is burned into the pixels (BurnedInAnnotation), None where nothing is said.
    """

    values: tuple[str, ...] | None
    burned_in: bool | None

    def in_path(self, path: str) -> "Header":
        """The same with those values alone that stand in a file's path."""
        if self.values is None:
            return self
        return Header(shown(os.path.abspath(path), self.values), self.burned_in)


def of(header: Dataset) -> Header:
    """What a header that was read says of the person."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if 0x00100020 not in header and 0x00280010 not in header:
                return Header(None, None)  # cut off: pydicom does not say so
            said = str(header[_BURNED_IN].value).strip().upper() if _BURNED_IN in header else ""
            found = {text for data in (header, getattr(header, "file_meta", {})) for text in _telling(data)}
    except Exception:  # values are decoded one by one, each with its own way to be wrong
        return Header(None, None)
    return Header(tuple(sorted(found)), {"YES": True, "NO": False}.get(said))


def person(header: Dataset) -> tuple[str, ...]:
    """The names and numbers that a header gives to people: all of VR PN, patient ids and accession numbers.

    For short texts that are meant to be read, such as what a structure is called, of which ``of`` counts every
    one as identifying.

    Raises:
        Exception: whatever pydicom makes of a fault.
    """
    found: set[str] = set()
    for element in header.iterall():
        if element.VR == "PN" or element.keyword in _PERSON:
            found.update(_texts(element))
    return tuple(sorted(found))


def _telling(data: Dataset) -> Iterator[str]:
    """Every value in a header that may identify, from its raw bytes where that is enough.

    pydicom makes an object of each element, which for the hundred of a usual header takes ten times as long.
    """
    for tag, element in data.items():
        raw = element if isinstance(element, RawDataElement) else None
        vr = _vr(raw) if raw is not None else None
        if vr in _SILENT:
            continue
        if vr in _TELLING and _plain(raw.value):
            if tag not in _HARMLESS:
                yield from _parts(vr, raw.value or b"")
            continue
        element = data[tag]
        if element.VR == "SQ":
            for item in element.value:
                yield from _telling(item)
        elif element.VR in _TELLING and tag not in _HARMLESS:
            yield from _texts(element)


def _vr(raw: RawDataElement) -> str | None:
    """What a raw element is, None where pydicom must find out: private ones without a VR, and unknown ones."""
    if raw.VR is not None or raw.tag.is_private:
        return raw.VR
    return public_vr(int(raw.tag))


def _plain(value: bytes | None) -> bool:
    """Whether text is the same in every character set: ASCII that does not switch to another one."""
    return not value or (value.isascii() and b"\x1b" not in value)


@functools.lru_cache(maxsize=4096)  # of a folder's headers most say the same
def _parts(vr: str, value: bytes) -> tuple[str, ...]:
    """What a plain value says that may identify."""
    text = value.decode("ascii")
    texts = (text,) if vr in _SINGLE else text.split("\\")
    return tuple(part for one in texts for part in _wanted(vr, one.rstrip("\0 ").strip()))


def _wanted(vr: str, text: str) -> Iterator[str]:
    """A value, and of a name its parts too; not what is too short, nor what the standard gave out."""
    texts = (text, *re.split("[=^ ]", text)) if vr == "PN" else (text,)
    return (t for t in texts if len(t) >= 2 and not t.startswith(_OF_THE_STANDARD))


def _texts(element: DataElement) -> set[str]:
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    return {t for v in values if v is not None for t in _wanted(element.VR, str(v).strip())}
