"""The header of a MetaImage or NRRD volume, in the one spelling that its format has.

A header names the file that holds the voxels, and ITK opens whatever that is. ITK also takes more for a header than its
formats say (a line of too few numbers goes on in the next, a carriage return alone ends one), and of a field that is too
long it dies. So a header in any other spelling is refused: what is checked here is then what ITK reads.

MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation; NRRD: https://teem.sourceforge.net/nrrd/format.html.
"""

import mmap
import os
import re

from vitmed.scans.scan import Refused

LONGEST = 2**20  # bytes of a header; those of segmentations, a dozen lines a structure, come to a tenth
_FIELD = 512  # bytes of a line of an NRRD header: ITK's complaint about one has room for a thousand
_NRRD = (".nrrd", ".nhdr")
_DETACHED = (".mhd", ".nhdr")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_META_HERE = ("LOCAL", "Local", "local")
_KEY = b"ElementDataFile"


def is_nrrd(path: str) -> bool:
    """Whether a file is NRRD by its name, otherwise MetaImage."""
    return path.lower().endswith(_NRRD)


def fields(path: str) -> dict[str, str]:
    """What a header says: the keys of a MetaImage as they are, those of NRRD in small letters and without spaces.

    Raises:
        Refused: the file cannot be opened, or its header is not written as the format has it.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Refused("cannot be opened", "its name is not UTF-8; rename it") from None
    try:
        return (_nrrd if is_nrrd(path) else _metaimage)(path)
    except OSError as error:
        raise Refused("cannot be opened", error.strerror or str(error)) from None


def data_file(path: str, header: dict[str, str]) -> str:
    """The file that holds the voxels: this one, or one that lies beside it or below.

    Args:
        header: as ``fields`` gives it.

    Raises:
        Refused: there is none, there are several, or it lies outside the folder of the header.
    """
    nrrd = is_nrrd(path)
    name = header.get("datafile" if nrrd else "ElementDataFile")
    if name is None or (name in _META_HERE and not nrrd):
        if path.lower().endswith(_DETACHED) and name is None:
            raise Refused("data file missing", "the header names none")
        return path
    if name.upper().startswith("LIST") or "%" in name:
        raise Refused("volume of several files", f"its data are in {name[:60]!r}; make it one file")
    # NRRD's "-" is the standard input.
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/") or name == "-":
        raise Refused("data file outside its folder", f"{name[:60]!r}")
    beside = os.path.join(os.path.dirname(path), name)
    if not os.path.isfile(beside):
        raise Refused("data file missing", f"{name[:60]!r} is not beside it")
    if not os.path.realpath(beside).startswith(os.path.realpath(os.path.dirname(path)) + os.sep):
        raise Refused("data file outside its folder", f"{name[:60]!r} is a link")
    return beside


def refuse_second_data_file(path: str) -> None:
    """Refuses a MetaImage that says ``ElementDataFile`` again, among its voxels perhaps.

    Where ITK passes over the first, as part of a line before it, it looks for the key on to the end of the file.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if whole.find(_KEY, whole.find(_KEY) + 1) >= 0:
            raise Refused("not a readable volume", "it says ElementDataFile twice")


def _metaimage(path: str) -> dict[str, str]:
    """Fields up to that of the data file, which is the last."""
    found: dict[str, str] = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        name, *value = re.split("[=:]", line, maxsplit=1)
        if name.strip() and value:
            found[name.strip()] = value[0].lstrip("=: \t").rstrip()  # MetaIO passes over several separators
        else:
            raise Refused("not a readable volume", f"line {number} of its header is no 'key = value'")
        if "ElementDataFile" in found:
            return found
    raise Refused("not a readable volume", "its header does not say ElementDataFile")


def _nrrd(path: str) -> dict[str, str]:
    """Fields up to the empty line that ends the header, or to the end of a file that is a header alone."""
    found: dict[str, str] = {}
    for number, line in _lines(path):
        if number == 1:
            if not re.fullmatch(r"NRRD00\d\d", line):
                raise Refused("not a readable volume", "it does not begin as NRRD does")
            continue
        if not line:
            break
        name, _, value = line.partition(":")
        # Passed over: a comment, or a program's own key.
        if line.startswith("#") or (name and value.startswith("=")):
            continue
        if not (name and value.startswith(" ")):
            raise Refused("not a readable volume", f"line {number} of its header is no 'key: value'")
        name = name.lower().replace(" ", "")
        if len(line) > _FIELD and name != "content":
            raise Refused("not a readable volume", f"line {number} of its header is {len(line)} bytes long")
        found[name] = value.strip()
    return found


def _lines(path: str):
    """(number from 1, line without its end) of a text, up to the longest header.

    Raises:
        Refused: a header that goes on, or one with what is no text.
    """
    with open(path, "rb") as file:
        *lines, last = file.read(LONGEST + 1).split(b"\n")
        goes_on = file.tell() > LONGEST
    for number, raw in enumerate(lines if goes_on else [*lines, last], 1):
        line = os.fsdecode(raw.removesuffix(b"\r"))
        if _CONTROL.search(line):
            raise Refused("not a readable volume", f"line {number} of its header is not text")
        yield number, line
    if goes_on:
        raise Refused("not a readable volume", f"its header does not end within {LONGEST} bytes")
