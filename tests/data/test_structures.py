"""Which class a value of a mask is, and which scans a budget of masks pays for."""

import numpy as np
import pytest

from vitmed.data import budget
from vitmed.data.dataset import Dataset
from vitmed.data.structures import class_table, structures_of
from vitmed.errors import InputError

UNMARKED = 255


def test_structures_are_in_the_order_of_their_values():
    """Otherwise a class means another structure after the next ingest, or unnamed ones cannot be learned."""
    sheet = {
        "structures": {"posterior": [2], "tumour": [4, 5], "anterior": [1]},
        "marked": {"scans": 3, "structures": {"posterior": 3, "12": 1, "3": 2}},
    }
    assert structures_of(sheet) == [
        ("anterior", (1,)),
        ("posterior", (2,)),
        ("3", (3,)),
        ("tumour", (4, 5)),
        ("12", (12,)),
    ]
    table = class_table(structures_of(sheet))
    assert table[[0, 1, 2, 3, 4, 5, 12]].tolist() == [0, 1, 2, 3, 4, 4, 5]
    assert (np.delete(table, [0, 1, 2, 3, 4, 5, 12]) == UNMARKED).all()
    assert structures_of({}) == structures_of({"structures": {}, "marked": {"structures": {}}}) == []


@pytest.fixture
def partly_marked(write_dataset, tmp_path):
    """30 scans of 15 patients: of every fifth patient none has a mask, 2 is in all masks, 7 in those of one patient."""

    def example(i):
        mask = np.full((4, 4), UNMARKED if i // 2 % 5 == 0 else 0, np.uint8)
        if i // 2 % 5:
            mask[0, 0] = 2
        if i in (12, 13):
            mask[1, 1] = 7
        return {
            "id": f"e{i}",
            "image": np.zeros((4, 4, 1), np.uint8),
            "label": [],
            "patient": f"p{i // 2}",
            "mask": mask,
        }

    path = write_dataset(tmp_path / "set", {"train": [example(i) for i in range(30)]}, task=None, classes=())
    dataset = Dataset.open(path)
    dataset.datasheet["marked"] = {"scans": 24, "structures": {"2": 24, "7": 2}}
    dataset.datasheet["examples"] = {"train": 30}
    return dataset


def test_a_budget_counts_scans_with_masks_by_patient(partly_marked):
    """Otherwise the unmarked scans use up the budget, or half of a patient is labelled."""
    every = budget.labelled(partly_marked, "train", None, 0, masks=True)
    assert every.tolist() == [i for i in range(30) if i // 2 % 5]
    for seed in range(3):
        few = budget.labelled(partly_marked, "train", 6, seed, masks=True)
        more = budget.labelled(partly_marked, "train", 0.5, seed, masks=True)
        assert len(few) == 6 and len(more) == 12 and set(few) < set(more) < set(every)
        assert {12, 13} <= set(few), "the rare structure is not shown"
        assert all({i ^ 1} <= set(few.tolist()) for i in few.tolist())
    with pytest.raises(InputError, match="labels is 1 .1 of 24 examples., too few to show every structure"):
        budget.labelled(partly_marked, "train", 1, 0, masks=True)
    with pytest.raises(InputError, match="labels is 25; .* has 24 labelled examples"):
        budget.labelled(partly_marked, "train", 25, 0, masks=True)


def test_folds_of_masks_part_patients(partly_marked):
    chosen = np.setdiff1d(budget.labelled(partly_marked, "train", None, 0, masks=True), [12, 13])
    parts = [budget.fold(partly_marked, "train", chosen, (k, 3), 0, masks=True) for k in range(3)]
    assert sorted(np.concatenate(parts)) == chosen.tolist()
    assert all({i ^ 1} <= set(part.tolist()) for part in parts for i in part.tolist())


def test_what_is_marked_is_read_only_where_the_datasheet_leaves_it_open(partly_marked, monkeypatch):
    """Otherwise every start of a training goes through all masks of a large set."""
    partly_marked.datasheet["marked"]["scans"] = 30
    monkeypatch.setattr(Dataset, "marked", None)
    assert len(budget.marked(partly_marked, "train")) == 30


def test_chunked_masks_are_read_too(tmp_path, marked_volumes):
    from vitmed.data.ingest import ingest

    ingest(
        marked_volumes.parent / "scans.csv", tmp_path / "chunked", modality="mr", workers=1, chunk=(8, 8, 8)
    )
    whole, chunked = Dataset.open(marked_volumes), Dataset.open(tmp_path / "chunked")
    np.testing.assert_array_equal(chunked.marked("train"), whole.marked("train"))
    assert whole.marked("train")[:, [1, 2]].any(axis=0).all()
    assert (
        whole.marked("train")[:, UNMARKED].sum() == 2
    )  # the scan without a mask, and the one marked in part


def test_a_set_without_masks_is_refused(write_labels, tmp_path):
    dataset = Dataset.open(write_labels(tmp_path / "set", [0, 1]))
    with pytest.raises(InputError, match="has no masks; ingest it with some"):
        budget.labelled(dataset, "train", None, 0, masks=True)
