"""What a DICOM object is: a scan, or one of the many things that lie beside scans in an archive.

SOP classes: DICOM PS3.4 B.5; Image Type (value 3): PS3.3 C.8.2.1.1.1 for CT, C.8.3.1.1.1 for MR.
"""

import functools
import re

from pydicom.uid import UID

from vitmed.scans.scan import Refused

SEGMENTATION = "segmentation, not a scan"
_LABEL_MAP = (
    "1.2.840.10008.5.1.4.1.1.66.7"  # Label Map Segmentation Storage, younger than pydicom 3.0's table
)
# By the name of the SOP class; the first that matches tells.
_CLASSES = (
    (r"Radiation Dose SR|Dose Report", "dose report"),
    (r"\bSR\b|Key Object|Procedure Log|Encapsulated|Structured|Report|Document", "structured document"),
    (r"Segmentation", SEGMENTATION),
    (r"^RT (?!Image)|^Ion|Plan Storage|Beams", "radiotherapy object, not a scan"),
    (r"Presentation State|Hanging Protocol|Color Palette", "presentation state, not a scan"),
    (r"Waveform|ECG|Raw Data|Spectroscopy|Tractography", "measurement without an image"),
    (
        r"Registration|Fiducials|Real World Value|Parametric Map|Stereometric|Deformable",
        "derived object, not a scan",
    ),
    (r"Media Storage Directory", "DICOMDIR, a table of contents"),
)
# By modality, for files whose SOP class is missing or private.
_MODALITIES = {
    **dict.fromkeys(("SR", "KO", "DOC", "PLAN"), "structured document"),
    "SEG": SEGMENTATION,
    **dict.fromkeys(("RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD"), "radiotherapy object, not a scan"),
    "PR": "presentation state, not a scan",
    **dict.fromkeys(("AU", "ECG", "EPS", "HD"), "measurement without an image"),
    **dict.fromkeys(("REG", "FID", "RWV"), "derived object, not a scan"),
}
_LOCALISER = re.compile(r"\b(locali[sz]er|scout|topogram|scanogram|surview)\b", re.IGNORECASE)
_DOSE = re.compile(r"\bdose\s*(report|info|summary|sheet)\b", re.IGNORECASE)


def refuse_others(sop_class: str, modality: str) -> None:
    """Refuses what is no image of a patient: documents, plans, segmentations, states.

    Raises:
        Refused: it is one of them, told in the reason.
    """
    reason, name = _other(sop_class)
    if reason:
        raise Refused(reason, name)
    if modality in _MODALITIES:
        raise Refused(_MODALITIES[modality], f"its modality is {modality}")


@functools.lru_cache(maxsize=256)
def _other(sop_class: str) -> tuple[str, str]:
    """Why this class of objects is no image of a patient, "" where it is one, and its name."""
    name = "Label Map Segmentation Storage" if sop_class == _LABEL_MAP else _name(sop_class)
    found = (reason for pattern, reason in _CLASSES if name and re.search(pattern, name))
    return next(found, ""), name


def aside(sop_class: str, image_type: tuple[str, ...], description: str) -> tuple[str, str, str] | None:
    """Why an image is usually no scan to learn from: (what it is called by --include, reason, detail), or None.

    A localiser plans the scan; a secondary capture is a picture of a screen or a film.
    """
    secondary = "Secondary Capture" in _name(sop_class)
    if (secondary or "SCREEN SAVE" in image_type) and _DOSE.search(description):
        return "dose report", "dose report", f"an image called {description!r}"
    if secondary or "SCREEN SAVE" in image_type:
        found = "its SOP class" if secondary else "its ImageType"
        return "secondary", "secondary capture", f"{found} says so; --include secondary takes it"
    if {"LOCALIZER", "SCOUT", "TOPOGRAM"}.intersection(image_type):
        return "localiser", "localiser", "its ImageType says so; --include localiser takes it"
    if _LOCALISER.search(description):
        return "localiser", "localiser", f"it is called {description!r}; --include localiser takes it"
    return None


@functools.lru_cache(maxsize=256)
def _name(sop_class: str) -> str:
    return UID(sop_class).name if sop_class else ""
