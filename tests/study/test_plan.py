"""What a study lays out."""

import json
import shutil

import pytest

from vitmed.errors import InputError
from vitmed.study.plan import check_unchanged, plan


def test_arms_are_paired(config, tmp_path):
    """Otherwise a difference between arms is partly the luck of which scans were labelled."""
    planned = plan(config, tmp_path / "study")
    assert len(planned.cells) == 3 * 2 * 2
    for budget in (0.1, 1.0):
        for draw in (0, 1):
            data = [planned.cell(arm, budget, draw).config.data for arm in planned.config.arms]
            assert len({(d.path, d.split, d.labels, d.label_seed) for d in data}) == 1
            assert (data[0].labels, data[0].label_seed) == (budget, draw)


def test_only_pretrained_arms_start_from_the_pretraining(config, tmp_path):
    """Otherwise "from scratch" is not."""
    planned = plan(config, tmp_path / "study")
    starts = {cell.arm: cell.config.init_from for cell in planned.cells}
    assert starts == {
        "pretrained": str((tmp_path / "study" / "pretrain").resolve()),
        "scratch": "",
        "resnet": "",
    }
    assert planned.pretrain.config.train.seed == 7, "the pretraining keeps its own seed"
    assert "labels" not in planned.pretrain.config.data


def test_arms_are_judged_by_the_same_ranks(config, tmp_path):
    """Otherwise an arm without an order has no errors in ranks to be compared with, which shows after hours."""
    for arm in config.arms.values():
        arm.config.objective = {"order": ("low", "middle", "high")}
    assert plan(config, tmp_path / "study").order == ("low", "middle", "high")
    config.arms.resnet.config.objective = {"order": ("high", "middle", "low")}
    with pytest.raises(InputError, match="all arms must be judged by the same ranks"):
        plan(config, tmp_path / "study")


def test_arms_are_chosen_and_ordered(config, tmp_path):
    """Otherwise tables list arms by the alphabet, and trying one arm runs all."""
    config.study.arms = ("scratch", "pretrained")
    planned = plan(config, tmp_path / "study")
    assert list(planned.config.arms) == ["scratch", "pretrained"] and len(planned.cells) == 2 * 2 * 2


def test_steps_by_budget(config, tmp_path):
    """Otherwise the largest budget is trained as shortly as the smallest."""
    planned = plan(config, tmp_path / "study")
    steps = {(c.arm, c.budget): c.config.train.steps for c in planned.cells}
    assert (steps["scratch", 0.1], steps["scratch", 1.0], steps["resnet", 1.0]) == (10, 30, 10)


def test_a_study_without_pretraining(config, tmp_path):
    """Otherwise a study of baselines pretrains for nothing."""
    del config.arms["pretrained"]
    config.study.reference = "scratch"
    assert plan(config, tmp_path / "study").pretrain is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("study.reference", "cnn", "the arms are"),
        ("study.arms", ("pretrained", "cnn"), "config.study.arms has 'cnn'"),
        ("study.arms", ("scratch",), "the arms are scratch"),
        ("study.budgets", (0.1, 0.1), "different"),
        ("study.budgets", (1.5,), "at most 1.0"),
        ("study.draws", 0, "at least one"),
        ("study.draws", (3, 0), "at least one"),
        ("study.draws", (3, 2, 1), "each of the 2 budgets"),
        ("study.drawz", 3, "did you mean config.study.draws"),
        ("study.metrics", (), "metrics is empty"),
        ("arms.scratch.steps", (1, 2, 3), "3 entries"),
        ("arms.scratch.config.data.split", "val", "same examples"),
        ("pretrain", None, "no config.pretrain"),
    ],
)
def test_wrong_configs_are_refused(config, tmp_path, key, value, said):
    """Otherwise the fault shows after hours of training, or never."""
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    with node.ignore_type(), node.unlocked():
        node[last] = value
    with pytest.raises(InputError, match=said):
        plan(config, tmp_path / "study")


def test_another_config_is_refused_by_key(config, tmp_path):
    """Otherwise one table mixes cells of two experiments."""
    check_unchanged(plan(config, tmp_path / "study"))
    check_unchanged(plan(config, tmp_path / "study"))
    config.arms.resnet.config.train.batch_size = 8
    with pytest.raises(InputError, match=r"resnet: train.batch_size was 4, now 8"):
        check_unchanged(plan(config, tmp_path / "study"))


def test_a_study_can_grow_and_move(config, tmp_path):
    """Otherwise one more draw, or a moved folder, means training everything again."""
    check_unchanged(plan(config, tmp_path / "study"))
    config.study.draws = 3
    config.arms["cnn2"] = config.arms["resnet"]
    check_unchanged(plan(config, tmp_path / "study"))
    shutil.move(tmp_path / "study", tmp_path / "moved")
    check_unchanged(plan(config, tmp_path / "moved"))
    assert len(json.loads((tmp_path / "moved" / "plan.json").read_text())["runs"]) == 1 + 4 * 2 * 3 + 1
