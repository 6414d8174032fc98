import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vitmed.data import dataset as module
from vitmed.data import shards
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.scans.recipe import normalise


@pytest.fixture(params=["cached", "from disk"])
def opened(request, images_set, monkeypatch):
    if request.param == "from disk":
        monkeypatch.setattr(module, "CACHE_BYTES", 0)
    return Dataset.open(images_set)


def test_read_gives_the_examples_asked_for(opened):
    # Rows in another order than asked would pair images with foreign labels.
    wanted = np.array([49, 0, 17, 17, 33])
    stream = opened.read("train", wanted)
    assert (stream["image"] == wanted[:, None, None, None]).all() and stream["image"].shape == (5, 5, 4, 2)
    assert (stream["label"][:, 0] == wanted % 2).all()
    assert (stream["example"] == opened.examples("train")[wanted]).all()
    assert {name: (a.shape[1:], a.dtype) for name, a in stream.items()} == {
        "image": ((5, 4, 2), np.uint8),
        "scale": ((2,), np.float32),
        "offset": ((2,), np.float32),
        "spacing": ((2,), np.float32),
        "label": ((1,), np.float32),
        "label_weight": ((1,), np.float32),
        "example": ((2,), np.uint32),
        "weight": ((), np.float32),
    }


def test_what_is_read_may_be_written_to(opened):
    # A caller that changes its batch must not change the cached split.
    opened.read("train", np.arange(3))["image"][:] = 255
    assert (opened.read("train", np.arange(3))["image"][:, 0, 0, 0] == [0, 1, 2]).all()


def test_threads_read_the_same(opened):
    # Batches are made by several threads at once, also the first, which fills the cache.
    with ThreadPoolExecutor(8) as pool:
        streams = list(pool.map(lambda i: opened.read("train", np.array([i, 49 - i])), range(40)))
    assert all((s["image"][:, 0, 0, 0] == [i, 49 - i]).all() for i, s in enumerate(streams))


def test_columns_and_splits(opened):
    # These feed label budgets and subgroup tables; they must run in the order of the examples.
    assert sorted(opened.splits) == ["train", "val"] and opened.size("val") == 7
    assert opened.has_split("train") and not opened.has_split("test")
    label, weight = opened.labels("train")
    assert (label[:, 0] == np.arange(50) % 2).all() and (weight == 1).all()
    assert opened.ids("val") == [f"val{i:03d}" for i in range(7)]
    assert opened.sites("train")[:4] == ["s0", "s1", "s2", "s0"]
    assert opened.patients("train") is None
    with pytest.raises(InputError, match="'test'.*train, val"):
        opened.size("test")


def test_groups_are_of_a_column_of_words_or_a_label(opened, write_labels, tmp_path):
    """Otherwise numbers by site are of other scans, or a patient is taken for a group."""
    assert opened.groups("train", "site") == opened.sites("train")
    for column in ("patient", "id", "label", "hospital"):
        with pytest.raises(InputError, match=f"'{column}' to group by; it has site$"):
            opened.groups("train", column)
    several = write_labels(
        tmp_path / "d", [[0, 1], [1, np.nan], [1, 0]], task="multilabel", classes=["mass", "drain"]
    )
    assert Dataset.open(several).groups("train", "drain") == ["yes", "", "no"]


@pytest.mark.parametrize(("fit", "runs"), [(0.5, [1] * 50), (3.5, [1, *[3] * 16, 1]), (1000, [1, 20, 20, 9])])
def test_a_whole_split_is_read_as_many_records_at_a_time_as_fit(opened, monkeypatch, fit, runs):
    """Otherwise reading the ids of a set of volumes takes gigabytes."""
    source, asked = opened._shards._sources["train"], []
    fetch = source.__getitems__
    monkeypatch.setattr(source, "__getitems__", lambda indices: asked.append(len(indices)) or fetch(indices))
    monkeypatch.setattr(shards, "RUN_BYTES", int(fit * len(source[0])))
    monkeypatch.setattr(shards, "RUN", 20)
    assert opened.ids("train") == [f"train{i:03d}" for i in range(50)] and asked == runs
    asked.clear()
    assert [int(r["image"].max()) for r in opened.records("train")] == list(range(50)) and asked == runs
    asked.clear()
    assert (opened.read("train", np.arange(50))["image"][:, 0, 0, 0] == np.arange(50)).all()
    # The first tells whether the split can be kept; if not, what was asked for is one batch.
    assert asked == [1, *(runs if opened._most_cached else [50])]


@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
def test_decodes_what_tfds_decodes(encoding, write_dataset, tmp_path, rng):
    # Our parser replaces TFDS's own for speed: they must agree to the bit, whatever the encoding.
    examples = [
        {
            "id": f"é{i}",
            "image": rng.integers(-1000, 3000, (3, 4, 5, 2)).astype(np.int16),
            "label": [0.1, 2],
            "affine": rng.standard_normal((4, 4)),
            "mask": rng.integers(0, 3, (3, 4, 5)).astype(np.uint8),
            "spacing": [np.nan, 0.7, 0.7],
            "patient": "p1",
        }
        for i in range(3)
    ]
    path = write_dataset(tmp_path / "set", {"train": examples}, encoding=encoding)
    dataset = Dataset.open(path)
    stream = dataset.read("train", np.arange(3))
    source = tfds.builder_from_directory(path).as_data_source(split="train")
    for i, theirs in enumerate(source):
        for name, values in stream.items():
            if name != "weight":
                np.testing.assert_array_equal(values[i], theirs[name])
        np.testing.assert_array_equal(stream["image"][i], examples[i]["image"])
        np.testing.assert_array_equal(stream["mask"][i], examples[i]["mask"])
        record = dataset._decoder(dataset._shards._sources["train"][i])
        np.testing.assert_array_equal(record["affine"], examples[i]["affine"])
    assert dataset.ids("train") == ["é0", "é1", "é2"] and dataset.patients("train") == ["p1"] * 3


def test_images_of_different_sizes(write_dataset, tmp_path):
    # They cannot be stacked: one is readable, a batch of two and a recipe say what to do.
    examples = [{"id": f"{n}", "image": np.zeros((n, 5, 1), np.uint8), "label": [0]} for n in (3, 4)]
    dataset = Dataset.open(write_dataset(tmp_path / "set", {"train": examples}, variable=True))
    assert dataset.read("train", np.array([1]))["image"].shape == (1, 4, 5, 1)
    with pytest.raises(InputError, match="differ in size.*--size"):
        dataset.read("train", np.array([0, 1]))
    with pytest.raises(InputError, match="differ in size.*--size"):
        dataset.recipe()


def test_recipe(images_set):
    # A model fed with another normalisation than it learned with gives wrong answers without an error.
    recipe = Dataset.open(images_set).recipe((5, 4))
    assert (recipe.modality, recipe.channels, recipe.size, recipe.spacing) == ("xray", 2, (5, 4), None)
    assert (recipe.unit, recipe.window) == ("relative", (0, 1))
    assert (recipe.mean, recipe.std) == ((0.5, 0.5), (0.25, 0.25))
    with pytest.raises(InputError, match="config.data.size is 8,8.*5,4.*--size 8,8"):
        Dataset.open(images_set).recipe((8, 8))


def test_what_is_no_dataset_is_refused(images_set, tmp_path):
    # The first mistake of a newcomer: the folder of scans, or an unfinished ingest, given as the dataset.
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(InputError, match=f"{path}.*vitmed ingest"):
            Dataset.open(path)
    torn = tmp_path / "torn"
    shutil.copytree(images_set, torn)
    (torn / "datasheet.json").write_text("{")
    with pytest.raises(InputError, match="not a datasheet"):
        Dataset.open(torn)
    (torn / "datasheet.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(InputError, match="format 2"):
        Dataset.open(torn)
    shutil.copy(images_set / "datasheet.json", torn)
    shard = next(torn.glob("*train*array_record*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match="'train' of .*torn is damaged"):
        Dataset.open(torn).read("train", np.arange(50))
    shard.unlink()
    with pytest.raises(InputError, match="lacks its shard tiny-train"):
        Dataset.open(torn)


def test_reads_what_ingest_writes(tiny_dataset, tiny_volumes):
    # The writer and the reader are made apart; the columns must mean the same to both.
    dataset = Dataset.open(tiny_dataset)
    assert dataset.splits == ("train", "val", "test") and dataset.size("train") == 36
    recipe = dataset.recipe()
    assert (recipe.modality, recipe.size, recipe.channels) == ("xray", (16, 16), 1)
    stream = dataset.read("train", np.arange(36))
    units = normalise(stream["image"], stream["scale"], stream["offset"], recipe)
    assert abs(units.mean()) < 1e-3 and abs(units.std() - 1) < 1e-3
    bright = stream["image"][:, 4:9, 5:10].mean((1, 2, 3)) - stream["image"].mean((1, 2, 3))
    assert ((bright > 30) == (stream["label"][:, 0] == dataset.datasheet["classes"].index("lesion"))).all()
    patients = dataset.patients("train")
    ids = dataset.ids("train")
    assert len(set(patients)) == 24 and len(set(ids)) == 36
    assert not any(i.startswith("p") for i in ids), "the files are called by their patients"
    volumes = Dataset.open(tiny_volumes).read("val", np.arange(4))
    assert volumes["image"].shape == (4, 16, 16, 16, 1) and (volumes["spacing"] == 1).all()
