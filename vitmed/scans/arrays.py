"""NumPy files: ``.npy`` with one scan, and ``.npz`` in the MedMNIST layout with a whole set.

MedMNIST: Yang et al., "MedMNIST v2", Scientific Data 10, 41 (2023).
"""

import functools
import os
from pathlib import Path

import numpy as np

from vitmed.errors import InputError
from vitmed.scans import archives, limits
from vitmed.scans.images import grey_if_equal
from vitmed.scans.scan import Refused, Scan, Source

SPLITS = ("train", "val", "test")

MOST = 16 * limits.MAX_BYTES  # of a whole set in one file
_HEADER = 65535  # bytes of the text that tells an array's type and shape


def read(path: str) -> Scan:
    """Reads ``.npy``: (H, W), (H, W, 1 or 3), (D, H, W) or (D, H, W, C), integers or floats.

    An ``.npz`` among other files must hold one such array; nothing is ever unpickled.

    Raises:
        Refused: not an array of numbers, or of another shape.
    """
    array = _single(path) if path.lower().endswith(".npz") else _mapped(path)
    return _scan(array)


def read_item(path: str, item: tuple[str, int]) -> Scan:
    """Reads one scan of a MedMNIST ``.npz``; the file is opened once a process."""
    split, index = item
    return _scan(load(path)[f"{split}_images"][index])


@functools.lru_cache(maxsize=1)
def load(path: str) -> dict[str, np.ndarray]:
    """The arrays of a MedMNIST ``.npz``: ``SPLIT_images`` (n, *S[, C]), and perhaps ``SPLIT_labels`` (n, K).

    Raises:
        InputError: broken, of another layout, or with as many labels as images only in part.
    """
    try:
        archives.total(path, MOST)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: member(file, key) for key in file.files}
    except Refused as fault:
        raise InputError(f"{path} {fault.reason} ({fault.detail})") from None
    except (OSError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not a readable npz file ({error})") from None
    except Exception as error:  # zipfile and zlib have errors of their own for a truncated file
        raise InputError(f"{path} is a broken npz file ({error})") from None
    found = [split for split in SPLITS if f"{split}_images" in arrays]
    if not found:
        raise InputError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; "
            "train_images (and val_, test_, and _labels) of the MedMNIST layout were expected"
        )
    for split in found:
        images, labels = arrays[f"{split}_images"], arrays.get(f"{split}_labels")
        if labels is not None and len(labels) != len(images):
            raise InputError(f"{path} holds {len(images)} {split}_images but {len(labels)} {split}_labels")
    return arrays


def member(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """An array of an ``.npz``; ValueError where it is none, of which NumPy gives the bytes without a word."""
    found = file[name]
    if isinstance(found, bytes):
        raise ValueError(f"its member {name} does not begin as npy files do")
    return found


def find(path: str) -> list[Source]:
    """Every scan of a MedMNIST ``.npz``, named ``SPLIT/INDEX``."""
    arrays = load(path)
    return [
        Source(f"{split}/{i:06d}", "npz", (str(Path(path)),), (split, i))
        for split in SPLITS
        if f"{split}_images" in arrays
        for i in range(len(arrays[f"{split}_images"]))
    ]


def _mapped(path: str) -> np.ndarray:
    """The array of an ``.npy``: mapped first, so that a shape the file does not bear out allocates nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
        # The header's own length comes first, in 2 bytes or, from version 2 on, 4 (NEP 1).
        length = int.from_bytes(head[8:10] if head[6:7] == b"\x01" else head[8:12], "little")
        if head[:6] != b"\x93NUMPY" or length > _HEADER:
            raise Refused("not a readable array", "it does not begin as npy files do")
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        limits.declared(mapped.nbytes, os.path.getsize(path), packed=False)
        return np.array(mapped)
    except (Refused, MemoryError):
        raise
    except OSError as error:
        raise Refused("cannot be opened", error.strerror or str(error)) from None
    except Exception as error:  # the header is Python, which NumPy parses with whatever that raises
        if "mmap length" in str(error):
            told = f"an array larger than its {os.path.getsize(path)} bytes"
            raise Refused("declares more than it holds", told) from None
        raise Refused("not a readable array", _said(error)) from None


def _single(path: str) -> np.ndarray:
    """The only array of an ``.npz``."""
    try:
        archives.total(path, limits.MAX_BYTES)
        with np.load(path, allow_pickle=False) as file:
            if len(file.files) != 1:
                held = ", ".join(file.files[:4]) or "nothing"
                raise Refused("several arrays in one file", f"{held}; a MedMNIST set is ingested by itself")
            return member(file, file.files[0])
    except (Refused, MemoryError):
        raise
    except OSError as error:
        raise Refused("cannot be opened", error.strerror or str(error)) from None
    except Exception as error:  # zipfile and zlib have errors of their own, and NumPy's parsing of headers
        raise Refused("not a readable array", _said(error)) from None


def _said(error: Exception) -> str:
    """The first line of what an error says; some say nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _scan(array: np.ndarray) -> Scan:
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "uif":
        raise Refused("not an array of numbers", f"its type is {array.dtype}")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] not in (1, 3)):
        array = array[..., None]
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise Refused("not an image or volume", f"its shape is {array.shape}")
    return Scan(grey_if_equal(array), span=(0.0, 255.0) if array.dtype == np.uint8 else None)
