"""Examples that lie in memory as a dataset of one split: for scans that are looked at once and never stored."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.data.records import identity
from vitmed.data.shards import Shards
from vitmed.data.spool import Stored

SPLIT = "scans"


def held(scans: Sequence[Stored], sheet: dict, path: Path) -> Dataset:
    """A dataset of prepared scans, without labels, masks and patients, which are read as it is made.

    Scans of several sizes can be read one by one, or by crops of one size; the datasheet has the first one's.

    Args:
        sheet: the datasheet of a dataset that they are like.
        path: what it is called in messages.
    """
    examples = [_example(scan) for scan in scans]
    # Scans of 8 and of 16 bits may be asked about side by side; each keeps its own scale.
    dtype = np.result_type(*(example["image"].dtype for example in examples))
    for example in examples:
        example["image"] = example["image"].astype(dtype, copy=False)
    size = list(scans[0].shape[:-1])
    own = {k: v for k, v in sheet.items() if k not in ("chunk", "marked")}
    own |= {"size": size, "examples": {SPLIT: len(scans)}, "masks": False}
    # Nothing is kept a second time.
    return Dataset(path, own, Shards(path, _Told(examples[0]), {SPLIT: _Rows(examples)}), cache=0)


class _Rows(list):
    """Examples, asked for as records are."""

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        return [self[i] for i in indices]


class _Told:
    """What ``Decoder`` is for records, for examples that need no decoding."""

    def __init__(self, example: dict):
        self.names = tuple(example)
        self.texts = tuple(name for name, value in example.items() if isinstance(value, str))
        self.dtypes = {name: v.dtype for name, v in example.items() if isinstance(v, np.ndarray)}

    def __call__(self, example: dict, names: Iterable[str] | None = None, lists: Iterable[str] = ()) -> dict:
        return {name: example[name] for name in (*(self.names if names is None else names), *lists)}

    def stacked(self, name: str, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(values)


def _example(scan: Stored) -> dict:
    none = np.zeros(1, np.float32)
    return {
        "image": scan.load()[0],
        **{name: getattr(scan, name) for name in ("scale", "offset", "spacing", "affine", "grid")},
        **{name: getattr(scan, name) for name in ("read_size", "read_spacing", "orientation")},
        "label": none,
        "label_weight": none,
        "example": identity(scan.id),
        "id": scan.id,
        "patient": "",
        "site": "",
    }
