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
# What ends a line, or all that is read, for ITK alone. Other control characters stand in text that was copied from DICOM
# (ISO 2022), but not in the name of a file, of which MetaIO cuts off what is not printable ASCII at its end.
_END = re.compile(r"[\0\r]")
_UNSURE = re.compile(r"[\x00-\x1f\x7f]|[^!-~]$")
_BLANK = " \t\v\f"  # as C has it: Python also strips what ITK takes for a letter
_META_HERE = ("LOCAL", "Local", "local")
_KEY = rb"ElementDataFile"
_LAST = re.compile(rb"^[ \t\v\f]*ElementDataFile[ \t\v\f]*[=:].*$", re.MULTILINE)


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
    if _UNSURE.search(name):
        raise Refused("data file missing", f"its name {name[:60]!r} cannot be printed, or ends so; rename it")
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
    """Refuses a MetaImage that says ``ElementDataFile`` again after the line that ends its header, among its voxels perhaps.

    Where ITK passes over that line, as part of one before it, it looks for the key on to the end of the file. It does so
    at the beginning of lines, so what a comment says is none.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        last = _LAST.search(whole)
        if last and whole.find(_KEY, last.end()) >= 0:
            raise Refused("not a readable volume", "it says ElementDataFile twice")


def _metaimage(path: str) -> dict[str, str]:
    """Fields up to that of the data file, which is the last."""
    found: dict[str, str] = {}
    for number, line in _lines(path):
        if not line.strip(_BLANK):
            continue
        name, *value = re.split("[=:]", line, maxsplit=1)
        name = name.strip(_BLANK)
        if name and value:
            found[name] = value[0].strip(" \t").lstrip("=: \t")  # MetaIO passes over several separators
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
        sign = re.search(":[= ]", line)
        # Passed over: a comment, or a program's own key.
        if line.startswith("#") or (sign and sign.start() and sign[0] == ":="):
            continue
        if not (sign and sign.start()):
            raise Refused("not a readable volume", f"line {number} of its header is no 'key: value'")
        name, value = line[: sign.start()].lower().replace(" ", ""), line[sign.end() :]
        if len(line) > _FIELD and name != "content":
            raise Refused("not a readable volume", f"line {number} of its header is {len(line)} bytes long")
        # ITK keeps a blank at the end of a file's name.
        found[name] = value.lstrip(" \t") if name == "datafile" else value.strip()
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
        if _END.search(line):
            raise Refused("not a readable volume", f"line {number} of its header is not text")
        yield number, line
    if goes_on:
        raise Refused("not a readable volume", f"its header does not end within {LONGEST} bytes")
