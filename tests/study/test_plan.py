"""What a study lays out."""

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from vitmed.config import load
from vitmed.errors import InputError
from vitmed.runs import manifest
from vitmed.study.plan import plan
from vitmed.study.unchanged import check_unchanged

SAME = defaultdict(lambda: "ab" * 32)  # whatever dataset it is


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
    (pretrain,) = planned.pretrains
    assert pretrain.config.train.seed == 7, "the pretraining keeps its own seed"
    assert "labels" not in pretrain.config.data


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
    assert plan(config, tmp_path / "study").pretrains == ()


def test_each_arm_starts_from_its_own_pretraining_and_draws_take_turns(config, tmp_path):
    """Otherwise arms of two objectives share one, or three pretrainings' luck is that of the first."""
    config.pretrains = {"mae": config.pretrain.copy_and_resolve_references()}
    config.arms.scratch.init = "mae"
    config.study.pretrain_seeds = 2
    planned = plan(config, tmp_path / "study")
    assert [c.name for c in planned.pretrains] == ["pretrain", "pretrain-1", "pretrain-mae", "pretrain-mae-1"]
    assert [c.config.train.seed for c in planned.pretrains] == [7, 8, 7, 8]
    starts = {(c.arm, c.draw): Path(c.config.init_from).name for c in planned.cells if c.start}
    assert starts == {
        ("pretrained", 0): "pretrain",
        ("pretrained", 1): "pretrain-1",
        ("scratch", 0): "pretrain-mae",
        ("scratch", 1): "pretrain-mae-1",
    }


def test_folds_are_datasets_of_their_own(config, tmp_path):
    """Otherwise a pretraining sees what a fold tests on, or small budgets cost as many folds as large ones."""
    config.data = {"path": str(tmp_path / "data-{fold}"), "folds": 3}
    with config.study.ignore_type():
        config.study.update({"folds": (1, 3), "draws": (2, 1)})
    planned = plan(config, tmp_path / "study")
    assert [Path(c.config.data.path).name for c in planned.pretrains] == ["data-1", "data-2", "data-3"]
    assert len({c.config.train.seed for c in planned.pretrains}) == 3
    assert [[len(f) for f in planned.of("scratch", b)] for b in (0.1, 1.0)] == [[2], [1, 1, 1]]
    for cell in planned.cells:
        assert Path(cell.config.data.path).name == f"data-{cell.fold}" and cell.name.endswith(
            f"-fold{cell.fold}"
        )
        assert not cell.start or cell.config.init_from.endswith(f"pretrain-fold{cell.fold}")
    assert len({c.config.train.seed for f in planned.of("scratch", 1.0) for c in f}) == 3


def test_a_pretraining_of_a_mix_has_the_scans_of_its_own_fold(config, tmp_path):
    """Otherwise it learns from what the fold is tested on, beside the other datasets."""
    config.data = {"path": str(tmp_path / "data-{fold}"), "folds": 3}
    mix = {str(tmp_path / "data-{fold}"): 1.0, str(tmp_path / "others.v2"): 0.5}
    config.pretrain.data.mix = ConfigDict(mix, allow_dotted_keys=True)
    for fold, cell in enumerate(plan(config, tmp_path / "study").pretrains, 1):
        assert cell.config.data.mix.to_dict() == {
            str(tmp_path / f"data-{fold}"): 1.0,
            str(tmp_path / "others.v2"): 0.5,
        }


def begin(planned, contents=SAME):
    """Keeps a plan whose every run has begun."""
    check_unchanged(planned, contents)
    for cell in planned.everything:
        cell.run.mkdir(parents=True, exist_ok=True)


def test_every_arm_tries_as_much(config, tmp_path):
    """Otherwise the arm that was tuned for longer wins."""
    config.tune = {"by": "budget", "folds": 3}
    config.arms.pretrained.grid = {"optim": {"lr": (0.1, 0.2)}}
    with pytest.raises(InputError, match="pretrained 2, resnet 1, scratch 1"):
        plan(config, tmp_path / "study")
    for name in ("scratch", "resnet"):
        config.arms[name].grid = {"optim": {"lr": (0.1, 0.3)}, "train": {"batch_size": (4,)}}
    planned = plan(config, tmp_path / "study")
    cell = planned.cell("scratch", 0.1, 1)
    assert [t.changes for t in cell.trials] == [
        {"optim.lr": 0.1, "train.batch_size": 4},
        {"optim.lr": 0.3, "train.batch_size": 4},
    ]
    assert [t.config.optim.lr for t in cell.trials] == [0.1, 0.3]
    assert all(t.config.data.label_seed == 1 and t.config.train.seed == 1 for t in cell.trials)
    assert cell.trainings == 2 * 3 + 1 and planned.config.tried == 2
    begin(planned, SAME)
    config.tune.folds = 2
    with pytest.raises(InputError, match="scratch: parts was 3, now 2"):
        check_unchanged(plan(config, tmp_path / "study"), SAME)


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
        (
            "arms.scratch.config.data.apart",
            ("val",),
            r"pretrained \(\), resnet \(\), scratch \('val',\).*the same labels",
        ),
        ("pretrain", None, "no config.pretrain"),
        ("arms.scratch.init", "mea", "the pretrainings are pretrain"),
        ("study.baselines", ("scratch",), "give one of the two"),
        ("study.reference", "", "give one of the two"),
        ("study.compare", (("scratch@0.2", "resnet@1.0"),), "the budgets are 0.1, 1.0"),
        ("study.compare", (("scratch@0.1", "resnet"),), "or neither"),
        ("study.compare", (("scratch", "best"),), "the arms are"),
        ("study.margin", -0.1, "positive"),
        ("study.pretrain_seeds", 3, None),
        ("study.folds", 2, "config.data.folds is 0"),
        ("study.threshold", "budget", "set config.tune"),
        ("data.folds", 5, "{fold}"),
        ("arms.scratch.grid", {"optim": {"lr": 0.1}}, "a tuple of values"),
        ("arms.scratch.grid", {"data": {"labels": (1.0,)}}, "grid tries values of data.labels"),
        ("arms.scratch.grid", {"init_from": ("elsewhere",)}, "grid tries values of init_from"),
        ("arms.scratch.grid", {"init_adapt": ("patch",)}, "grid tries values of init_adapt"),
        ("arms.scratch.grid", {"objective": {"name": ("semi_teacher",)}}, "of objective.name;"),
        ("arms.scratch.grid", {"objective": {"task": ("segmentation",)}}, "of objective.task;"),
        ("arms.scratch.grid", {"objective": {"order": (("low", "high"),)}}, "of objective.order;"),
        ("arms.scratch.grid", {"objective": ({"name": "mae"},)}, "of objective;"),
        ("arms.scratch.grid", {"guard": {"folds": (2,)}}, "of guard.folds;"),
        (
            "pretrain.data.path",
            "other",
            "config.pretrain.data.path is 'other'.*config.data.path.*in its data.mix",
        ),
        (
            "pretrains",
            {"more": {"data": {"path": "other"}}},
            "config.pretrains.more.data.path is 'other'.*data.mix",
        ),
        (
            "arms.scratch.config.data.path",
            "other",
            "scratch.config.data.path is 'other'.*config.data.path .*out$",
        ),
        ("arms.scratch.config.data.labels", 40, "scratch.config.data.labels is 40, but config.study.budgets"),
        (
            "arms.scratch.config.data.label_seed",
            3,
            "scratch.config.data.label_seed is 3, but config.study.draws",
        ),
        ("arms.scratch.config.train.seed", 7, "scratch.config.train.seed is 7, but config.study.draws"),
        (
            "arms.pretrained.config.init_from",
            "run",
            "pretrained.config.init_from is 'run', .*init .'pretrain'",
        ),
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
    if said is None:  # two draws of three pretrainings take the first two
        assert len(plan(config, tmp_path / "study").pretrains) == 2
        return
    with pytest.raises(InputError, match=said):
        plan(config, tmp_path / "study")


@pytest.mark.parametrize(
    "spec", [f"{path}{arg}" for path in sorted(Path("configs/study").glob("*.py")) for arg in ("", ":tiny")]
)
def test_every_shipped_study_is_laid_out(spec, tmp_path):
    """Otherwise a study that the README tells to run is refused for a key that it sets."""
    assert plan(load(spec), tmp_path / "study").cells


def test_what_a_run_has_unless_told_otherwise_may_be_said(config, tmp_path):
    """Otherwise a config that spells out its keys, as those of finished runs do, is refused for it."""
    cells = plan(config, tmp_path / "study").everything
    with config.unlocked(), config.ignore_type():
        config.arms.scratch.config.data.update({"path": config.data.path, "labels": None, "label_seed": 0})
        config.arms.scratch.config.train.seed = 0
        config.pretrain.data.path = config.data.path
    again = plan(config, tmp_path / "study").everything
    assert [cell.config.to_dict() for cell in again] == [cell.config.to_dict() for cell in cells]


def test_another_config_is_refused_by_key(config, tmp_path):
    """Otherwise one table mixes cells of two experiments."""
    begin(plan(config, tmp_path / "study"), SAME)
    check_unchanged(plan(config, tmp_path / "study"), SAME)
    config.arms.resnet.config.train.batch_size = 8
    with pytest.raises(InputError, match=r"resnet: train.batch_size was 4, now 8"):
        check_unchanged(plan(config, tmp_path / "study"), SAME)


def test_what_has_not_begun_may_be_put_right(config, tmp_path):
    """Otherwise a slip that the first cell of an arm meets costs the pretraining before it."""
    planned = plan(config, tmp_path / "study")
    check_unchanged(planned, SAME)
    planned.pretrains[0].run.mkdir(parents=True)
    config.arms.resnet.config.train.batch_size = 8
    planned = plan(config, tmp_path / "study")
    check_unchanged(planned, SAME)
    config.pretrain.train.batch_size = 8
    with pytest.raises(InputError, match="pretrain: train.batch_size was"):
        check_unchanged(plan(config, tmp_path / "study"), SAME)
    shutil.rmtree(planned.pretrains[0].run)
    planned.cell("pretrained", 0.1, 0).run.mkdir(parents=True)
    with pytest.raises(InputError, match="pretrain: train.batch_size was"):
        check_unchanged(plan(config, tmp_path / "study"), SAME)


def test_other_scans_are_refused_wherever_they_are_read(config, tmp_path):
    """Otherwise the pretraining of a mix goes on from scans that are gone, or a dataset that was moved ends the study."""
    mixed, beside = str(tmp_path / "mixed"), str(tmp_path / "beside")
    config.pretrain.data.mix = ConfigDict({mixed: 1.0}, allow_dotted_keys=True)
    config.arms.scratch.config.data.unlabelled = beside
    config.arms.resnet.config.data.unlabelled = "split"
    begin(plan(config, tmp_path / "study"), SAME)
    for path, who in ((mixed, ["pretrain"]), (beside, ["scratch"])):
        with pytest.raises(InputError, match="another config or dataset") as told:
            check_unchanged(plan(config, tmp_path / "study"), SAME | {path: "cd" * 32})
        assert re.findall(r"(\w+): content_hash was", str(told.value)) == who
    config.data.path = str(tmp_path / "moved")
    check_unchanged(plan(config, tmp_path / "study"), SAME)
    with pytest.raises(InputError) as told:
        check_unchanged(plan(config, tmp_path / "study"), SAME | {str(tmp_path / "moved"): "cd" * 32})
    assert str(told.value).count("content_hash was ['abab") == 4, "the pretraining and three arms"


def forget(file, *keys):
    """Makes a plan one of before it kept these."""
    written = json.loads(file.read_text())
    for entry in written["runs"].values():
        for key in keys:
            entry.pop(key, None)
    file.write_text(json.dumps(written))


def test_a_mix_of_a_study_older_than_what_it_keeps_of_datasets_is_told_by_its_runs(config, tmp_path):
    """Otherwise it is refused for scans that it has learned from all along, or goes on over others."""
    mixed = str(tmp_path / "mixed")
    config.pretrain.data.mix = ConfigDict({mixed: 1.0}, allow_dotted_keys=True)
    planned = plan(config, tmp_path / "study")
    check_unchanged(planned, SAME | {mixed: "cd" * 32})
    forget(tmp_path / "study" / "plan.json", "content_hash")
    (run,) = (cell.run for cell in planned.pretrains)
    run.mkdir(parents=True)
    sheet = {"content_hash": "ab" * 32, "beside": [{"stream": "main", "content_hash": "cd" * 32}]}
    (run / "dataset.json").write_text(json.dumps(sheet))
    with pytest.raises(InputError, match="pretrain: content_hash was .*cdcd.*, now .*efef"):
        check_unchanged(planned, SAME | {mixed: "ef" * 32})
    check_unchanged(planned, SAME | {mixed: "cd" * 32})


@pytest.mark.parametrize("old", [False, True])
def test_what_was_chosen_by_another_metric_is_refused(config, tmp_path, old):
    """Otherwise a table says of settings that they were chosen by what is its first metric now."""
    config.tune = {"by": "budget", "folds": 2}
    for arm in config.arms.values():
        arm.grid = {"optim": {"lr": (0.1, 0.2)}}
    planned = plan(config, tmp_path / "study")
    begin(planned, SAME)
    if old:  # made before plans kept the metric
        forget(tmp_path / "study" / "plan.json", "metric")
        cell = planned.cell("scratch", 0.1, 0)
        cell.trying.mkdir(parents=True)
        cell.tuning.write_text(json.dumps({"metric": "auroc", "chosen": 0}))
    config.study.metrics = ("balanced_accuracy", "auroc")
    with pytest.raises(InputError, match="scratch: metric was 'auroc', now 'balanced_accuracy'"):
        check_unchanged(plan(config, tmp_path / "study"), SAME)
    config.study.metrics = ("auroc",)
    check_unchanged(plan(config, tmp_path / "study"), SAME)


def test_another_first_metric_may_be_told_where_none_chose(config, tmp_path):
    """Otherwise a finished study is trained again for the order of its columns."""
    check_unchanged(plan(config, tmp_path / "study"), SAME)
    config.study.metrics = ("balanced_accuracy", "auroc")
    check_unchanged(plan(config, tmp_path / "study"), SAME)


def test_a_run_to_start_from_is_known_by_its_weights(config, tmp_path):
    """Otherwise half the draws start from other weights than the rest, or a moved run ends the study."""
    run, moved = tmp_path / "elsewhere" / "mae", tmp_path / "archive"

    def save(step, weights):
        (run / "checkpoints" / str(step)).mkdir(parents=True)
        (run / "checkpoints" / str(step) / "weights").write_text(weights)
        manifest.write(run / "checkpoints" / str(step), step, {})

    config.arms.scratch.config.init_from = str(run)
    config.pretrain.init_from = str(run)
    run.mkdir(parents=True)
    with pytest.raises(InputError, match="mae has no checkpoint yet"):
        check_unchanged(plan(config, tmp_path / "study"), SAME)
    save(9, "of one training")
    begin(plan(config, tmp_path / "study"), SAME)
    shutil.copytree(run, moved)
    config.arms.scratch.config.init_from = str(moved)
    check_unchanged(plan(config, tmp_path / "study"), SAME)
    save(10, "of more steps")
    with pytest.raises(InputError, match="pretrain: init_from was .*, now") as told:
        check_unchanged(plan(config, tmp_path / "study"), SAME)
    assert "scratch" not in str(told.value)


def test_a_study_older_than_what_it_keeps_of_its_start_goes_on(config, tmp_path):
    """Otherwise a study is refused for a run that it has started from all along; from then on another one is."""
    run, file = tmp_path / "elsewhere", tmp_path / "study" / "plan.json"
    (run / "checkpoints" / "9").mkdir(parents=True)
    manifest.write(run / "checkpoints" / "9", 9, {})
    config.arms.scratch.config.init_from = str(run)
    begin(plan(config, tmp_path / "study"), SAME)
    forget(file, "init_from")
    check_unchanged(plan(config, tmp_path / "study"), SAME)
    config.arms.scratch.config.init_from = ""
    config.arms.resnet.config.init_from = str(run)
    config.arms.pretrained.init = None
    with pytest.raises(InputError, match="pretrained: init_from was 'pretrain', now '';") as told:
        check_unchanged(plan(config, tmp_path / "study"), SAME)
    assert "resnet: init_from was '', now" in str(told.value) and "scratch: init_from" in str(told.value)


def test_a_study_can_grow_and_move(config, tmp_path):
    """Otherwise one more draw, or a moved folder, means training everything again."""
    check_unchanged(plan(config, tmp_path / "study"), SAME)
    config.study.draws = 3
    config.arms["cnn2"] = config.arms["resnet"]
    check_unchanged(plan(config, tmp_path / "study"), SAME)
    shutil.move(tmp_path / "study", tmp_path / "moved")
    check_unchanged(plan(config, tmp_path / "moved"), SAME)
    assert len(json.loads((tmp_path / "moved" / "plan.json").read_text())["runs"]) == 1 + 4 * 2 * 3 + 1
