"""What in a DICOM header can tell who a person is, so that none of it is carried on.

DICOM PS3.15, Table E.1-1 (Basic Application Level Confidentiality Profile) lists what to remove. Lists grow old,
and private attributes are on none, so it is turned round here: every text, date, time and identifier in a header
counts as identifying, at any depth, save what names the machine or the kind of object. Nothing of a header enters
a dataset but numbers, the modality, and pseudonyms; these values are read to find them where they must not be:
in paths and in messages.
"""

import dataclasses
import warnings

from pydicom.multival import MultiValue

from vitmed.scans import dicom_header

_TELLING = set("PN LO SH ST LT UT UC UI DA DT TM AE AS UR".split())
_HARMLESS = {"Manufacturer", "ManufacturerModelName"}
_PERSON = {"PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber"}
_OF_THE_STANDARD = "1.2.840.10008."  # the root of UIDs that DICOM itself gives out


@dataclasses.dataclass(frozen=True)
class Header:
    """What a DICOM header says of the person.

    Attributes:
        values: every value that may identify, sorted, names in their parts too; None where the header cannot be
            read whole.
        burned_in: whether text is burned into the pixels (BurnedInAnnotation), None where nothing is said.
    """

    values: tuple[str, ...] | None
    burned_in: bool | None


def look(path: str) -> Header:
    """Reads the header of a DICOM file for what it says of the person."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = dicom_header.header(path)
            if "PatientID" not in header and "Rows" not in header:
                return Header(None, None)  # cut off: pydicom does not say so
            said = str(header.get("BurnedInAnnotation", "")).strip().upper()
            found: set[str] = set()
            for element in (*header.iterall(), *getattr(header, "file_meta", ())):
                if element.VR in _TELLING and element.keyword not in _HARMLESS:
                    found.update(_texts(element))
    except Exception:  # values are decoded one by one, each with its own way to be wrong
        return Header(None, None)
    return Header(tuple(sorted(found)), {"YES": True, "NO": False}.get(said))


def person(path: str) -> tuple[str, ...]:
    """The names and numbers that a header gives to people: all of VR PN, patient ids and accession numbers.

    For short texts that are meant to be read, such as what a structure is called, of which ``look`` counts every
    one as identifying.

    Raises:
        Exception: whatever pydicom makes of a fault.
    """
    found: set[str] = set()
    for element in dicom_header.header(path).iterall():
        if element.VR == "PN" or element.keyword in _PERSON:
            found.update(_texts(element))
    return tuple(sorted(found))


def _texts(element) -> set[str]:
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    texts = {str(v).strip() for v in values if v is not None}
    if element.VR == "PN":
        texts |= {part for text in texts for part in text.replace("=", "^").replace(" ", "^").split("^")}
    return {t for t in texts if len(t) >= 2 and not t.startswith(_OF_THE_STANDARD)}
