"""A study of masks: its metrics, its label budgets, and one that is real from its config to its table."""

import pytest

from vitmed import config as configs
from vitmed import durable
from vitmed.data import budget
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.study import protocol, tune
from vitmed.study.plan import plan
from vitmed.study.study import label_count, metric_names, study


@pytest.fixture
def asked(marked_dataset):
    """The shipped study at its smallest: half the masks, one draw, a pretrained ViT and one from scratch."""
    config = configs.load("configs/study/hippocampus.py:tiny")
    config.data.update(dict(path=str(marked_dataset), folds=0))
    with config.ignore_type(), config.unlocked():
        config.study.update(dict(budgets=(0.5,), draws=1, folds=None, baselines=("scratch",), compare=()))
        config.study.arms = ("pretrained", "scratch")
        config.pretrain.model.patch_size = (4, 4)
        config.pretrain.train.batch_size = 8
        for arm in config.arms.values():
            arm.steps = (2,)
            arm.config.train.batch_size = 8
            if "patch_size" in arm.config.model:
                arm.config.model.patch_size = (4, 4)
    return config


def test_its_metrics_are_those_of_structures(marked_dataset, tiny_dataset):
    """Otherwise a study of masks ends before its first run, or after its last."""
    names = metric_names(str(marked_dataset), "test", masks=True)
    assert {"dice", "dice/1", "dice/2", "nsd"} <= set(names)
    assert not any("hd95" in name for name in names), "it is refused, and so not offered"
    with pytest.raises(InputError, match="has no labels"):
        metric_names(str(marked_dataset), "test")
    with pytest.raises(InputError, match="has no masks"):
        metric_names(str(tiny_dataset), "test", masks=True)


@pytest.mark.parametrize("metric", ["hd95", "hd95/1"])
def test_a_distance_that_leaves_failures_out_is_refused(asked, tmp_path, metric):
    """Otherwise an arm that misses what is hard to outline has the smaller mean distance, and is better for it."""
    asked.study.metrics = ("dice", metric)
    with pytest.raises(InputError, match="config.study.metrics is .*HD95 is infinite.*Take 'dice' or 'nsd'"):
        plan(asked, tmp_path / "study")


def test_its_budgets_and_validation_count_masks(asked, marked_dataset, tmp_path):
    """Otherwise labels that masks do not have are counted, and none is found."""
    planned, dataset = plan(asked, tmp_path / "study"), Dataset.open(marked_dataset)
    assert planned.masks
    assert label_count(str(marked_dataset), "train", 0.5, 0, 2, True) == 6
    told = protocol.check(planned)
    assert told["validation"] == len(budget.marked(dataset, "val")) > 0


def test_arms_that_learn_from_other_things_are_refused(asked, tmp_path):
    with asked.ignore_type(), asked.unlocked():
        asked.arms.scratch.config.objective = {"name": "supervised"}
    with pytest.raises(InputError, match="pretrained masks, scratch labels of whole scans"):
        plan(asked, tmp_path / "study")


@pytest.mark.slow
def test_a_real_study_of_masks_ends_in_its_table(asked, marked_dataset, tmp_path):
    """Otherwise all of this holds for studies of whole scans alone, and settings cannot be chosen by left-out masks."""
    asked.tune = {"by": "budget", "folds": 2}
    asked.arms.scratch.config.checkpoint.best = "val/loss"
    asked.arms.scratch.config.train.val_every = 1
    told = study(asked, tmp_path / "study", quiet=True)
    assert [row["arm"] for row in told["rows"]] == ["pretrained", "scratch"]
    assert all(0 <= row["dice"] <= 1 and row["labels"] == 6 for row in told["rows"])
    cell = plan(asked, tmp_path / "study").cell("scratch", 0.5, 0)
    assert 0 <= tune.told(cell)["trials"][0]["value"] <= 1 and tune.told(cell)["threshold"] is None
    left = [tune.left_out(cell.trying / f"0-{k}", "last") for k in (0, 1)]
    assert sum(len(one.score) for one in left) == 6, "each scan with a mask is left out once"
    table = durable.read_json(tmp_path / "study" / "table.json")
    assert table["beside"] == {"labels": 0, "why": []} and {c["guard"] for c in table["cells"]} == {""}
