"""Streams and mixes: the same global batches whoever reads them, and nothing in them that should not be."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from vitmed import config
from vitmed.data import dataset as reading
from vitmed.data import loader, order
from vitmed.data.dataset import Dataset
from vitmed.data.loader import DataConfig
from vitmed.data.streams import Feed, Part
from vitmed.errors import InputError


def made(write, path, first, count, dtype=np.uint8, **more):
    """A dataset of ``count`` images whose every pixel is ``first`` + its index."""

    def example(i):
        image = np.full((5, 4, 2), first + i, dtype)
        mask = {"mask": np.ones((5, 4), np.uint8)} if more.get("masks") else {}
        return {"id": f"{path.name}{i:03d}", "image": image, "label": [i % 2], **mask}

    settings = {name: value for name, value in more.items() if name != "masks"}
    return str(write(path, {"train": [example(i) for i in range(count)]}, **settings))


@pytest.fixture(params=["cached", "from disk"])
def sets(request, write_dataset, tmp_path, monkeypatch):
    """Two datasets of one recipe (0..29 and 100..109) and a third without labels (200..219)."""
    if request.param == "from disk":
        monkeypatch.setattr(reading, "CACHE_BYTES", 0)
    a = made(write_dataset, tmp_path / "a", 0, 30)
    b = made(write_dataset, tmp_path / "b.v2", 100, 10)
    c = made(write_dataset, tmp_path / "c", 200, 20, task=None, classes=())
    return a, b, c


def feeds_of(path, batch=12, seed=3, **keys):
    section = DataConfig(path, **keys)
    return section.feeds(section.open(), batch, seed, labelled=keys.get("unlabelled") is not None)


def drawn(batches):
    return [
        {name: stream["image"][:, 0, 0, 0].tolist() for name, stream in batch.items()} for batch in batches
    ]


def test_all_processes_and_workers_make_the_same_global_batches(sets):
    # Else a run on another number of hosts is another run.
    a, b, c = sets
    feeds = feeds_of(a, mix={a: 2, b: 1}, unlabelled=c, unlabelled_batch=8)
    whole = drawn(loader.streams(feeds, 0, 9, workers=0))
    assert {name: len(rows) for name, rows in whole[0].items()} == {"main": 12, "unlabelled": 8}
    for processes in (2, 4):
        for workers in (0, 3):
            parts = [drawn(loader.streams(feeds, 0, 9, (i, processes), workers)) for i in range(processes)]
            for step, global_batch in enumerate(whole):
                for name, rows in global_batch.items():
                    assert sum((part[step][name] for part in parts), []) == rows


def test_rows_of_one_example_are_counted_whoever_reads_them(sets):
    # Else few labels in a large batch are augmented alike, or by which process they fell to.
    a, b, _ = sets
    feeds = feeds_of(b, batch=36, mix={b: 5, a: 1})
    (whole,) = loader.streams(feeds, 4, 5)
    example = whole["main"]["example"]
    assert example.dtype == np.uint32 and len(np.unique(example, axis=0)) == 36
    seen = {}
    for *name, visit in example.tolist():
        assert visit == seen.get(tuple(name), 0)
        seen[tuple(name)] = visit + 1
    assert max(seen.values()) > 2, "the ten of the one are in it several times"
    parts = [next(loader.streams(feeds, 4, 5, (i, 3)))["main"]["example"] for i in range(3)]
    assert (np.concatenate(parts) == example).all()


def test_streams_go_on_where_a_run_was_killed(sets):
    # Both streams must be at the step of the run, also after epochs of different lengths.
    a, b, c = sets
    feeds = feeds_of(a, mix={a: 0.7, b: 0.3}, unlabelled="split", unlabelled_batch=16)
    whole = drawn(loader.streams(feeds, 0, 40))
    assert drawn(loader.streams(feeds, 29, 40, workers=1)) == whole[29:]


def test_any_step_is_reached_in_milliseconds(sets):
    # A resume that replays the order would wait for hours.
    a, b, c = sets
    feeds = feeds_of(a, batch=64, mix={a: 2, b: 1}, unlabelled=c)
    list(loader.streams(feeds, 0, 1, workers=0))
    took = []
    for step in (10**6, 10**8, 10**9):
        began = time.perf_counter()
        next(loader.streams(feeds, step, step + 1, workers=0))
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


def test_a_mix_is_drawn_by_weight_and_not_by_size(sets):
    # The small dataset would drown otherwise, which is why one mixes.
    a, b, _ = sets
    rows = sum((batch["main"] for batch in drawn(loader.streams(feeds_of(a, mix={a: 1, b: 3}), 0, 50))), [])
    assert abs(np.mean(np.array(rows) >= 100) - 0.75) < 0.01
    counts = np.bincount(rows, minlength=110)
    assert np.ptp(counts[:30]) <= 1 and np.ptp(counts[100:]) <= 1 and counts[30:100].sum() == 0


def test_a_mix_does_not_depend_on_how_it_is_written_or_where_it_lies(sets):
    # A run that goes on reads its config from JSON, which sorts keys; datasets get moved.
    a, b, _ = sets
    orders = []
    for mix in ({a: 1, b: 3}, {b: 3, a: 1}):
        section = DataConfig(a, mix=mix)
        dataset = section.open()
        for path, content in ((a, "z"), (b, "y")):
            opened = dataset if path == a else Dataset.open(path)
            opened.datasheet["content_hash"] = content
        orders.append([str(part.dataset.path) for part in section.feeds(dataset, 8, 0)["main"].parts])
    assert orders[0] == orders[1]


def test_one_dataset_is_fed_as_ever(sets):
    # Switching a second stream on must not move the first: runs are compared that differ in it.
    a, _, c = sets
    plain, beside = feeds_of(a), feeds_of(a, unlabelled=c)
    expected = [order.indices(3, step, 12, 30).tolist() for step in range(5)]
    for feeds in (plain, beside):
        assert [batch["main"] for batch in drawn(loader.streams(feeds, 0, 5))] == expected


def test_the_unlabelled_stream_has_no_labels_and_an_order_of_its_own(sets, write_dataset, tmp_path):
    # A label that reaches it is leaked supervision; the same order would show each image twice in one step.
    path = made(write_dataset, tmp_path / "masked", 0, 30, masks=True)
    section = DataConfig(path, unlabelled="split")
    feeds = section.feeds(section.open(), 10, 0, members=lambda dataset: np.arange(4))
    (batch,) = loader.streams(feeds, 0, 1)
    assert batch["main"]["label"].shape == (10, 1) and "mask" in batch["main"]
    other = batch["unlabelled"]
    assert other["label"].shape == other["label_weight"].shape == (10, 0) and "mask" not in other
    seen = [drawn(loader.streams(feeds, step, step + 1))[0] for step in range(3)]
    assert sorted(sum((s["unlabelled"] for s in seen), [])) == list(range(30))  # all, past the budget
    assert set(sum((s["main"] for s in seen), [])) == {0, 1, 2, 3}
    whole = section.feeds(section.open(), 30, 0)
    (both,) = drawn(loader.streams(whole, 0, 1))
    assert both["main"] != both["unlabelled"] and sorted(both["main"]) == sorted(both["unlabelled"])


def test_the_rest_of_the_split_is_what_main_and_the_held_leave(sets):
    # An example in both streams would have its label in reach, a held one would be judged after being trained on.
    a, b, _ = sets

    def members(section, held=(), chosen=lambda dataset: np.arange(4)):
        feeds = section.feeds(section.open(), 10, 0, chosen, rest=True, held=held)
        seen = [drawn(loader.streams(feeds, step, step + 1))[0] for step in range(9)]
        return [set(sum((s[name] for s in seen), [])) for name in ("main", "unlabelled")]

    assert members(DataConfig(a)) == [set(range(4)), set(range(4, 30))]
    assert members(DataConfig(a), held=[4, 29]) == [set(range(4)), set(range(5, 29))]
    for named in ("split", a):
        assert members(DataConfig(a, unlabelled=named), held=[4, 29])[1] == set(range(30)) - {4, 29}
    every = {*range(4, 30), *range(104, 110)}
    assert members(DataConfig(a, mix={a: 1, b: 1}))[1] == every
    assert members(DataConfig(a), chosen=lambda dataset: np.arange(30)) == [set(range(30))] * 2
    with pytest.raises(
        InputError, match="config.data.labels is 1.0, which leaves no scan of split 'train' of"
    ):
        members(DataConfig(a, labels=1.0), chosen=lambda dataset: np.arange(30))


def test_a_mix_of_kinds_has_one_shape(write_dataset, tmp_path):
    # A batch whose dtype or masks came and went with what was drawn would compile the step again and again.
    a = made(write_dataset, tmp_path / "a", 0, 6)
    b = made(write_dataset, tmp_path / "b", 300, 6, dtype=np.int16, masks=True)
    streams = [batch["main"] for batch in loader.streams(feeds_of(a, 4, mix={a: 9, b: 1}), 0, 6)]
    assert {(s["image"].dtype, s["mask"].dtype) for s in streams} == {(np.dtype("int16"), np.dtype("uint8"))}
    for stream in streams:
        from_b = stream["image"][:, 0, 0, 0] >= 300
        assert (stream["mask"][from_b] == 1).all() and (stream["mask"][~from_b] == 255).all()
    assert sum((s["image"] >= 300).sum() for s in streams) > 0


def test_labels_of_another_meaning_are_refused_or_left_out(sets, write_dataset, tmp_path):
    # Class 1 of one set would be taken for class 1 of the other.
    a, _, c = sets
    d = made(write_dataset, tmp_path / "d", 0, 5, classes=("b", "a"))
    for other in (c, d):
        section = DataConfig(a, mix={a: 1, other: 1})
        with pytest.raises(InputError, match=f"labels of {other}.*are not those of {a} .multiclass: a, b"):
            section.feeds(section.open(), 8, 0)
        feeds = section.feeds(section.open(), 8, 0, labelled=False)
        assert {batch["main"]["label"].shape for batch in loader.streams(feeds, 0, 4)} == {(8, 0)}


def test_masks_come_along_without_labels_where_structures_are_excluded(write_dataset, tmp_path):
    # Else a face that nobody may learn is learned from the unlabelled scans; a label that comes along is leaked.
    path, other = (made(write_dataset, tmp_path / name, 0, 30, masks=True) for name in ("a", "b"))
    bare = made(write_dataset, tmp_path / "bare", 0, 30)
    for folder, structures in ((path, {"face": [1]}), (other, {"face": [2]})):
        sheet = json.loads((Path(folder) / "datasheet.json").read_text())
        (Path(folder) / "datasheet.json").write_text(json.dumps({**sheet, "structures": structures}))
    section = DataConfig(path)
    feeds = section.feeds(section.open(), 10, 0, lambda dataset: np.arange(4), rest=True, excluded=("face",))
    (batch,) = loader.streams(feeds, 0, 1)
    stream = batch["unlabelled"]
    assert stream["mask"].shape == (10, 5, 4) and stream["label"].shape == stream["label_weight"].shape == (
        10,
        0,
    )
    for beside in (other, bare):
        for section in (DataConfig(path, unlabelled=beside), DataConfig(path, mix={path: 1.0, beside: 1.0})):
            with pytest.raises(
                InputError, match=f"excludes the structure 'face', which the masks of {beside}"
            ):
                section.feeds(section.open(), 10, 0, excluded=("face",))
            section.feeds(section.open(), 10, 0)
    alike = made(write_dataset, tmp_path / "alike", 0, 30, masks=True)
    sheet = json.loads((Path(alike) / "datasheet.json").read_text())
    told = {**sheet, "structures": {"face": [1]}, "task": "multiclass", "classes": ["x", "y", "z"]}
    (Path(alike) / "datasheet.json").write_text(json.dumps(told))
    section = DataConfig(path, mix={path: 1.0, alike: 1.0})
    feeds = section.feeds(section.open(), 10, 0, labelled=False, excluded=("face",))
    assert not feeds["main"]._labelled, "the labels of the two are not the same"
    assert next(loader.streams(feeds, 0, 1))["main"]["mask"].shape == (10, 5, 4)


def test_recipes_that_differ_are_refused_naming_both(sets, write_dataset, tmp_path):
    # What the numbers mean must be one thing, or the model learns to tell the datasets apart by it.
    a, *_ = sets
    other = tmp_path / "other"
    made(write_dataset, other, 0, 5)
    sheet = (other / "datasheet.json").read_text()
    for was, now, said in (
        ('"xray"', '"mr"', "modality is xray here and mr there"),
        ('"window": [0, 1]', '"window": [0, 2]', r"window is \(0.0, 1.0\) here and \(0.0, 2.0\) there"),
        ('"size": [5, 4]', '"size": [8, 8]', r"size is \(5, 4\) here and \(8, 8\) there"),
    ):
        assert was in sheet
        (other / "datasheet.json").write_text(sheet.replace(was, now))
        for keys, key in (
            ({"mix": {a: 1, str(other): 1}}, "mix"),
            ({"unlabelled": str(other)}, "unlabelled"),
        ):
            with pytest.raises(InputError, match=f"config.data.{key}: {other} does not fit {a}: {said}"):
                feeds_of(a, **keys)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"mix": {"x": 0}}, "config.data.mix gives x the weight 0.0; a positive"),
        ({"mix": {"x": float("nan")}}, "config.data.mix gives x the weight nan"),
        ({"mix": {"x": 1}, "path": ""}, "config.data.path is empty; beside config.data.mix"),
        ({"mix": {"x": 1}, "labels": 0.1}, "config.data.labels is 0.1, but .* leave out config.data.mix"),
        ({"mix": ["x"]}, "config.data.mix is .* a mapping was expected"),
        ({"fold": (2, 2)}, r"config.data.fold is \(2, 2\); \(k, n\) was expected"),
        ({"fold": (0, 2), "mix": {"x": 1}}, "config.data.fold is .* leave out config.data.mix"),
        ({"unlabelled": "split", "unlabelled_batch": 0}, "config.data.unlabelled_batch is 0"),
        ({"mixed": {}}, "did you mean config.data.mix"),
    ],
)
def test_impossible_streams_are_refused_by_name(keys, message):
    with pytest.raises(InputError, match=message):
        config.build(DataConfig, {"path": "set", **keys}, "config.data")


def test_faults_of_a_second_dataset_are_named(sets, tmp_path):
    a, b, _ = sets
    for keys in ({"mix": {a: 1, str(tmp_path / "gone"): 1}}, {"unlabelled": str(tmp_path / "gone")}):
        with pytest.raises(InputError, match=f"{tmp_path / 'gone'}.*vitmed ingest"):
            feeds_of(a, **keys)
    with pytest.raises(InputError, match="config.data.unlabelled_batch is 7.*multiple of the 2"):
        loader.streams(feeds_of(a, unlabelled=b, unlabelled_batch=7), 0, 1, shard=(0, 2))
    with pytest.raises(InputError, match="no examples of split 'train'"):
        Feed([Part(Dataset.open(a), "train", np.array([], int))], 4, 0)


def test_paths_with_dots_are_keys_like_others(sets, tmp_path):
    # Half of all dataset folders are called something.v2.
    file = tmp_path / "c.py"
    file.write_text(
        "from ml_collections import ConfigDict\ndef get_config(arg=None):\n    return ConfigDict({'data': {'path': 'x'}})\n"
    )
    values = config.load(str(file), {"data.mix": str({"data/set.v2": 0.5})})
    assert config.build(DataConfig, values.data).mix == {"data/set.v2": 0.5}
    again = tmp_path / "config.json"
    again.write_text(config.to_json(values))
    assert config.load(str(again)).to_dict() == values.to_dict()


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ({1: 2.0}, r"config.data.mix has the key 1 \(int\); text was expected"),
        ({"": 1.0}, r"config.data.mix names a dataset by no path"),
    ],
)
def test_a_mix_without_paths_is_one_sentence(mix, told):
    """Otherwise it is found out by a traceback."""
    with pytest.raises(InputError, match=told):
        config.build(DataConfig, {"path": "a", "mix": mix}, "config.data")


def test_a_dataset_that_is_none_is_told_with_its_key(write_dataset, tmp_path):
    """Otherwise a person looks for the fault in config.data.path."""
    first = made(write_dataset, tmp_path / "first", 0, 4)
    (tmp_path / "file").write_text("")
    for name, told in (
        ("nowhere", "nowhere does not exist"),
        ("file", "file is a file; a dataset is a folder"),
    ):
        for keys in ({"mix": {str(tmp_path / name): 1.0}}, {"unlabelled": str(tmp_path / name)}):
            section = DataConfig(first, **keys)
            with pytest.raises(InputError, match=f"^config.data.{next(iter(keys))}: .*{told}"):
                section.feeds(section.open(), 2, 0)
