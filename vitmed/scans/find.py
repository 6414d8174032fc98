"""Which scans a path holds: a folder walked, or one file."""

import os
from collections import defaultdict
from pathlib import Path

from vitmed.errors import InputError
from vitmed.scans.scan import Refused, Source

# Each reader's suffixes, told here once more so that looking through a folder imports no reader.
_KINDS = {
    "image": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    "array": (".npy",),
    "nifti": (".nii", ".nii.gz"),
    "itk": (".mha", ".mhd", ".nrrd", ".nhdr"),
    "dicom": (".dcm", ".dicom", ".ima"),
}
# What usually lies beside scans and is none: tables, notes, and the data part of two-file formats.
_BESIDE = set(
    ".csv .tsv .json .jsonl .txt .md .rst .html .pdf .xml .xls .xlsx .yaml .yml .bib .log .md5 .sha256 .py "
    ".bval .bvec .raw .zraw".split()
)
_BESIDE_NAMES = {"dicomdir", "readme", "license", "licence", "citation.cff", "makefile"}

Found = tuple[list[Source], list[tuple[str, str, str]]]


def kind_of(path: str) -> str | None:
    """The reader for a file's suffix, or None."""
    name = os.path.basename(path).lower()
    return next((kind for kind, suffixes in _KINDS.items() if name.endswith(suffixes)), None)


def find(root: Path, only: list[Path] | None = None) -> Found:
    """Every scan under ``root``, DICOM files gathered into series, sorted by id.

    Hidden files, and tables and notes by their suffix, are passed over. A file without a known suffix is
    looked into for DICOM.

    Args:
        root: a folder, or one file.
        only: look only at these files and folders of it (a manifest's).

    Returns:
        The sources, and what is refused already as (file, reason, detail).

    Raises:
        InputError: no such path.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist; give a folder of scans, a manifest CSV or an npz file")
    base = root if root.is_dir() else root.parent
    sources: list[Source] = []
    refused: list[tuple[str, str, str]] = []
    dicom: list[str] = []
    locked: list[OSError] = []
    for path in sorted(dict.fromkeys(p for top in (only or [root]) for p in _files(top, locked))):
        name = _name(str(path), base)
        kind = kind_of(str(path))
        if kind == "dicom" or (kind is None and _is_dicom(path)):
            dicom.append(str(path))
        elif kind is not None:
            sources.append(Source(name, kind, (str(path),)))
        elif path.suffix.lower() not in _BESIDE and path.name.lower() not in _BESIDE_NAMES:
            refused.append((name, "of no format that vitmed reads", ""))
    refused += [(_name(str(e.filename), base), "cannot be opened", e.strerror or "") for e in locked]
    if dicom:
        series, bad = _series(dicom, base)
        sources += series
        refused += bad
    return sorted(sources, key=lambda s: s.id), sorted(refused)


def _files(top: Path, locked: list[OSError]):
    if not top.is_dir():
        yield top
        return
    for folder, folders, files in os.walk(top, onerror=locked.append, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in files:
            if not file.startswith("."):
                yield Path(folder) / file


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in _BESIDE or path.name.lower() in _BESIDE_NAMES:
        return False
    from vitmed.scans.dicom import is_dicom

    return is_dicom(str(path))


def _series(files: list[str], base: Path) -> Found:
    """Groups DICOM files by SeriesInstanceUID and names each series.

    A series of one file is called by the file, one that has a folder to itself by the folder, and one of
    several in a folder by its first file.
    """
    from vitmed.scans.dicom import series_of

    groups: dict[str, list[str]] = defaultdict(list)
    refused = []
    for file in files:
        try:
            groups[series_of(file)].append(file)
        except Refused as fault:
            refused.append((_name(file, base), fault.reason, fault.detail))
    in_folder: dict[str, int] = defaultdict(int)
    for group in groups.values():
        for folder in {os.path.dirname(file) for file in group}:
            in_folder[folder] += 1
    sources = []
    for group in groups.values():
        folder = os.path.dirname(group[0])
        alone = len(group) > 1 and in_folder[folder] == 1 and all(os.path.dirname(f) == folder for f in group)
        name = _name(folder, base) if alone else _name(group[0], base)
        sources.append(Source(base.resolve().name if name == "." else name, "dicom", tuple(group)))
    return sources, refused


def _name(path: str, base: Path) -> str:
    return Path(path).relative_to(base).as_posix() if Path(path).is_relative_to(base) else path
