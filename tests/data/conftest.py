"""Datasets written straight in the on-disk format: the reader is tested apart from the writer in ingest."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from growing import images, scans, where

from vitmed.data.ingest import ingest

Tensor = tfds.features.Tensor


def write(path, splits, *, task="multiclass", classes=("a", "b"), shards=1, encoding="bytes", variable=False):
    """Writes ``{split: [example, ...]}``; an example gives id, image, label and what else it wants."""
    path.mkdir(parents=True)
    first = next(iter(splits.values()))[0]
    image, columns = first["image"], len(first["label"])
    ndim, channels = image.ndim - 1, image.shape[-1]
    shape = (None,) * ndim + (channels,) if variable else image.shape
    features = {
        "image": Tensor(shape=shape, dtype=image.dtype, encoding=encoding),
        "scale": Tensor(shape=(channels,), dtype=np.float32),
        "offset": Tensor(shape=(channels,), dtype=np.float32),
        "spacing": Tensor(shape=(ndim,), dtype=np.float32),
        "affine": Tensor(shape=(4, 4), dtype=np.float64, encoding="bytes"),
        "label": Tensor(shape=(columns,), dtype=np.float32),
        "label_weight": Tensor(shape=(columns,), dtype=np.float32),
        "example": Tensor(shape=(2,), dtype=np.uint32),
        "id": tfds.features.Text(),
        "patient": tfds.features.Text(),
        "site": tfds.features.Text(),
    }
    if "mask" in first:
        features["mask"] = Tensor(shape=shape[:-1], dtype=np.uint8, encoding="zlib")
    features = tfds.features.FeaturesDict(features)
    infos = []
    for split, examples in splits.items():
        lengths = []
        for k in range(shards):
            part = examples[k * len(examples) // shards : (k + 1) * len(examples) // shards]
            shard = path / f"tiny-{split}.array_record-{k:05d}-of-{shards:05d}"
            writer = ArrayRecordWriter(str(shard), "group_size:1")
            for example in part:
                digest = hashlib.blake2b(example["id"].encode(), digest_size=8).digest()
                whole = {
                    "scale": np.full(channels, 1 / 255),
                    "offset": np.zeros(channels),
                    "spacing": np.ones(ndim),
                    "affine": np.full((4, 4), np.nan),
                    "label_weight": np.ones(columns),
                    "patient": "",
                    "site": "",
                    "example": np.frombuffer(digest, np.uint32),
                    **example,
                }
                for name in ("scale", "offset", "spacing", "label", "label_weight"):
                    whole[name] = np.asarray(whole[name], np.float32)
                writer.write(features.serialize_example(whole))
            writer.close()
            lengths.append(len(part))
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0))
    tfds.folder_dataset.write_metadata(data_dir=path, features=features, split_infos=infos, check_data=False)
    sheet = {
        "format": 1,
        "name": "tiny",
        "modality": "xray",
        "unit": "relative",
        "window": [0, 1],
        "channels": channels,
        "size": None if variable else list(image.shape[:-1]),
        "spacing": None,
        "task": task,
        "classes": list(classes),
        "intensity": {"mean": [0.5] * channels, "std": [0.25] * channels},
    }
    (path / "datasheet.json").write_text(json.dumps(sheet))
    return path


@pytest.fixture
def write_dataset():
    """The function ``write`` above."""
    return write


def labelled_set(path, labels, patients=None, **more):
    """A dataset of 2x2 images whose only matter is its labels: one row, or one number, an example."""
    rows = np.asarray(labels, np.float32).reshape(len(labels), -1)
    examples = []
    for i, row in enumerate(rows):
        known = np.isfinite(row)
        examples.append(
            {
                "id": f"e{i:04d}",
                "image": np.full((2, 2, 1), i % 256, np.uint8),
                "label": np.where(known, row, 0),
                "label_weight": known,
                "patient": patients[i] if patients is not None else "",
            }
        )
    return write(path, {"train": examples}, **more)


@pytest.fixture
def write_labels():
    """The function ``labelled_set`` above."""
    return labelled_set


@pytest.fixture(scope="session")
def images_set(tmp_path_factory):
    """50 training images (5x4, 2 channels) whose every pixel is the example's index, and 7 for validation."""

    def example(split, i):
        image = np.full((5, 4, 2), i, np.uint8)
        return {"id": f"{split}{i:03d}", "image": image, "label": [i % 2], "site": f"s{i % 3}"}

    splits = {"train": [example("train", i) for i in range(50)], "val": [example("val", i) for i in range(7)]}
    return write(tmp_path_factory.mktemp("images") / "set", splits, shards=3)


@pytest.fixture
def with_a_crash(tmp_path):
    """A folder of a sound colour JPEG (a.dcm) and one damaged in the right three bytes (b.dcm): GDCM ends its process."""
    folder = tmp_path / "in"
    folder.mkdir()
    found = pydicom.data.get_testdata_file("SC_rgb_dcmtk_+eb+cy+n1.dcm", download=False)
    whole = Path(found).read_bytes()
    damaged = bytearray(whole)
    for place, value in ((454, 224), (1708, 234), (1914, 83)):
        damaged[place] = value
    (folder / "a.dcm").write_bytes(whole)
    (folder / "b.dcm").write_bytes(damaged)
    return folder


@pytest.fixture
def grown(tmp_path):
    """A set of 30 patients to which 20 more were appended, and where everybody was before."""
    table = scans(tmp_path / "s", 30)
    ingest(tmp_path / "s", tmp_path / "set", labels=table, split="60/20/20", progress=False)
    before, pixels = where(tmp_path / "set"), images(tmp_path / "set")
    table = scans(tmp_path / "s", 50, first=30)
    result = ingest(tmp_path / "s", tmp_path / "set", labels=table, append=True, progress=False)
    return tmp_path, before, pixels, result
