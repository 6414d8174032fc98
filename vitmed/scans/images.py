"""PNG, JPEG, TIFF and BMP: 8 or 16 bits, grey or colour."""

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitmed.scans.scan import Refused, Scan

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_GREY = {"L", "I", "F", "I;16", "I;16B", "I;16L"}


def read(path: str) -> Scan:
    """Reads a 2D image as (H, W, C): grey has one channel, also when it was stored as equal RGB.

    Raises:
        Refused: not an image, truncated, several pages, or partly transparent.
    """
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise Refused("several pages in one image", f"{image.n_frames} pages; store one image a file")
            image.load()
            array = _pixels(image)
    except UnidentifiedImageError:
        raise Refused("not a readable image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None and not str(error).startswith("image file"):
            raise Refused("cannot be opened", error.strerror or str(error)) from None
        raise Refused("broken image", str(error)) from None
    return Scan(grey_if_equal(array), span=(0.0, 255.0) if array.dtype == np.uint8 else None)


def grey_if_equal(array: np.ndarray) -> np.ndarray:
    """(..., 3) with three equal channels becomes (..., 1); anything else is returned as it is."""
    if array.shape[-1] == 3 and np.array_equal(array[..., 0], array[..., 1]):
        if np.array_equal(array[..., 0], array[..., 2]):
            return array[..., :1]
    return array


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in _GREY:
        return np.asarray(image)[..., None]
    if image.mode == "1":
        return np.asarray(image.convert("L"))[..., None]
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        array = np.asarray(image.convert("RGBA"))
        if (array[..., 3] != 255).any():
            raise Refused("partly transparent image", "what lies behind it is not known")
        return array[..., :3]
    return np.asarray(image.convert("RGB"))
