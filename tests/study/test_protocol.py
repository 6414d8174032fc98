"""What is made sure of before the first run, on real datasets of a few scans."""

import csv
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from vitmed import durable
from vitmed.data.copies import copies
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.study import protocol
from vitmed.study.plan import plan


def write(folder, rows, **asked):
    """Ingests 8 x 8 images made of numbers: rows of (name, number, split)."""
    folder.mkdir(parents=True)
    with open(folder / "scans.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "label"] if not asked else ["path", "label"])
        for at, (name, number, split) in enumerate(rows):
            draw = np.random.Generator(np.random.Philox(key=number))
            np.save(folder / f"{name}.npy", draw.integers(0, 255, (8, 8)).astype(np.uint8))
            table.writerow([f"{name}.npy", *([] if asked else [split]), "ab"[at % 2]])
    ingest(folder / "scans.csv", folder / "data", modality="xray", workers=1, **asked)
    return folder / "data"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    rows = [(f"s{i}", i, ("train", "train", "val", "test")[i // 2 % 4]) for i in range(24)]
    return write(tmp_path_factory.mktemp("clean") / "x", rows)


@pytest.fixture(scope="module")
def torn(tmp_path_factory):
    """Two scans of val are copies of scans of train."""
    numbers = [*range(12), 0, 1, 14, 15, *range(16, 24)]
    splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
    rows = [(f"s{i}", n, s) for i, (n, s) in enumerate(zip(numbers, splits))]
    return write(tmp_path_factory.mktemp("torn") / "x", rows)


@pytest.fixture
def planned(tmp_path):
    """Lays out a study of one pretraining and two arms on a dataset."""

    def make(path, pretrain=None, semi=None, folds=0):
        def own(objective, **data):
            return {
                "data": {"path": "", "split": "train", "val_split": "val", **data},
                "objective": {"name": objective},
                "train": {"steps": 2, "batch_size": 2},
                "init_from": "",
            }

        config = {
            "data": {"path": str(path), "folds": folds},
            "study": {
                "name": "x",
                "budgets": (1.0,),
                "draws": 1,
                "metrics": ("auroc",),
                "reference": "plain",
            },
            "pretrain": own("mae", **(pretrain or {})),
            "arms": {
                "plain": {"config": own("supervised"), "init": "pretrain"},
                "semi": {"config": own("semi_masked", **(semi or {}))},
            },
        }
        return plan(ConfigDict(config, allow_dotted_keys=True), tmp_path / "study")

    return make


def test_a_clean_dataset_passes_and_its_validation_labels_are_counted(clean, planned):
    """Otherwise studies of good data do not start, or nobody knows what choosing on validation cost."""
    assert protocol.check(planned(clean)) == {"validation": 6, "notes": []}


def test_copies_of_validation_scans_are_refused_or_left_out(torn, planned):
    """Otherwise the pretrained model has seen what it is chosen and judged by."""
    with pytest.raises(
        InputError, match=r"config.pretrain would learn from copies .*2 of the val split.*data.apart"
    ):
        protocol.check(planned(torn))
    apart = {"apart": ("val", "test")}
    with pytest.raises(InputError, match=r"config.arms.semi.config would learn"):
        protocol.check(planned(torn, apart))
    found = protocol.check(planned(torn, apart, apart))
    assert found["notes"] == ["Pretrainings leave out what is a copy of a scan of test and val."]


def test_another_dataset_is_compared_by_its_pixels(clean, torn, planned, tmp_path):
    """Otherwise test scans come back under another name, in a set that was gathered elsewhere."""
    rows = [(f"other{i}", 100 + i, "train") for i in range(7)] + [("renamed", 6, "train")]
    other = write(tmp_path / "other", rows)
    mixed = {"mix": {str(clean): 1.0, str(other): 1.0}}
    with pytest.raises(InputError, match=r"config.pretrain would learn from copies .*1 of the test split"):
        protocol.check(planned(clean, mixed))
    with pytest.raises(InputError, match=r"config.arms.semi.config would learn"):
        protocol.check(planned(clean, {}, {"unlabelled": str(other)}))
    study = planned(clean, mixed | {"apart": ("test",)})
    protocol.check(study)
    seen = durable.read_json(study.workdir / protocol.FILE)["apart"]
    assert len(seen) == 1 and " val " in seen[0], "what was compared is not compared again"


def test_a_test_split_is_not_learned_from(clean, planned):
    """Otherwise "unlabelled" scans are the test scans."""
    with pytest.raises(InputError, match="config.pretrain.data.split is 'test', which models are judged by"):
        protocol.check(planned(clean, {"split": "test"}))


def test_folds_are_of_one_set_and_test_on_each_once(tmp_path, planned):
    """Otherwise a patient is tested on twice, or one was learned from in the fold that tests on it."""
    rows = [(f"s{i}", i, "") for i in range(12)]
    for k in (1, 2, 3):
        write(tmp_path / f"fold{k}", rows, split=f"fold:{k}/3")
    study = planned(str(tmp_path / "fold{fold}" / "data"), folds=3)
    assert protocol.check(study)["validation"] == 12
    sheet = tmp_path / "fold2" / "data" / "datasheet.json"
    before = json.loads(sheet.read_text())
    sheet.write_text(json.dumps(before | {"splits": before["splits"] | {"how": "fold:1/3"}}))
    with pytest.raises(InputError, match="fold 2 of config.data.folds=3 is a dataset of"):
        protocol.check(study)
    sheet.write_text(json.dumps(before | {"splits": before["splits"] | {"seed": 9}}))
    with pytest.raises(InputError, match="their seed differ"):
        protocol.check(study)


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
