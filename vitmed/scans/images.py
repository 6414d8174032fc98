"""PNG, JPEG, TIFF and BMP: 8 or 16 bits, grey or colour."""

import os

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vitmed.scans import limits
from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_GREY = {"L", "I", "F", "I;16", "I;16B", "I;16L"}
_SIZE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = (256, 257), 258, 262, 0

_SCALE = {2: 85, 4: 17}  # by which Pillow stretches the greys of a PNG of so many bits, to 8

_ORIENTATION, _TURNED = 0x0112, 5  # EXIF: from 5 on, rows are columns

# Sizes are checked here, against the file and against the limit of every scan.
Image.MAX_IMAGE_PIXELS = None


def read(path: str, item: tuple[str, int | str] | None = None) -> Scan:
    """Reads a 2D image as (H, W, C): grey has one channel, also when it was stored as equal RGB.

    The orientation that a camera or scanner noted (EXIF) is applied.

    Args:
        item: ("frame", i) for one page of a TIFF, ("channels", n) for all of them as channels.

    Raises:
        Refused: not an image, truncated, several pages, or partly transparent.
    """
    try:
        # Not by its name: Pillow then maps a TIFF into memory, and of one that lies on its side takes rows for columns.
        with open(path, "rb") as file, Image.open(file) as image:
            count = getattr(image, "n_frames", 1)
            if count > 1 and item is None:
                raise Refused("several pages in one image", f"{count} in a {image.format}; make each a file")
            if item is not None and item[0] == "channels":
                array = _pages(path, image, count)
            else:
                image.seek(item[1] if item else 0)
                array = _page(path, image)
    except UnidentifiedImageError:
        raise Refused("not a readable image") from None
    except (Refused, MemoryError):
        raise
    except Exception as error:  # Pillow raises whatever the fault brought it to
        if isinstance(error, OSError) and error.errno is not None and not str(error).startswith("image file"):
            raise Refused("cannot be opened", error.strerror or str(error)) from None
        raise Refused("broken image", str(error) or type(error).__name__) from None
    array = array if item and item[0] == "channels" else grey_if_equal(array)
    return Scan(array, span=(0.0, 255.0) if array.dtype == np.uint8 else None)


def measure(path: str, item: tuple[str, int | str] | None = None) -> tuple[int, int]:
    """(H, W) of an image as ``read`` gives it, from its header.

    Raises:
        Refused: not an image, or one that declares more than it holds.
    """
    try:
        with Image.open(path) as image:
            image.seek(item[1] if item and item[0] == "frame" else 0)
            # Those of the file; Pillow's own, of a TIFF, are turned already.
            width, height = [image.tag_v2[t] for t in _SIZE] if image.format == "TIFF" else image.size
            _refuse_bomb(path, image)  # to find the orientation, Pillow decodes a PNG
            turned = image.getexif().get(_ORIENTATION, 1) >= _TURNED
    except Refused:
        raise
    except Exception as error:  # of a broken file; what it is, read tells
        raise Refused("not a readable image", str(error)) from None
    return (width, height) if turned else (height, width)


def pages(path: str) -> int:
    """How many images a TIFF holds; 1 where it cannot be read, which ``read`` then says.

    Raises:
        Refused: more than any file would.
    """
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
    except Exception:  # a broken file is told by read, in the worker
        return 1
    if count > limits.MAX_FRAMES:
        raise Refused("declares more than it holds", f"{count} pages")
    return count


def grey_if_equal(array: np.ndarray) -> np.ndarray:
    """(..., 3) with three equal channels becomes (..., 1); anything else is returned as it is."""
    if array.shape[-1] == 3 and np.array_equal(array[..., 0], array[..., 1]):
        if np.array_equal(array[..., 0], array[..., 2]):
            return array[..., :1]
    return array


def _pages(path: str, image: Image.Image, count: int) -> np.ndarray:
    """All pages of equal size, each of them grey, as channels."""
    found = []
    for page in range(count):
        image.seek(page)
        pixels = grey_if_equal(_page(path, image))
        if pixels.shape[-1] != 1 or (found and pixels.shape != found[0].shape):
            raise Refused("pages that cannot be channels", f"page {page} is {pixels.shape}")
        found.append(pixels)
        limits.declared(sum(p.nbytes for p in found), limits.MAX_BYTES, packed=False)
    return np.concatenate(found, axis=-1)


def _page(path: str, image: Image.Image) -> np.ndarray:
    """(H, W, C) of the page an opened image stands at."""
    depth, colours = _refuse_bomb(path, image)
    if depth == 16 and colours > 1:
        if getattr(image, "n_frames", 1) > 1:
            raise Refused("16-bit colour in several pages", "store one image a file")
        return _deep(path, image)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    image.load()
    turned = ImageOps.exif_transpose(image)
    array = _pixels(turned, _SCALE.get(depth, 1))
    if white_is_zero and array.dtype != np.uint8:  # Pillow turns 8 bits only
        array = np.iinfo(array.dtype).max - array if array.dtype.kind in "iu" else -array
    return array


def _refuse_bomb(path: str, image: Image.Image) -> tuple[int, int]:
    """(bits, colours) of the page an opened image stands at, which the file must be able to hold."""
    depth, colours = _depth(path, image), len(image.getbands())
    size = image.width * image.height * colours * max(1, depth // 8)
    limits.declared(size, os.path.getsize(path), packed=True)
    return depth, colours


def _pixels(image: Image.Image, scale: int) -> np.ndarray:
    if image.mode in _GREY or image.mode == "1":
        array = np.asarray(image.convert("L") if image.mode == "1" else image)[..., None]
        clear = image.info.get("transparency")  # one grey, of the file's own bits (PNG, 11.3.2.1)
        if clear is not None and (array == clear * scale).any():
            raise Refused("partly transparent image", "what lies behind it is not known")
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        array = np.asarray(image.convert("RGBA"))
        if (array[..., 3] != 255).any():
            raise Refused("partly transparent image", "what lies behind it is not known")
        return array[..., :3]
    return np.asarray(image.convert("RGB"))


def _depth(path: str, image: Image.Image) -> int:
    """Bits of a sample as they are in the file; Pillow opens 16-bit colour as 8 bits."""
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24]  # of IHDR, which comes first (PNG, 11.2.2)
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))))
    return {"I": 32, "F": 32}.get(image.mode, 8)


def _deep(path: str, image: Image.Image) -> np.ndarray:
    """16-bit colour, which SimpleITK reads whole; opaque alpha is dropped."""
    import SimpleITK as sitk

    if image.getexif().get(0x0112, 1) != 1:
        raise Refused("16-bit colour that is turned", "apply its EXIF orientation first")
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(path))
    except RuntimeError as error:
        raise Refused("broken image", str(error).strip().splitlines()[-1]) from None
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[-1] in (2, 4):
        if (array[..., -1] != np.iinfo(array.dtype).max).any():
            raise Refused("partly transparent image", "what lies behind it is not known")
        array = array[..., :-1]
    return array
