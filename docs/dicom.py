"""Makes docs/dicom.md: what becomes of every DICOM file that pydicom is itself tested with, those of pydicom-data too.

  pip install pydicom-data
  python docs/dicom.py      ten seconds

A file counts as read where all its frames, as they are stored, are those that pydicom decodes.
"""

import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import data_store
import numpy as np
import pydicom
from pydicom import uid

from vitmed.scans import dicom_header, dicom_pixels
from vitmed.scans.how import INCLUDABLE
from vitmed.scans.scan import Refused

PAGE = Path(__file__).resolve().parent / "dicom.md"
PACKAGES = {
    "pydicom": Path(pydicom.__file__).parent / "data" / "test_files",
    "pydicom-data": Path(data_store.__path__[0]) / "data",
}
READ, OTHER = "read, equal", "read, not equal"


def files() -> list[Path]:
    """Those of the packages that are DICOM by their beginning or their name."""
    found = [path for folder in PACKAGES.values() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix == ".dcm" or dicom_header.is_dicom(str(path))]


def called(path: Path) -> str:
    """What the page calls a file, "" of one of neither package."""
    for package, folder in PACKAGES.items():
        if path.is_relative_to(folder):
            return f"{package}: {path.relative_to(folder).as_posix()}"
    return ""


def row(path: Path) -> tuple[str, str, str]:
    """Of a file: its transfer syntax, what becomes of it here, and whether pydicom has pixels of it."""
    theirs = by_pydicom(path)
    return syntax(path), by_vitmed(path, theirs), "no" if theirs is None else "yes"


def kept() -> dict[str, tuple[str, str, str]]:
    """The rows of the page as it is."""
    cells = (line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines())
    return {name: tuple(rest) for name, *rest in cells if name.startswith(tuple(f"{p}: " for p in PACKAGES))}


def by_pydicom(path: Path) -> np.ndarray | None:
    """All frames, None where there are none or it cannot decode them."""
    try:
        data = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in data.file_meta:  # as its documentation advises
            data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        return data.pixel_array
    except Exception:  # whatever a fault of the file brings it to
        return None


def by_vitmed(path: Path, theirs: np.ndarray | None) -> str:
    try:
        image = dicom_header.look(str(path), INCLUDABLE)
        ours = [dicom_pixels.decode(image, frame) for frame in range(image.frames)]
    except Refused as fault:
        return fault.reason
    return READ if np.array_equal(ours if image.frames > 1 else ours[0], theirs) else OTHER


def syntax(path: Path) -> str:
    meta = pydicom.dcmread(path, force=True, stop_before_pixels=True).file_meta
    return uid.UID(meta.get("TransferSyntaxUID") or "").name or "not said"


def versions() -> str:
    return " and ".join(f"{name} {version(name)}" for name in PACKAGES)


def page(rows: dict[str, tuple[str, str, str]]) -> str:
    """docs/dicom.md."""
    counts = Counter((outcome, kind, theirs) for kind, outcome, theirs in rows.values())
    outcomes = Counter(outcome for _, outcome, _ in rows.values())
    lines = [
        "# What becomes of DICOM files",
        "",
        f"Every DICOM file of the packages {versions()}, which pydicom is",
        "itself tested with, damaged ones among them; made by `python docs/dicom.py`. *Read* are files of which every frame,",
        "as it is stored, equals what pydicom decodes; all others are refused, with the reason that `datasheet.json` counts.",
        "Localisers and secondary captures are taken here (`--include`). The last column says whether pydicom itself gives",
        f"pixels. Of {len(rows)} files {outcomes[READ]} are read.",
        "",
        "| outcome | transfer syntax | pydicom | files |",
        "| --- | --- | --- | ---: |",
    ]
    lines += [
        f"| {outcome} | {kind} | {theirs} | {count} |"
        for (outcome, kind, theirs), count in sorted(
            counts.items(), key=lambda item: (-outcomes[item[0][0]], item[0])
        )
    ]
    lines += [
        "",
        "## File by file",
        "",
        "| file | transfer syntax | outcome | pydicom |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {name} | {kind} | {outcome} | {theirs} |" for name, (kind, outcome, theirs) in rows.items()]
    return "\n".join((*lines, ""))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # pydicom's, of damaged values
    PAGE.write_text(page({called(path): row(path) for path in files()}))
