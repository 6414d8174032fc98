"""NumPy files: ``.npy`` with one scan, and ``.npz`` in the MedMNIST layout with a whole set.

MedMNIST: Yang et al., "MedMNIST v2", Scientific Data 10, 41 (2023).
"""

import functools
import os
import zipfile
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
    if path.lower().endswith(".npz"):
        return _scan(_single(path))
    array = _mapped(path)
    limits.declared(array.nbytes, os.path.getsize(path), packed=False)
    return _scan(np.array(array))


def read_item(path: str, item: tuple[str, int]) -> Scan:
    """Reads one scan of the images that ``unpack`` left in ``path``.

    Raises:
        Refused: not an array of numbers, or of another shape, or too large.
    """
    about = os.stat(path)
    # Mapped anew for each scan, or all that has been read would count as this process's memory.
    found = np.memmap(path, mode="r", **_layout(path, about.st_size, about.st_ctime_ns))[item[1]]
    limits.declared(found.nbytes, about.st_size, packed=False)
    return _scan(np.array(found))


def unpack(path: str, folder: Path, quiet: bool = True) -> tuple[list[Source], dict[str, np.ndarray]]:
    """Unpacks a MedMNIST ``.npz``: ``SPLIT_images`` (n, *S[, C]), and perhaps ``SPLIT_labels`` (n, K).

    A set need not fit in memory, and in a packed one there is no going to a scan. Files get the time of change of the
    ``.npz``, so that they are known again when it is unpacked anew.

    Args:
        folder: for the files; it is made.
        quiet: do not show how far a large one is.

    Returns:
        Every scan, named ``SPLIT/INDEX``, and the labels of the splits that have any, mapped.

    Raises:
        InputError: broken, of another layout, or with as many labels as images only in part.
        OSError: no space left.
    """
    try:
        archives.total(path, MOST)
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            folder.mkdir(parents=True)
            changed = os.stat(path).st_mtime_ns
            names = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")]
            wanted = [name for name in names if name in members]
            with archives.counting(path, [members[name] for name in wanted], quiet) as bar:
                for name in wanted:
                    archives.extract(archive, members[name], folder / f"{name}.npy", changed, bar)
    except Refused as fault:
        raise InputError(f"{path} {fault.reason} ({fault.detail})") from None
    except OSError as error:
        if error.errno in limits.DISK:
            raise
        raise InputError(f"{path} is not a readable npz file ({error})") from None
    except Exception as error:  # zipfile and zlib have errors of their own for a truncated file
        raise InputError(f"{path} is a broken npz file ({error})") from None
    if not any(f"{split}_images" in members for split in SPLITS):
        raise InputError(
            f"{path} holds {', '.join(sorted(members)) or 'nothing'}; "
            "train_images (and val_, test_, and _labels) of the MedMNIST layout were expected"
        )
    sources, labels = [], {}
    for split in SPLITS:
        images, told = (_member_of(path, folder / f"{split}_{what}.npy") for what in ("images", "labels"))
        if images is None:
            continue
        if told is not None and len(told) != len(images):
            raise InputError(f"{path} holds {len(images)} {split}_images but {len(told)} {split}_labels")
        if told is not None:
            labels[split] = told
        file = (str(folder / f"{split}_images.npy"),)
        sources += [Source(f"{split}/{i:06d}", "npz", file, (split, i)) for i in range(len(images))]
    return sources, labels


def member(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """An array of an ``.npz``; ValueError where it is none, of which NumPy gives the bytes without a word."""
    found = file[name]
    if isinstance(found, bytes):
        raise ValueError(f"its member {name} does not begin as npy files do")
    return found


def _member_of(path: str, file: Path) -> np.ndarray | None:
    """The array that was unpacked from ``path`` into ``file``, mapped; None where it has none."""
    if not file.exists():
        return None
    try:
        array = np.asarray(_mapped(str(file)))
        if array.ndim == 0:
            raise Refused("not a readable array", "it is a single number")
    except Refused as fault:
        raise InputError(f"{path} is a broken npz file (its member {file.stem}: {fault})") from None
    return array


@functools.lru_cache(maxsize=len(SPLITS))
def _layout(path: str, size: int, changed: int) -> dict:
    """How the array of an ``.npy`` lies in it, as ``np.memmap`` takes it; by size and time files of one path are told apart."""
    array = _mapped(path)
    order = "C" if array.flags.c_contiguous else "F"
    return {"dtype": array.dtype, "offset": array.offset, "shape": array.shape, "order": order}


def _mapped(path: str) -> np.memmap:
    """The array of an ``.npy``, mapped, so that a shape the file does not bear out allocates nothing."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
        # The header's own length comes first, in 2 bytes or, from version 2 on, 4 (NEP 1).
        length = int.from_bytes(head[8:10] if head[6:7] == b"\x01" else head[8:12], "little")
        if head[:6] != b"\x93NUMPY" or length > _HEADER:
            raise Refused("not a readable array", "it does not begin as npy files do")
        return np.load(path, mmap_mode="r", allow_pickle=False)
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
