"""Classes drawn equally often: what is balanced, and that it is a function of seed and step like all order."""

import json

import numpy as np
import pytest

from vitmed.data import balance, budget, loader
from vitmed.data.dataset import Dataset
from vitmed.data.loader import DataConfig
from vitmed.errors import InputError


@pytest.fixture
def rare(write_labels, tmp_path):
    """180 of class a, 15 of b, 5 of c."""
    return write_labels(tmp_path / "set", np.repeat([0, 1, 2], [180, 15, 5]), classes=("a", "b", "c"))


def drawn(path, steps, batch=12, shard=(0, 1), workers=2, seed=3, members=lambda one: None):
    section = DataConfig(str(path), sampling="balanced")
    feeds = section.feeds(section.open(), batch, seed, members)
    start, stop = steps
    return [b["main"]["example"][:, :2].tolist() for b in loader.streams(feeds, start, stop, shard, workers)]


def test_every_class_is_drawn_equally_often_and_every_scan_of_it(rare):
    """Otherwise a batch of 12 holds a scan of the rarest class once in four."""
    dataset = Dataset.open(rare)
    label = {
        tuple(e): int(v) for e, v in zip(dataset.examples("train").tolist(), dataset.labels("train")[0][:, 0])
    }
    batches = drawn(rare, (0, 45))
    assert all(np.bincount([label[tuple(e)] for e in batch]).tolist() == [4, 4, 4] for batch in batches)
    seen = {tuple(e) for batch in batches for e in batch}
    assert len(seen) == 200, "a class is gone through whole before a scan of it comes again"


def test_workers_processes_and_a_resume_do_not_change_it(rare):
    """Otherwise a run on other hosts, or one that was killed, is another run."""
    whole = drawn(rare, (0, 30))
    assert drawn(rare, (17, 30), workers=0) == whole[17:]
    parts = [drawn(rare, (0, 30), shard=(i, 3)) for i in range(3)]
    assert [sum(step, []) for step in zip(*parts)] == whole
    assert drawn(rare, (0, 30), seed=4) != whole


def test_a_budget_balances_itself(rare):
    """Neither what is drawn nor the counts know a scan outside of the label budget."""
    dataset = Dataset.open(rare)
    chosen = budget.labelled(dataset, "train", 40, 0)
    within = {tuple(e) for e in dataset.examples("train")[chosen].tolist()}
    assert {tuple(e) for batch in drawn(rare, (0, 40), members=lambda one: chosen) for e in batch} == within
    own = np.bincount(dataset.labels("train")[0][chosen, 0].astype(int))
    np.testing.assert_array_equal(balance.counts(dataset, "train", chosen), np.stack([own, 40 - own], axis=1))


def test_of_several_findings_the_rarest_counts(write_labels, tmp_path):
    """A scan is in one group; a missing label shows nothing and is not counted as absent either."""
    rows = [[1, 0], [1, 0], [1, 1], [0, 0], [np.nan, 1], [1, np.nan], [0, 0]]
    path = write_labels(tmp_path / "set", rows, task="multilabel", classes=("common", "rare"))
    dataset, every = Dataset.open(path), np.arange(7)
    assert [g.tolist() for g in balance.groups(dataset, "train", every)] == [[0, 1, 5], [2, 4], [3, 6]]
    assert balance.counts(dataset, "train", every).tolist() == [[4, 2], [2, 4]]
    assert [g.tolist() for g in balance.groups(dataset, "train", every[:2])] == [[0, 1]]


def test_of_masks_structures_are_findings_and_voxels_are_counted(write_dataset, tmp_path):
    """What nobody has marked is of no class; without a budget's other scans a structure may never be shown."""
    masks = np.zeros((4, 6, 5), np.uint8)
    masks[0, 0, 0], masks[:3, 2, :4], masks[3, :2] = 1, 2, 255
    examples = [
        {"id": f"e{i}", "image": mask[..., None], "mask": mask, "label": [0]} for i, mask in enumerate(masks)
    ]
    path = write_dataset(tmp_path / "set", {"train": examples})
    sheet = json.loads((path / "datasheet.json").read_text())
    (path / "datasheet.json").write_text(json.dumps(sheet | {"structures": {"dot": [1], "block": [2]}}))
    dataset, every = Dataset.open(path), np.arange(4)
    assert balance.voxels(dataset, "train", every).tolist() == [[97, 13], [1, 109], [12, 98]]
    assert balance.voxels(dataset, "train", every[1:]).tolist() == [[72, 8], [0, 80], [8, 72]]
    assert [g.tolist() for g in balance.groups(dataset, "train", every, masks=True)] == [[0], [1, 2], [3]]
    section = DataConfig(str(path), sampling="balanced")
    feeds = section.feeds(section.open(), 3, 0, lambda one: every, masks=True)
    (batch,) = loader.streams(feeds, 0, 1)
    held = np.sort(batch["main"]["mask"].reshape(3, -1).max(axis=1) % 255)
    assert held.tolist() == [0, 2, 2] and (batch["main"]["mask"] == 1).any()


def test_masks_without_a_structure_are_refused(write_dataset, tmp_path):
    """Scans in which nothing was found have masks too."""
    empty = np.zeros((6, 5), np.uint8)
    example = {"id": "e", "image": empty[..., None], "mask": empty, "label": [0]}
    section = DataConfig(str(write_dataset(tmp_path / "set", {"train": [example]})), sampling="balanced")
    with pytest.raises(InputError, match="the masks of .* hold no structure; leave out config.data.sampling"):
        section.feeds(section.open(), 1, 0, lambda one: np.arange(1), masks=True)


def test_what_has_no_classes_is_refused(write_labels, tmp_path):
    path = write_labels(tmp_path / "set", np.arange(9.0), task="regression", classes=("age",))
    with pytest.raises(InputError, match="are regression.*leave out config.data.sampling"):
        drawn(path, (0, 1))
    with pytest.raises(ValueError, match="sampling is 'balanced', but config.data.mix"):
        DataConfig("a", sampling="balanced", mix={"a": 1.0})
