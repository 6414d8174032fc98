"""What a file holds, by its name and its header: which reader it is for, and how many scans of it there are."""

import os
import warnings

from vitmed.scans.how import How
from vitmed.scans.how import chosen as frames_chosen
from vitmed.scans.scan import Refused, Source

# Each reader's suffixes, told here once more so that looking through a folder imports no reader.
_KINDS = {
    "image": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
    "array": (".npy", ".npz"),
    "nifti": (".nii", ".nii.gz"),
    "itk": (".mha", ".mhd", ".nrrd", ".nhdr"),
    "dicom": (".dcm", ".dicom", ".ima"),
    "zip": (".zip",),
}
# What usually lies beside scans and is none: tables, notes, and the data part of two-file formats.
_BESIDE = set(
    ".csv .tsv .json .jsonl .txt .md .rst .html .pdf .xml .xls .xlsx .yaml .yml .toml .bib .log .md5 .sha256 .py "
    ".bval .bvec .raw .zraw".split()
)
_BESIDE_NAMES = {"dicomdir", "readme", "license", "licence", "citation.cff", "makefile"}


def kind_of(path: str) -> str | None:
    """The reader for a file's suffix, or None."""
    name = os.path.basename(path).lower()
    return next((kind for kind, suffixes in _KINDS.items() if name.endswith(suffixes)), None)


def part_of(name: str) -> str:
    """The file or series of which the scan called ``name`` is one of several, as ``Source.part_of`` has it; "" of none.

    ``film.tif`` of ``film.tif#0003``, and nothing of ``scan#3.png``, whose own name holds the sign.
    """
    whole, _, word = name.rpartition("#")
    return "" if "/" in word or kind_of(word) else whole


def in_file(path: str, name: str, kind: str, how: How) -> list[Source]:
    """The scan of a file, or the several of a multi-page TIFF or a 4D volume.

    Raises:
        Refused: several, and nobody said what they are.
    """
    with warnings.catch_warnings():  # remarks on headers, which are told of when it is read
        warnings.simplefilter("ignore")
        count = _count(path, kind)
    if count <= 1:
        return [Source(name, kind, (path,))]
    if how.frames == "channels":
        return [Source(name, kind, (path,), ("channels", count))]
    if how.frames == "refuse" or (how.frames is None and kind != "image"):
        if kind == "image":
            raise Refused("several pages in one image", f"{count} pages; see --frames")
        raise Refused(
            "several volumes in one file",
            f"{count}; say whether they are times (--frames each) or contrasts (--frames channels)",
        )
    frames = frames_chosen(count, how.frames)
    return [Source(f"{name}#{i:04d}", kind, (path,), ("frame", i), part_of=name) for i in frames]


def _count(path: str, kind: str) -> int:
    """How many images of its own kind a file holds."""
    if kind == "image" and path.lower().endswith((".tif", ".tiff")):
        from vitmed.scans import images

        return images.pages(path)
    if kind == "nifti":
        from vitmed.scans import nifti

        return nifti.volumes(path)
    if kind == "itk":
        from vitmed.scans import itk

        return itk.volumes(path)
    return 1


def is_beside(path: str) -> bool:
    """Whether a file is one of those that lie beside scans: a table, a note, the data part of another, a dataset's own."""
    name = os.path.basename(path).lower()
    return os.path.splitext(name)[1] in _BESIDE or name in _BESIDE_NAMES or ".array_record-" in name
