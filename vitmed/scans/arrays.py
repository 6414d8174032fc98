"""NumPy files: ``.npy`` with one scan, and ``.npz`` in the MedMNIST layout with a whole set.

MedMNIST: Yang et al., "MedMNIST v2", Scientific Data 10, 41 (2023).
"""

import functools
from pathlib import Path

import numpy as np

from vitmed.errors import InputError
from vitmed.scans.images import grey_if_equal
from vitmed.scans.scan import Refused, Scan, Source

SPLITS = ("train", "val", "test")


def read(path: str) -> Scan:
    """Reads ``.npy``: (H, W), (H, W, 1 or 3), (D, H, W) or (D, H, W, C), integers or floats.

    Raises:
        Refused: not an array of numbers, or of another shape.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Refused("not a readable array", str(error)) from None
    if not isinstance(array, np.ndarray):
        raise Refused("not a readable array", "several arrays in one file")
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
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
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


def find(path: str) -> list[Source]:
    """Every scan of a MedMNIST ``.npz``, named ``SPLIT/INDEX``."""
    arrays = load(path)
    return [
        Source(f"{split}/{i:06d}", "npz", (str(Path(path)),), (split, i))
        for split in SPLITS
        if f"{split}_images" in arrays
        for i in range(len(arrays[f"{split}_images"]))
    ]


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
