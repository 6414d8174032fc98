"""MetaImage and NRRD volumes (and whatever else of that family), read with SimpleITK."""

import math
import os
import re

import numpy as np
import SimpleITK as sitk

from vitmed.scans import limits
from vitmed.scans.geometry import axes_of, canonical
from vitmed.scans.images import grey_if_equal
from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")

_BYTES = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 4, 8: 8, 9: 8, 10: 4, 11: 8}  # of SimpleITK's pixel ids
_DATA_FILE = re.compile(rb"^\s*(?:ElementDataFile\s*=|data ?file:)\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_HERE = ("local", "list")
_NRRD = (".nrrd", ".nhdr")
# Any of these keys tells it: in a MetaImage header, in one of NRRD (http://teem.sourceforge.net/nrrd/format.html; without
# "space" the directions are those of nobody knows what).
_SPACING = (("ElementSpacing", "ElementSize"), ("space directions", "spacings"))
_DIRECTIONS = (("TransformMatrix", "Rotation", "Orientation"), ("space",))
# NRRD has a name for no space of four dimensions but one, and ITK writes LPS without.
_DIRECTIONS_4D = (_DIRECTIONS[0], ("space", "space dimension"))


def read(path: str, item: tuple[str, int | str] | None = None) -> Scan:
    """Reads a 2D image (y, x, C) or a volume (z, y, x, C) near the LPS axes; ITK's world is LPS already.

    Args:
        item: ("frame", i) for one volume of a 4D file, ("channels", n) for all of them as channels.

    Raises:
        Refused: broken, of more dimensions, without spacing or orientation, or with its data elsewhere.
    """
    size, components, _ = _look(path)
    dimension = len(size)
    if dimension not in (2, 3) and not (dimension == 4 and item is not None):
        raise Refused("not an image or volume", f"it has {dimension} dimensions")
    try:
        image = sitk.ReadImage(path)
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
    array = grey_if_equal(array) if dimension < 4 else array
    span = (0.0, 255.0) if array.dtype == np.uint8 else None
    if dimension == 2:
        known = _says(path, _SPACING)
        return Scan(array, span=span, spacing=tuple(_spacing(image)[::-1].tolist()) if known else None)
    affine = _affine(path, image, dimension)
    orientation = axes_of(affine)
    array, affine = canonical(array, affine)
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(array, span=span, spacing=spacing, affine=affine, orientation=orientation)


def measure(path: str) -> tuple[tuple[int, ...], np.ndarray | None]:
    """(z, y, x) size and the affine of that index to LPS millimetres, from the header; None for a 2D image.

    Raises:
        Refused: as ``read``, for faults of the header.
    """
    size, _, _ = _look(path)
    if len(size) not in (3, 4):
        return size[::-1], None
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    reader.ReadImageInformation()
    return size[2::-1], _affine(path, reader, len(size))


def _affine(path: str, image: sitk.Image | sitk.ImageFileReader, dimension: int) -> np.ndarray:
    """Index (z, y, x) to LPS millimetres.

    Raises:
        Refused: the header does not say it, for which ITK would put voxels of 1 mm along the axes of the patient.
    """
    directions = _DIRECTIONS if dimension < 4 else _DIRECTIONS_4D
    for keys, reason in ((_SPACING, "no voxel spacing"), (directions, "orientation unknown")):
        if not _says(path, keys):
            raise Refused(reason, f"the header has no {keys[path.lower().endswith(_NRRD)][0]}")
    spacing = _spacing(image)
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = (direction * spacing[:3])[:, ::-1]
    affine[:3, 3] = image.GetOrigin()[:3]
    return affine


def _spacing(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    spacing = np.asarray(image.GetSpacing(), float)
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise Refused("no voxel spacing", f"the header says {tuple(spacing)}")
    return spacing


def _says(path: str, keys: tuple[tuple[str, ...], tuple[str, ...]]) -> bool:
    """Whether a header has one of the keys of its format."""
    words = keys[path.lower().endswith(_NRRD)]
    said = {re.split(b"[=:]", line, maxsplit=1)[0].strip().lower() for line in _head(path).split(b"\n")}
    return any(word.lower().encode() in said for word in words)


def volumes(path: str) -> int:
    """How many volumes a file holds, by its header; 1 where it cannot be read, which ``read`` then says.

    Raises:
        Refused: more than it can hold.
    """
    try:
        size, _, _ = _look(path)
    except Refused as fault:
        if fault.reason in ("declares more than it holds", "too large"):
            raise
        return 1
    return size[3] if len(size) == 4 else 1


def _look(path: str) -> tuple[tuple[int, ...], int, int]:
    """(x, y, z ...) size, components and bytes a component, from the header, which the file must bear out."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Refused("cannot be opened", "its name is not UTF-8; rename it") from None
    data = _data_file(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise Refused("not a readable volume", _last_line(error)) from None
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    width = _BYTES.get(reader.GetPixelID() if components == 1 else reader.GetPixelID() - 12, 8)
    if not size or min(size) < 1:
        raise Refused("empty image", f"its size is {tuple(size)}")
    limits.declared(math.prod(size) * components * width, os.path.getsize(data), packed=True)
    return tuple(map(int, size)), components, width


def _data_file(path: str) -> str:
    """The file that holds the voxels: this one, or one that lies beside it.

    Raises:
        Refused: it cannot be opened, or lies outside the folder of the header.
    """
    found = _DATA_FILE.search(_head(path))
    name = os.fsdecode(found.group(1)) if found else "LOCAL"
    if name.lower() == "local":
        return path
    if name.lower().startswith(_HERE) or "%" in name or " " in name.strip():
        raise Refused("volume of several files", f"its data are in {name[:60]!r}; make it one file")
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
        raise Refused("data file outside its folder", f"{name[:60]!r}")
    beside = os.path.join(os.path.dirname(path), name)
    if not os.path.isfile(beside):
        raise Refused("data file missing", f"{name[:60]!r} is not beside it")
    if not os.path.realpath(beside).startswith(os.path.realpath(os.path.dirname(path)) + os.sep):
        raise Refused("data file outside its folder", f"{name[:60]!r} is a link")
    return beside


def _head(path: str) -> bytes:
    """The text of a header, and with it, where nothing says where it ends, some of the voxels.

    Raises:
        Refused: it cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(65536)
    except OSError as error:
        raise Refused("cannot be opened", error.strerror or str(error)) from None
    return re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0] if path.lower().endswith(_NRRD) else head


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
