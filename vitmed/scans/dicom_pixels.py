"""The pixels of DICOM images: decoded, with padding filled and tables applied.

DICOM PS3.3: Image Pixel (C.7.6.3), Modality LUT (C.11.1), VOI LUT (C.11.2), Pixel Padding (C.7.5.1.1.2).
Pixels that lie in the file as they are (most CT and MR) are read from their place; everything else goes
through pydicom and its decoders.
"""

import copy
import functools
import os
import re
import warnings

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, get_decoder
from pydicom.pixels.processing import convert_color_space

from vitmed.scans import dicom_header, limits
from vitmed.scans.dicom_frames import Plane
from vitmed.scans.dicom_header import Image
from vitmed.scans.scan import Refused

_SIZE_MARKERS = {0xC0 + k for k in range(16)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOFn of JPEG, and of JPEG-LS


def decode(image: Image, frame: int = 0) -> np.ndarray:
    """One image as stored, (H, W) or (H, W, 3), equal to pydicom's own decoding (YBR becomes RGB).

    Raises:
        Refused: truncated, broken, of another size inside than outside, or of a syntax without decoder.
    """
    if _plain(image):
        return _place(image, frame)
    try:
        data = _open(image.path, os.stat(image.path).st_mtime_ns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decoded(data, image, frame)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever their codec raises
        said = dicom_header.first_line(error)
        raise Refused("broken DICOM file", f"{os.path.basename(image.path)}: {said}") from None


def values(image: Image, frame: int = 0) -> tuple[np.ndarray, tuple[float, float] | None]:
    """One image as (H, W, C) in the values it stands for: padding filled, modality LUT and palette applied.

    The second is the span that a VOI table maps to, where the image has one.
    """
    pixels = decode(image, frame)
    plane = image.plane(frame)
    grey = image.samples == 1 and image.photometric.startswith("MONOCHROME")
    nothing = _nothing(pixels, image) if grey else None
    span = None
    if image.luts or image.photometric == "PALETTE COLOR":
        try:
            pixels, span = _through_tables(pixels, image, plane, grey)
        except (Refused, MemoryError):
            raise
        except Exception as error:  # pydicom raises whatever a damaged table brought it to
            said = dicom_header.first_line(error)
            raise Refused("broken DICOM file", f"{os.path.basename(image.path)}: {said}") from None
    elif grey:
        pixels = _rescaled(pixels, plane.slope, plane.intercept)
    if nothing is not None:
        pixels = _filled(pixels, nothing, image)
    return (pixels[..., None] if pixels.ndim == 2 else pixels), span


def _through_tables(pixels: np.ndarray, image: Image, plane: Plane, grey: bool):
    """The pixels after palette, modality LUT (or rescale) and VOI LUT, and the span of the last or None."""
    data, span = _open(image.path, os.stat(image.path).st_mtime_ns), None
    if image.photometric == "PALETTE COLOR":
        pixels = _through_palette(pixels, data)
    if grey and data.get("ModalityLUTSequence"):
        pixels = apply_modality_lut(pixels, data)
    elif grey:
        pixels = _rescaled(pixels, plane.slope, plane.intercept)
    if grey and image.modality not in ("CT", "MR") and data.get("VOILUTSequence"):
        pixels = _through_voi_table(pixels, data)
        span = (0.0, float(2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1))
    return pixels, span


def _through_palette(pixels: np.ndarray, data: Dataset) -> np.ndarray:
    """Colours of 8 bits (H, W, 3) by the palette (PS3.3 C.7.6.3.1.5 and .6).

    pydicom counts the places of a table of 8-bit values in 8 bits, so that wider pixels came back to its beginning; the
    tables that are written in segments, which it unfolds, are left to it.
    """
    if "RedPaletteColorLookupTableData" not in data:
        colours = apply_color_lut(pixels, data)
        return (colours >> 8).astype(np.uint8) if colours.dtype == np.uint16 else colours
    entries, first, bits = data.RedPaletteColorLookupTableDescriptor
    entries = entries or 2**16
    place = np.clip(pixels.astype(np.int64) - first, 0, entries - 1)
    order = "<" if data.original_encoding[1] is not False else ">"
    colours = []
    for colour in ("Red", "Green", "Blue"):
        table = data[f"{colour}PaletteColorLookupTableData"].value
        # Values of 8 bits may lie in words of 16.
        table = np.frombuffer(table, f"{order}u2" if len(table) >= 2 * entries else np.uint8)
        colours.append((table >> 8 if bits > 8 and table.itemsize > 1 else table).astype(np.uint8)[place])
    return np.stack(colours, -1)


def _through_voi_table(pixels: np.ndarray, data: Dataset) -> np.ndarray:
    """The values that the VOI table gives, as 16-bit numbers.

    pydicom counts the places of a table of 8-bit values in 8 bits, so that a longer table came back to its beginning.
    """
    wide = Dataset()
    wide.file_meta = data.file_meta
    wide.VOILUTSequence = copy.deepcopy(data.VOILUTSequence)
    descriptor = wide.VOILUTSequence[0]["LUTDescriptor"]
    descriptor.value = [*descriptor.value[:2], 16]
    return apply_voi(pixels, wide)


def _plain(image: Image) -> bool:
    """Whether pixels can be taken from the file as they are."""
    native = image.syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian)
    grey = image.samples == 1 and image.photometric.startswith("MONOCHROME")
    return native and grey and image.pixels is not None and image.stored[0] in (8, 16, 32)


def _place(image: Image, frame: int) -> np.ndarray:
    allocated, stored, signed = image.stored
    dtype = np.dtype(f"<{'i' if signed else 'u'}{allocated // 8}")
    out = np.empty((image.rows, image.columns), dtype)
    try:
        with open(image.path, "rb", buffering=0) as file:
            file.seek(image.pixels[0] + frame * out.nbytes)
            count = file.readinto(memoryview(out).cast("B"))
    except OSError as error:
        raise Refused("cannot be opened", error.strerror or str(error)) from None
    if count != out.nbytes:
        raise Refused("broken DICOM file", f"{os.path.basename(image.path)}: it changed while it was read")
    if stored < allocated:  # what the unused bits hold is not defined (PS3.5 8.1.1)
        np.left_shift(out, allocated - stored, out=out)
        np.right_shift(out, allocated - stored, out=out)
    return out


@functools.lru_cache(maxsize=1)
def _open(path: str, changed: int) -> Dataset:
    """The file last opened: frames of one file are read one after the other."""
    return dicom_header.dataset(path)


def _decoded(data: Dataset, image: Image, frame: int) -> np.ndarray:
    syntax = uid.UID(image.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refused("DICOM of a syntax without decoder", syntax.name) from None
    if not decoder.is_available:
        raise Refused("DICOM of a syntax without decoder", syntax.name)
    deep = syntax == uid.JPEGExtended12Bit and image.stored[1] > 8
    if deep and "pylibjpeg" not in decoder.available_plugins:  # the others decode 8 bits of this syntax
        raise Refused("DICOM of a syntax without decoder", f"{syntax.name} of {image.stored[1]} bits")
    if syntax.is_encapsulated and syntax != uid.RLELossless:
        _same_size(get_frame(data.PixelData, frame, number_of_frames=image.frames), image)
    pixels, found = decoder.as_array(data, index=frame if image.frames > 1 else None)
    if found["number_of_frames"] > 1:
        raise Refused("broken DICOM file", f"it holds {found['number_of_frames']} images and declares 1")
    colour = str(found["photometric_interpretation"])
    if colour.startswith("YBR_FULL"):
        pixels = convert_color_space(pixels, colour, "RGB")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _same_size(stream: bytes, image: Image) -> None:
    """Refuses a codestream of another size than the header tells: decoders believe the stream and allocate.

    JPEG: ITU-T T.81 B.2.2; JPEG-LS: T.87 C.2; JPEG 2000: T.800 A.5.1.
    """
    found = None
    start = re.search(b"\xff\x4f\xff\x51", stream[:4096])
    if start:
        place = start.end() + 4  # after Lsiz and Rsiz
        x, y, x0, y0 = (int.from_bytes(stream[place + 4 * k : place + 4 * k + 4], "big") for k in range(4))
        found = (y - y0, x - x0)
    elif stream[:2] == b"\xff\xd8":
        place = 2
        while place + 9 < len(stream):
            if stream[place] != 0xFF:
                place += 1
                continue
            marker = stream[place + 1]
            if marker in _SIZE_MARKERS:
                found = tuple(int.from_bytes(stream[place + k : place + k + 2], "big") for k in (5, 7))
                break
            alone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8
            place += (
                (1 if marker == 0xFF else 2)
                if alone
                else 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
            )
    if found is not None and found != (image.rows, image.columns):
        told = f"{found[0]} x {found[1]} in its codestream, {image.rows} x {image.columns} in its header"
        raise Refused("broken DICOM file", f"{os.path.basename(image.path)}: {told}")


def _rescaled(pixels: np.ndarray, slope: float | None, intercept: float | None) -> np.ndarray:
    """Modality LUT as slope and intercept; integers stay 16-bit integers where they can."""
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise Refused("broken DICOM header", f"RescaleSlope is {slope}, RescaleIntercept {intercept}")
    if (slope, intercept) == (1.0, 0.0):
        return pixels
    if slope == 1 and intercept.is_integer() and pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        low, high = int(pixels.min()) + int(intercept), int(pixels.max()) + int(intercept)
        if -32768 <= low and high <= 32767:
            return np.add(pixels, int(intercept), dtype=np.int32).astype(np.int16)
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _nothing(pixels: np.ndarray, image: Image) -> np.ndarray | None:
    """Where the padding value stands, or None."""
    if image.padding is None:
        return None
    low, high = image.padding
    where = pixels == low if low == high else (pixels >= low) & (pixels <= high)
    return where if where.any() else None


def _filled(pixels: np.ndarray, nothing: np.ndarray, image: Image) -> np.ndarray:
    """Puts what stands for black where nothing was measured: air in a CT, else the darkest of the rest."""
    if nothing.all():
        raise Refused("blank scan", "every pixel is padding")
    inverted = image.photometric == "MONOCHROME1" and image.modality != "CT"  # as ``dicom.read`` does
    dark = pixels[~nothing].max() if inverted else pixels[~nothing].min()
    pixels = pixels.copy()
    pixels[nothing] = -1000 if image.modality == "CT" and pixels.dtype.kind in "if" else dark
    return pixels


def frame_bytes(image: Image) -> int:
    """Bytes of one decoded frame."""
    return image.rows * image.columns * image.samples * max(1, image.stored[0] // 8)


def check_total(image: Image, count: int) -> None:
    """Refuses a stack of more than a scan may have."""
    limits.declared(frame_bytes(image) * count, limits.MAX_BYTES, packed=False)
