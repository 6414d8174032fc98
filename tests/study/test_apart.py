"""Copies of scans that are judged by: found, left out, and no part of a label budget."""

import dataclasses
import shutil

import numpy as np
import pytest
from made_up_sets import write

from vitmed.data import lookalikes
from vitmed.data.copies import copies
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.study import tune
from vitmed.study.study import label_count


def test_copies_are_found_where_one_set_holds_wider_pixels(tmp_path):
    """Otherwise one 16-bit picture in a set hides that another one holds the same pictures."""
    rows = [(f"s{i}", i, "train") for i in range(4)]
    narrow = write(tmp_path / "narrow", rows)
    (tmp_path / "wide").mkdir()
    np.save(tmp_path / "wide" / "deep.npy", np.arange(64, dtype=np.uint16).reshape(8, 8) * 900)
    for path in narrow.parent.glob("s*.npy"):
        shutil.copy(path, tmp_path / "wide")
    ingest(tmp_path / "wide", tmp_path / "wide-set", modality="xray", workers=1, split="train")
    sets = [Dataset.open(path) for path in (narrow, tmp_path / "wide-set")]
    assert {str(s.image_dtype) for s in sets} == {"uint8", "uint16"}
    for one, other in (sets, sets[::-1]):
        assert len(copies(one, "train", other, ["train"])) == 4
        assert lookalikes.count(one, "train", other, ["train"]) == {"train": 0}, "copies are none of these"


def test_copies_are_found_and_nothing_learns_from_them(torn, tmp_path):
    """Otherwise data.apart is a key that does nothing."""
    from vitmed.config import load
    from vitmed.job.config import check
    from vitmed.job.job import Job

    dataset = Dataset.open(torn)
    found = copies(dataset, "train", dataset, ("val", "test"))
    named = [dataset.ids("train")[i] for i in found]
    assert len(named) == 2 and all(name.startswith(("s0", "s1")) for name in named)
    keys = {"data.path": str(torn), "train.batch_size": "8"}
    for name, apart, left in (("mae", "()", 12), ("mae", "('val', 'test')", 10)):
        config = load(f"configs/pretrain_{name}.py:tiny", keys | {"data.apart": apart})
        job = Job(check(config))
        assert job.examples == left == job.datasheet()["learned_from"]
    config = load("configs/finetune_classify.py:tiny", keys | {"data.apart": "('train',)"})
    with pytest.raises(InputError, match="config.data.apart names 'train'"):
        Job(check(config))
    semi = load("configs/semi_masked.py:tiny", keys | {"data.apart": "('val',)", "data.labels": "0.5"})
    feeds = Job(check(semi)).feeds
    seen = {i for feed in feeds.values() for part in feed.parts for i in part.members}
    assert seen == set(range(12)) - set(found.tolist())


def budgeted(torn, seed, **keys):
    """A checked config of four labels beside copies of the splits that are judged by, and what it was made of."""
    from vitmed.config import load
    from vitmed.job.config import check

    keys = {
        "data.path": torn,
        "data.apart": ("val", "test"),
        "data.labels": 4,
        "data.label_seed": seed,
        **keys,
    }
    asked = {key: str(value) for key, value in keys.items()} | {"train.batch_size": "8"}
    values = load("configs/semi_masked.py:tiny", asked)
    return check(values), values


def learned(dataset, config):
    """Which scans it learns labels of."""
    from vitmed.job.feeds import feeds_of
    from vitmed.parallel.engine import engine

    feeds = feeds_of(dataset, config, engine(config.parallel, config.train.batch_size))
    return set(feeds["main"].parts[0].members.tolist())


def test_a_label_budget_is_spent_on_what_is_learned_from(torn):
    """Otherwise it pays for copies that are left out then: fewer labels than are counted, or a class the less."""
    dataset = Dataset.open(torn)
    left, labels = copies(dataset, "train", dataset, ("val", "test")), dataset.labels("train")[0][:, 0]
    for seed in range(4):
        one = learned(dataset, budgeted(torn, seed)[0])
        assert len(one) == 4 == label_count(str(torn), "train", 4, seed, apart=("val", "test"))
        assert not one & set(left.tolist()) and len({labels[i] for i in one}) == 2
    assert label_count(str(torn), "train", 1.0, 0, apart=("val", "test")) == 10, "two of twelve are copies"


def test_within_a_label_budget_it_is_judged_by_what_is_learned_from(torn, tmp_path, monkeypatch):
    """Otherwise a guard, or a choice of settings, is decided by copies of the scans that models are judged by."""
    from vitmed.evaluate import guard
    from vitmed.infer import Model

    judged, dataset = [], Dataset.open(torn)

    class Untrained:
        gives_masks, order, dataset_path = False, (), torn

        def logits(self, dataset, split, part):
            judged.append(part.tolist())
            return np.zeros((len(part), 2))

    def untrained(values, run):
        run.mkdir(parents=True)
        return {"step": values.train.steps}

    model = Untrained()
    monkeypatch.setattr(Model, "open", lambda *_: model)
    for seed in range(4):
        config, values = budgeted(torn, seed, **{"guard.folds": 2})
        whole = learned(dataset, config)
        guard.choose(values, config, tmp_path / str(seed), untrained, quiet=True)
        assert set().union(*judged) == whole and guard.told(tmp_path / str(seed))["labels"] == 4
        judged.clear()
        for k in (0, 1):
            one, values = budgeted(torn, seed, **{"data.fold": (k, 2)})
            model.config = {"data": dataclasses.asdict(one.data)}
            tune.left_out(tmp_path, "last")
            assert learned(dataset, one) == whole - set(judged[-1])
        assert set().union(*judged) == whole
        judged.clear()
