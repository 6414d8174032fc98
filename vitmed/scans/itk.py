"""MetaImage and NRRD volumes, read with SimpleITK."""

import math
import os
import re

import numpy as np
import SimpleITK as sitk

from vitmed.scans import itk_header, limits
from vitmed.scans.geometry import axes_of, canonical
from vitmed.scans.images import grey_if_equal
from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")

_BYTES = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 4, 11: 8}  # of SimpleITK's pixel ids
# Any of these keys tells it: in a MetaImage header, in one of NRRD.
_SPACING = (("ElementSpacing", "ElementSize"), ("spacedirections", "spacings"))
_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
# The spaces of NRRD that name the patient's sides, with the (x, y) that lead to LPS: ITK turns those of three
# dimensions, and leaves those with time as they are. It takes all others, such as scanner-xyz, for LPS too.
_SPACES = {}
for _name, _turn in (
    ("right-anterior-superior", (-1, -1)),
    ("left-anterior-superior", (1, -1)),
    ("left-posterior-superior", (1, 1)),
):
    _short = "".join(word[0] for word in _name.split("-"))
    _SPACES |= {_name: (1, 1), _short: (1, 1), f"{_name}-time": _turn, f"{_short}t": _turn}
# In small letters; \udcb5 is the micro sign of Latin-1, which is no UTF-8.
_MILLIMETRES = {"": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0}
_MILLIMETRES |= dict.fromkeys(("um", "\N{GREEK SMALL LETTER MU}m", "\udcb5m", "micron", "microns"), 0.001)
for _word, _length in (("micromet", 0.001), ("millimet", 1.0), ("centimet", 10.0), ("met", 1000.0)):
    _MILLIMETRES |= dict.fromkeys((f"{_word}{_end}" for _end in ("er", "ers", "re", "res")), _length)
_OF_SPACE = ("domain", "space", "???", "none")  # kinds of axes of NRRD, the last two of them unknown
_QUOTED = r'"([^"]*)"'
# The side that a letter of an orientation names: its axis of LPS, and which end of it.
_SIDES = {"R": (0, -1), "L": (0, 1), "A": (1, -1), "P": (1, 1), "I": (2, -1), "S": (2, 1)}


def read(path: str, item: tuple[str, int | str] | None = None) -> Scan:
    """Reads a 2D image (y, x, C) or a volume (z, y, x, C) near the LPS axes; ITK's world is LPS already.

    Args:
        item: ("frame", i) for one volume of a 4D file, ("channels", n) for all of them as channels.

    Raises:
        Refused: broken, of more dimensions, without spacing or orientation, quantised, or with its data elsewhere.
    """
    header, size, components = _look(path)
    dimension = len(size)
    if dimension not in (2, 3) and not (dimension == 4 and item is not None):
        raise Refused("not an image or volume", f"it has {dimension} dimensions")
    if not itk_header.is_nrrd(path):
        itk_header.refuse_second_data_file(path)
    try:
        image = sitk.ReadImage(path, imageIO=_io(path))
    except RuntimeError as error:
        raise Refused("not a readable volume", _last_line(error)) from None
    array = sitk.GetArrayFromImage(image)
    array = array[..., None] if components == 1 else array
    if dimension == 4:
        if item[0] == "frame":
            array = array[item[1]]
        elif components > 1:
            raise Refused("not a volume of one contrast", f"{size[3]} volumes of {components} components")
        else:
            array = np.moveaxis(array[..., 0], 0, -1)
    if array.dtype.kind not in "uif":
        raise Refused("not a volume of numbers", f"they are {array.dtype}")
    array = _rescaled(grey_if_equal(array) if dimension < 4 else array, header)
    span = (0.0, 255.0) if array.dtype == np.uint8 else None
    if dimension == 2:
        return Scan(array, span=span, spacing=_of_picture(path, header, image))
    affine = _affine(path, header, image)
    orientation = axes_of(affine)
    array, affine = canonical(array, affine)
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(array, span=span, spacing=spacing, affine=affine, orientation=orientation)


def measure(path: str) -> tuple[tuple[int, ...], np.ndarray | None]:
    """(z, y, x) size and the affine of that index to LPS millimetres, from the header; None for a 2D image.

    Raises:
        Refused: as ``read``, for faults of the header.
    """
    header, size, _ = _look(path)
    if len(size) not in (3, 4):
        return size[::-1], None
    return size[2::-1], _affine(path, header, _information(path))


def _of_picture(path: str, header: dict[str, str], image: sitk.Image) -> tuple[float, ...] | None:
    """(y, x) millimetres of a pixel; None where the header does not say it, or in a unit such as pixels."""
    spacing = _spacing(image)
    try:
        spacing *= _millimetres(header, 2)
    except Refused:
        return None
    return tuple(spacing[::-1].tolist()) if _says_spacing(header, path) else None


def _affine(path: str, header: dict[str, str], image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """Index (z, y, x) to LPS millimetres.

    Raises:
        Refused: the header does not say it, for which ITK would put voxels of 1 mm along the axes of the patient,
            or says two things.
    """
    dimension = image.GetDimension()
    if not _says_spacing(header, path):
        raise Refused("no voxel spacing", f"the header has no {_SPACING[itk_header.is_nrrd(path)][0]}")
    spacing = _spacing(image)
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    if itk_header.is_nrrd(path):
        turn = _space(header, dimension)
    else:
        turn = (1, 1)
        _refuse_contradiction(header, direction)
    affine = np.eye(4)
    affine[:3, :3] = (direction * spacing[:3])[:, ::-1]
    affine[:3, 3] = image.GetOrigin()[:3]
    affine[:2] *= np.reshape(turn, (2, 1))
    affine[:3] *= _millimetres(header, dimension)
    return affine


def _space(header: dict[str, str], dimension: int) -> tuple[int, int]:
    """What x and y of an NRRD header, as ITK gives them, are multiplied with to lead to the left and the back."""
    if "space" not in header:
        # NRRD has a name for no space of four dimensions that has none of time, and ITK writes LPS without.
        if dimension == 4 and "spacedimension" in header:
            return 1, 1
        raise Refused("orientation unknown", "the header has no space")
    space = header["space"].lower()
    if space not in _SPACES:
        raise Refused("orientation unknown", f"its space is {header['space'][:60]!r}, which names no side")
    return _SPACES[space]


def _refuse_contradiction(header: dict[str, str], direction: np.ndarray) -> None:
    """Refuses a MetaImage without directions, or whose letters are not those of its matrix, which ITK goes by alone.

    The letters say where each axis leads by the format's description, and where it comes from as ITK writes them.
    """
    if not any(key in header for key in _DIRECTIONS):
        raise Refused("orientation unknown", f"the header has no {_DIRECTIONS[0]}")
    letters = header.get("AnatomicalOrientation", "")
    if len(letters) == 3 and all(letter in _SIDES for letter in letters):
        sides = [_SIDES[letter] for letter in letters]
        along = [direction[axis, column] * end for column, (axis, end) in enumerate(sides)]
        if min(along) <= 0 <= max(along):
            found = f"AnatomicalOrientation is {letters}, its matrix {direction.ravel().round(3).tolist()}"
            raise Refused("orientation that contradicts itself", f"{found}; correct or remove the letters")


def _millimetres(header: dict[str, str], dimension: int) -> float:
    """How long the unit is that a header measures in; where it leaves that open, millimetres, as every reader does.

    Raises:
        Refused: a unit of no known length, or several.
    """
    told = [*_units(header)[: min(dimension, 3)], header.get("DistanceUnits", "")]
    units = {unit.strip() for unit in told} - {"", "?", "???", "none"} or {""}
    lengths = {_MILLIMETRES.get(unit.casefold()) for unit in units}
    if len(lengths) > 1 or None in lengths:
        raise Refused("no voxel spacing", f"its unit of length is {' and '.join(sorted(units))[:60]!r}")
    return lengths.pop()


def _units(header: dict[str, str]) -> list[str]:
    """The units of the axes of space of an NRRD header, among which lists and vectors may have axes of their own."""
    if "spaceunits" in header or "spacedirections" in header:  # what has a direction has no unit of its own
        return re.findall(_QUOTED, header.get("spaceunits", ""))
    return _of_space(header, re.findall(_QUOTED, header.get("units", "")))


def _of_space(header: dict[str, str], values: list[str]) -> list[str]:
    """Of one value an axis of an NRRD header those of the axes of space."""
    kinds = header.get("kinds", "").lower().split() or [_OF_SPACE[0]] * len(values)
    return [value for value, kind in zip(values, kinds, strict=False) if kind in _OF_SPACE]


def _rescaled(array: np.ndarray, header: dict[str, str]) -> np.ndarray:
    """The values that the stored ones stand for, in float32 where they are others.

    Raises:
        Refused: a slope that is none, or NRRD's old min and max, which do not say which stored values they belong to.
    """
    for key, name in (("oldmin", "old min"), ("oldmax", "old max")):
        if header.get(key, "nan").lower() != "nan":
            raise Refused("quantised values", f"{name} is {header[key][:30]}; store the values themselves")
    names = ("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")
    try:
        slope, offset = (float(header.get(name, of_none)) for name, of_none in zip(names, "10", strict=True))
    except ValueError:
        slope = offset = math.nan
    if not (math.isfinite(slope) and math.isfinite(offset) and slope):
        raise Refused("not a readable volume", f"{' or '.join(names)} is no number, or 0")
    return array if (slope, offset) == (1, 0) else array * np.float32(slope) + np.float32(offset)


def _spacing(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    spacing = np.asarray(image.GetSpacing(), float)
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise Refused("no voxel spacing", f"the header says {tuple(spacing)}")
    return spacing


def _says_spacing(header: dict[str, str], path: str) -> bool:
    """Whether a header says how large a voxel is. NRRD may say of an axis that it is not known, which ITK takes for 1."""
    if itk_header.is_nrrd(path) and "spacedirections" not in header:
        found = _of_space(header, header.get("spacings", "").split())
        return bool(found) and not any(value.lower().lstrip("+-") == "nan" for value in found)
    return any(key in header for key in _SPACING[itk_header.is_nrrd(path)])


def volumes(path: str) -> int:
    """How many volumes a file holds, by its header; 1 where it cannot be read, which ``read`` then says.

    Raises:
        Refused: more than it can hold.
    """
    try:
        _, size, _ = _look(path)
    except Refused as fault:
        if fault.reason in ("declares more than it holds", "too large"):
            raise
        return 1
    return size[3] if len(size) == 4 else 1


def _look(path: str) -> tuple[dict[str, str], tuple[int, ...], int]:
    """The header, (x, y, z ...) size and components, which the file must bear out."""
    header = itk_header.fields(path)
    data = itk_header.data_file(path, header)
    reader = _information(path)
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    width = _BYTES.get(reader.GetPixelID() if components == 1 else reader.GetPixelID() - 12, 8)
    if not size or min(size) < 1:
        raise Refused("empty image", f"its size is {tuple(size)}")
    limits.declared(math.prod(size) * components * width, os.path.getsize(data), packed=True)
    return header, tuple(map(int, size)), components


def _information(path: str) -> sitk.ImageFileReader:
    """What ITK makes of a header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    reader.SetImageIO(_io(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise Refused("not a readable volume", _last_line(error)) from None
    return reader


def _io(path: str) -> str:
    """ITK's name for the format, by which it does not look for another that the content may be of."""
    return "NrrdImageIO" if itk_header.is_nrrd(path) else "MetaImageIO"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
