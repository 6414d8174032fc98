import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitmed import config
from vitmed.data import loader, order
from vitmed.data.dataset import Dataset
from vitmed.data.loader import DataConfig
from vitmed.errors import InputError


@pytest.fixture(scope="module")
def dataset(images_set):
    return Dataset.open(images_set)


def drawn(iterator):
    """Indices of the examples of each batch: an image's pixels are its index."""
    return [batch["main"]["image"][:, 0, 0, 0].tolist() for batch in iterator]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_follow_the_order_whatever_the_workers(dataset, workers):
    # Threads that finish out of turn must not change what a step sees.
    got = drawn(loader.batches(dataset, "train", 8, seed=4, start=0, stop=20, workers=workers))
    assert got == [order.indices(4, step, 8, 50).tolist() for step in range(20)]


def test_resumed_batches_are_the_same(dataset):
    # A run killed at step 13 must see at 13, 14, ... what it would have seen.
    whole = drawn(loader.batches(dataset, "train", 8, seed=4, start=0, stop=20))
    assert drawn(loader.batches(dataset, "train", 8, seed=4, start=13, stop=20)) == whole[13:]
    assert drawn(loader.batches(dataset, "train", 8, seed=4, start=20, stop=20)) == []


@given(
    step=st.integers(0, 10**6), seed=st.integers(0, 2**32), each=st.integers(1, 9),
    processes=st.sampled_from([1, 2, 4]),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_processes_share_out_one_global_batch(dataset, step, seed, each, processes):
    # The global batch must not depend on the number of hosts, and every row must be read by exactly one.
    size = 4 * each
    whole = order.indices(seed, step, size, 50).tolist()
    parts = []
    for i in range(processes):
        shard = {"shard": (i, processes), "workers": 0}
        parts += drawn(loader.batches(dataset, "train", size, seed, step, step + 1, **shard))
    assert sum(parts, []) == whole and len({len(part) for part in parts}) == 1


def test_budget_restricts_the_epoch(dataset):
    # Training at a label budget sees these examples and no other, each once an epoch.
    few = np.array([3, 8, 30, 41])
    for epoch in drawn(loader.batches(dataset, "train", 4, seed=0, start=0, stop=5, indices=few)):
        assert sorted(epoch) == few.tolist()


@pytest.mark.parametrize("processes", [1, 2])
def test_sweep_sees_every_example_once(dataset, processes):
    # Evaluation counts rows by weight: a padded row counted, or an example missed, makes the metric wrong.
    shards = [list(loader.sweep(dataset, "train", 16, shard=(i, processes))) for i in range(processes)]
    assert [len(batches) for batches in shards] == [4] * processes
    seen = []
    for batches in zip(*shards, strict=True):
        for batch in batches:
            main = batch["main"]
            assert len(main["image"]) == 16 // processes and (main["image"][main["weight"] == 0] == 49).all()
            seen += main["image"][main["weight"] == 1, 0, 0, 0].tolist()
    assert seen == list(range(50))


def test_sweep_keeps_the_order_given(dataset):
    # Scores are matched to the indices that asked for them.
    (batch,) = loader.sweep(dataset, "val", 4, indices=np.array([6, 2, 5]))
    assert drawn([batch]) == [[6, 2, 5, 5]] and batch["main"]["weight"].tolist() == [1, 1, 1, 0]
    assert list(loader.sweep(dataset, "val", 4, indices=np.array([], int))) == []


def test_a_fault_while_reading_reaches_the_loop(dataset, monkeypatch):
    # An exception swallowed in a thread would hang the run or drop a batch.
    def broken(*_):
        raise InputError("images of X differ in size")

    monkeypatch.setattr(dataset, "read", broken, raising=False)
    with pytest.raises(InputError, match="differ in size"):
        next(loader.batches(dataset, "train", 8, seed=0, start=0, stop=5))


def test_what_cannot_be_loaded_is_refused(dataset):
    with pytest.raises(InputError, match="batch_size is 6.*multiple of the 4"):
        loader.batches(dataset, "train", 6, 0, 0, 5, shard=(0, 4))
    with pytest.raises(InputError, match="no examples"):
        loader.batches(dataset, "train", 6, 0, 0, 5, indices=np.array([], int))
    with pytest.raises(InputError, match="no split 'test'"):
        loader.sweep(dataset, "test", 6)


def test_config_is_checked_against_the_dataset(images_set):
    # These mistakes must end before the model is compiled, naming the key.
    path = str(images_set)
    assert DataConfig(path, size=(5, 4), channels=2).open().size("train") == 50
    for wrong, message in (
        ({"path": path, "channels": 1}, "config.data.channels is 1.*images of 2"),
        ({"path": path, "size": (8, 8)}, "config.data.size is 8,8"),
        ({"path": path, "split": "trian"}, "no split 'trian'"),
        ({"path": path, "workers": -1}, "config.data.workers is -1"),
    ):
        with pytest.raises(InputError, match=message):
            config.build(DataConfig, wrong, "config.data").open()


def test_one_label_is_not_all_labels():
    # 1 counts examples and 1.0 is a fraction; a config must keep them apart.
    one = config.build(DataConfig, {"path": "x", "labels": 1}).labels
    all_ = config.build(DataConfig, {"path": "x", "labels": 1.0}).labels
    assert isinstance(one, int) and isinstance(all_, float)


def test_a_window_is_for_hounsfield_units_and_becomes_the_recipes(dataset, monkeypatch):
    """Otherwise a run does not record what its model sees, or an X-ray is clipped to HU and is blank."""
    path = str(dataset.path)
    ct = {**dataset.datasheet, "modality": "ct", "unit": "HU", "window": [-1000, 1000]}
    with pytest.raises(
        InputError, match="config.data.window is 'lung'.* Hounsfield units, but .* holds xray"
    ):
        DataConfig(path, window="lung").open()
    monkeypatch.setattr(dataset, "datasheet", ct)
    assert DataConfig(path, window="lung").recipe(dataset).window == (-1350, 150)
    assert DataConfig(path, window=(-160, 240), crop=(2, 2)).recipe(dataset).window == (-160, 240)
    assert DataConfig(path).recipe(dataset) == dataset.recipe()
    for wrong in ("lungs", (3.0,), (2.0, 1.0), 5, ("a", "b")):
        told = rf"config.data.window is {re.escape(repr(wrong))}; give lung, .*, or the two ends in HU"
        with pytest.raises(InputError, match=told):
            config.build(DataConfig, {"path": path, "window": wrong}, "config.data")
