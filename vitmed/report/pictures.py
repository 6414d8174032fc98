"""Scans as pictures inside a page: windowed, 8 bit, PNG in a data URI."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from vitmed.data.crops import Crop
from vitmed.data.dataset import Dataset, Stream
from vitmed.scans.layout import UNMARKED

HIDDEN = (214, 219, 225)  # masked patches: a light grey that no scan's black background is taken for
MARKS = ((230, 159, 0), (86, 180, 233), (0, 200, 140), (240, 228, 66), (225, 95, 20), (214, 130, 180))
_COVER = 0.55  # of a mark over the scan
_LEAST_SIDE = 112  # pixels; smaller scans are enlarged by whole factors so that browsers do not blur them
_MOST_SIDE = 320


def shown_split(dataset: Dataset) -> str:
    """The split that scans are shown of: the one that models learn from, or the first of a set without it."""
    return "train" if dataset.has_split("train") else dataset.splits[0]


def samples(dataset: Dataset, split: str, per_class: int = 5, unlabelled: int = 10) -> list[dict]:
    """A few scans of each class of a split, always the same ones.

    Returns:
        [{"name": class (or "" where there are no labels), "images": [{"src", "id"}]}]
    """
    n = dataset.size(split)
    label, weight = dataset.labels(split)
    task, classes = dataset.datasheet["task"], dataset.datasheet["classes"] or []
    groups = [("", _spread(np.arange(n), unlabelled))]
    if task == "multiclass":
        known = weight[:, 0] > 0
        members = [(name, np.flatnonzero(known & (label[:, 0] == k))) for k, name in enumerate(classes)]
        groups = [(name, _spread(at, per_class)) for name, at in members if len(at)] or groups
    elif task == "multilabel":
        members = [
            (name, np.flatnonzero((weight[:, k] > 0) & (label[:, k] > 0))) for k, name in enumerate(classes)
        ]
        groups = [(name, _spread(at, per_class)) for name, at in members if len(at)] or groups
    ids = dataset.ids(split)
    made = []
    for name, chosen in groups:
        stream = flat(dataset, split, chosen)
        images = displayed(stream, dataset.datasheet["window"])
        masks = stream.get("mask", [None] * len(images))
        made.append(
            {
                "name": name,
                "images": [
                    {"src": data_uri(picture(image, marks=mask)), "id": ids[i]}
                    for image, mask, i in zip(images, masks, chosen, strict=True)
                ],
            }
        )
    return made


def flat(dataset: Dataset, split: str, indices: np.ndarray) -> Stream:
    """What ``dataset.read`` gives, of a volume the middle slice alone: the rest is not read where it need not be."""
    size = dataset.datasheet["size"]
    crop = Crop((1, *size[1:])) if size and len(size) == 3 else None
    return dataset.read(split, indices, crop)


def marks(mask: np.ndarray) -> np.ndarray:
    """Where a mask marks something: neither background nor unlooked at."""
    return (mask != 0) & (mask != UNMARKED)


def colour_of(value: int) -> tuple[int, int, int]:
    """The colour of a value of masks."""
    return MARKS[(value - 1) % len(MARKS)]


def displayed(stream: dict[str, np.ndarray], window: Sequence[float]) -> np.ndarray:
    """A stream's images (B, *S, C) in units, clipped to the window and brought to 0..1."""
    over_space = (len(stream["image"]), *(1,) * (stream["image"].ndim - 2), -1)
    units = stream["image"] * stream["scale"].reshape(over_space) + stream["offset"].reshape(over_space)
    low, high = window
    return (np.clip(units, low, high) - low) / (high - low)


def picture(
    image: np.ndarray, mask: np.ndarray | None = None, marks: np.ndarray | None = None
) -> Image.Image:
    """One image as an 8-bit picture; of a volume the middle slice along its first axis.

    Args:
        image: (*S, C) in 0..1; three channels are colour, of any other number the first is shown.
        mask: (*S) true where the model saw nothing; painted in ``HIDDEN``.
        marks: (*S) values of a mask, laid over the scan in their colours.
    """
    if image.ndim == 4:
        middle = image.shape[0] // 2
        image = image[middle]
        mask, marks = (None if m is None else m[middle] for m in (mask, marks))
    made = Image.fromarray(pixels(image, mask, marks))
    side = min(made.size)
    if side < _LEAST_SIDE:
        factor = -(-_LEAST_SIDE // side)
        return made.resize((made.width * factor, made.height * factor), Image.Resampling.NEAREST)
    if max(made.size) > _MOST_SIDE:
        made.thumbnail((_MOST_SIDE, _MOST_SIDE), Image.Resampling.LANCZOS)
    return made


def pixels(image: np.ndarray, mask: np.ndarray | None = None, marks: np.ndarray | None = None) -> np.ndarray:
    """An image (H, W, C) as ``picture`` paints it, (H, W, 3) uint8."""
    grey = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    made = (np.clip(np.nan_to_num(grey), 0, 1) * 255 + 0.5).astype(np.uint8)
    if mask is not None:
        made = np.where(np.asarray(mask, bool)[..., None], np.array(HIDDEN, np.uint8), made)
    if marks is not None:
        for value in np.setdiff1d(marks, (0, UNMARKED)):
            at = marks == value
            over = (1 - _COVER) * made[at] + _COVER * np.array(colour_of(int(value)))
            made[at] = np.rint(over).astype(np.uint8)
    return made


def outlined(made: Image.Image, truth: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """A picture with the outlines of the true structures in white, and of the predicted ones in their colours.

    Where the two are one, the white line lies outside and the coloured one inside it.

    Args:
        made: of the whole of what the masks lie on.
        truth, predicted: (H, W) class indices, 0 background, ``UNMARKED`` where nobody has looked.
    """
    drawn = np.array(made.convert("RGB"))
    wide = max(1, min(made.size) // 110)

    def edges(mask):
        large = np.asarray(Image.fromarray(mask).resize(made.size, Image.Resampling.NEAREST))
        for value in np.setdiff1d(large, (0, UNMARKED)):
            held = large == value
            inner = ndimage.binary_erosion(held, iterations=wide)
            yield int(value), held & ~inner, inner & ~ndimage.binary_erosion(inner, iterations=wide)

    for value, outer, inner in edges(predicted):
        drawn[outer | inner] = colour_of(value)
    for _, outer, _ in edges(truth):
        drawn[outer] = 255
    return Image.fromarray(drawn)


def data_uri(made: Image.Image) -> str:
    stream = io.BytesIO()
    grey = made.convert("L")
    same = np.array_equal(np.asarray(grey.convert("RGB")), np.asarray(made.convert("RGB")))
    (grey if same else made).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the indices at even distances."""
    if len(indices) <= count:
        return indices
    return indices[np.linspace(0, len(indices) - 1, count).astype(int)]
