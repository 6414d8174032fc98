"""Volumes in three planes: slices the right way round, with the sides of the patient named.

Radiological convention: the patient's left is on the right of axial and coronal slices, the head is up, and the front is
up on axial slices and to the left on sagittal ones. Where a volume does not tell how it lay, it is shown as stored and no
side is named.
"""

from typing import Any

import numpy as np
from PIL import Image

from vitmed.data.dataset import Dataset
from vitmed.report import pictures

_SIDES = (("R", "L"), ("A", "P"), ("I", "S"))  # towards less and more of each of LPS
_PLANES = {"S": "axial", "P": "coronal", "L": "sagittal"}
_LONGEST = 300  # pixels, of the longest side of the three


def sides(affine: np.ndarray) -> list[tuple[str, str]] | None:
    """The sides of the patient that each axis runs from and to, to the nearest one, or None where unknown.

    Args:
        affine: (4, 4) index to LPS millimetres.
    """
    if not np.isfinite(affine).all():
        return None
    made = []
    for axis in range(3):
        along = affine[:3, axis]
        nearest = int(np.argmax(np.abs(along)))
        low, high = _SIDES[nearest]
        made.append((low, high) if along[nearest] > 0 else (high, low))
    return made


def volumes(dataset: Dataset, split: str, count: int = 4) -> list[dict[str, Any]]:
    """``count`` volumes at even distances in three slices each; [] for a set of images.

    The slices go through the middle, or where the mask marks most.

    Returns:
        [{"id", "planes": [{"name", "src", "share" (of the width), "top", "bottom", "left", "right"}]}]
    """
    if len(dataset.datasheet["size"] or ()) != 3:
        return []
    chosen = np.unique(np.linspace(0, dataset.size(split) - 1, count).astype(int))
    return [volume(dataset.record(split, int(i)), dataset.datasheet["window"]) for i in chosen]


def volume(record: dict, window: tuple[float, float], predicted: np.ndarray | None = None) -> dict[str, Any]:
    """One of ``volumes``, of an example as a dataset gives it.

    Args:
        predicted: (*S) class indices; then ``mask`` is of class indices too, and both are outlined.
    """
    image, mask = record["image"], record.get("mask")
    marks = None if mask is None else pictures.marks(mask)
    named = sides(record["affine"])
    step = np.where(np.isfinite(record["spacing"]), record["spacing"], 1.0)
    scale = _LONGEST / max(n * s for n, s in zip(image.shape, step))
    planes = []
    for axis in range(3):
        at = image.shape[axis] // 2
        if marks is not None and marks.any():
            at = int(np.argmax(marks.sum(tuple(a for a in range(3) if a != axis))))
        cut = np.take(image, at, axis) * record["scale"] + record["offset"]
        marked = None if marks is None else np.take(mask, at, axis)
        down, right = (a for a in range(3) if a != axis)
        turns = [] if named is None else [k for k, a in enumerate((down, right)) if named[a][1] in "SAR"]
        said = None if predicted is None else np.take(predicted, at, axis)
        cut, marked, said = (x if x is None else np.flip(x, turns) for x in (cut, marked, said))
        low, high = window
        painted = marked if said is None else None
        drawn = pictures.pixels((np.clip(cut, low, high) - low) / (high - low), marks=painted)
        height, width = (max(1, round(n * s * scale)) for n, s in zip(drawn.shape, (step[down], step[right])))
        shrunk = height < drawn.shape[0] or width < drawn.shape[1]
        how = Image.Resampling.LANCZOS if shrunk else Image.Resampling.NEAREST
        ends = {"top": "", "bottom": "", "left": "", "right": ""}
        name = "zyx"[axis]
        if named is not None:
            letters = [named[a][::-1] if k in turns else named[a] for k, a in enumerate((down, right))]
            (ends["top"], ends["bottom"]), (ends["left"], ends["right"]) = letters
            name = next(_PLANES[letter] for letter in named[axis] if letter in _PLANES)
        made = Image.fromarray(drawn).resize((width, height), how)
        if said is not None:
            made = pictures.outlined(made, marked, said)
        planes.append({"name": name, "src": pictures.data_uri(made), "share": width, **ends})
    return {"id": record["id"], "planes": planes}
