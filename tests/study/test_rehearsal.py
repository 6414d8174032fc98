"""What a study's runs would refuse at their start is found before the first of them, on paper."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vitmed import config as configs
from vitmed.errors import InputError
from vitmed.job.config import check, resolve
from vitmed.job.job import Job
from vitmed.models.build import encoder
from vitmed.runs import folder
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
from vitmed.study.plan import plan
from vitmed.study.rehearsal import rehearse
from vitmed.study.study import study

LABELS = "configs/study/label_efficiency.py:tiny"
SCANS = {
    "tiny_dataset": [
        *(f"configs/study/{name}.py:tiny" for name in ("label_efficiency", "objectives", "semi_supervised")),
        *(f"configs/study/{name}.py:tiny" for name in ("pneumoniamnist", "demo")),
    ],
    "marked_dataset": ["configs/study/hippocampus.py:tiny"],
}


def planned(spec, data, to, **changed):
    """The study ``spec`` on one dataset, with values by dotted keys."""
    config = configs.load(spec)
    with config.ignore_type(), config.unlocked():
        config.data.update(dict(path=str(data), folds=0))
        config.study.folds = None
        for key, value in changed.items():
            *parents, last = key.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = value
    return plan(config, to)


def rehearsed(made):
    """Rehearses the first cell of each arm."""
    rehearse(made.pretrains, [made.cell(arm, made.cells[0].budget, 0) for arm in made.config.arms])


@pytest.mark.parametrize(("data", "spec"), [(data, spec) for data, specs in SCANS.items() for spec in specs])
def test_what_trains_is_let_through_without_a_word(data, spec, tmp_path, request, capfd):
    """Otherwise a sound study is refused, or says of runs that it only imagines what is said of real ones."""
    data = request.getfixturevalue(data)
    changed = {}
    if "hippocampus" in spec or "demo" in spec:  # made for volumes
        changed = {
            f"{key}.model.patch_size": (4, 4)
            for key in ("pretrain", "arms.pretrained.config", "arms.scratch.config")
        }
    if "pneumonia" in spec:
        changed["pretrain.data.mix"] = configs.tree({str(data): 1.0})
        changed["arms.resnet.config.objective.class_weights"] = "balanced"
    if "hippocampus" in spec:
        changed["arms.scratch.config.objective.class_weights"] = "root"
    made = planned(spec, data, tmp_path / "study", **changed)
    capfd.readouterr()
    rehearsed(made)
    assert capfd.readouterr() == ("", "") and not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("pretrain.model.patch_size", (5, 5), "pretrain: .*patch"),
        ("arms.resnet.config.model", {"variant": "nano", "patch_size": (5, 5)}, "resnet-0.5-0: .*patch"),
        ("arms.scratch.config.data.size", (8, 8), "scratch-0.5-0: config.data.size is 8,8"),
        (
            "arms.scratch.config.objective.class_weights",
            (1.0,) * 7,
            "scratch-0.5-0: config.objective.class_weights",
        ),
        (
            "arms.scratch.config.objective.task",
            "regression",
            "scratch-0.5-0: config.objective.task is 'regression'",
        ),
        (
            "arms.scratch.config.guard",
            {"folds": 2},
            "scratch-0.5-0: config.guard.folds is 2.*not semi-supervised",
        ),
        ("arms.scratch.grid", {"model": {"patch_size": ((4, 4), (5, 5))}}, "scratch-0.5-0: .*patch"),
        (
            "arms.pretrained.config.finetune",
            {"frozen_blocks": 99},
            "pretrained-0.5-0: config.finetune.frozen_blocks is 99",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_any_training(tiny_dataset, tmp_path, key, value, said):
    """Otherwise it is found at that arm's first cell, when hours of pretraining are over."""
    changed = {key: value}
    if not key.endswith("grid"):
        arms = ("pretrained", "scratch", "resnet", "frozen", "finetuned")
        changed |= {f"arms.{arm}.grid": {} for arm in arms} | {"tune": None, "study.threshold": "half"}
    with pytest.raises(InputError, match=said):
        rehearsed(planned(LABELS, tiny_dataset, tmp_path / "study", **changed))


@pytest.mark.parametrize(
    ("model", "adapt", "refused"),
    [
        ({"patch_size": (8, 8)}, "", True),
        ({"patch_size": (8, 8)}, "patch", False),
        ({"variant": "custom", "shape": (24, 2, 2, 48)}, "", True),
        ({"variant": "custom", "shape": (48, 1, 2, 96)}, "", True),
        ({"variant": "custom", "shape": (48, 1, 2, 96), "scan": True}, "", True),
        ({"positions": "rotary"}, "", True),
        ({"positions": "learned"}, "", False),
        ({"registers": 2}, "", True),
        ({"epsilon": 1e-3}, "", True),
        ({"scan": True}, "", False),
        ({"variant": "resnet10", "patch_size": (), "drop_path": 0.0, "scan": False}, "", True),
    ],
)
def test_a_start_is_refused_on_paper_as_it_is_from_a_run(tiny_dataset, tmp_path, model, adapt, refused):
    """Otherwise an arm of another patch, width or depth than its pretraining is found when that has ended."""
    changed = {f"arms.pretrained.config.model.{key}": value for key, value in model.items()}
    changed |= {"arms.pretrained.config.init_adapt": adapt, "arms.pretrained.config.optim.layer_decay": 1.0}
    made = planned("configs/study/pneumoniamnist.py:tiny", tiny_dataset, tmp_path / "study", **changed)
    (pretrain,), cell = made.pretrains, made.cell("pretrained", 0.1, 0)
    on_paper = refusal(lambda: rehearse([pretrain], [cell]))
    begin(pretrain)

    def start():
        job = Job(check(cell.config))
        job.former.encoder(jax.eval_shape(job.fresh_params, job.seed)["encoder"])

    real = refusal(start)
    assert bool(real) == refused
    assert on_paper == (real and f"{cell.name}: {real}")


def refusal(work):
    try:
        work()
    except InputError as fault:
        return str(fault)
    return ""


def begin(cell):
    """The cell's run, as its training leaves it before the first step."""
    job = Job(check(cell.config))
    folder.create(cell.run, resolve(cell.config), job.recipe, job.datasheet())
    image = np.zeros((1, *job.recipe.size, job.recipe.channels), np.float32)
    params = jax.tree.map(
        np.asarray, encoder(job.config.model, job.recipe.size).init(jax.random.key(0), image)["params"]
    )
    with Checkpoints(cell.run, CheckpointConfig()) as checkpoints:
        checkpoints.save(0, {"params": {"encoder": params}, "memory": {}})


def test_a_study_refuses_before_it_begins(tiny_dataset, tmp_path):
    """Otherwise the rehearsal is right and nobody asks it."""
    config = configs.load("configs/study/pneumoniamnist.py:tiny", {"data.path": str(tiny_dataset)})
    config.arms.pretrained.config.model.patch_size = (8, 8)
    with pytest.raises(
        InputError, match=r"pretrained-0.1-0: config.init_from .*pretrain does not fit.*init_adapt=patch"
    ):
        study(config, tmp_path / "study", quiet=True)
    assert not (tmp_path / "study" / "pretrain").exists()


def test_it_needs_no_accelerator(tiny_dataset, tmp_path):
    """Otherwise the parent takes the memory of the GPU that its workers train on, or must have one itself."""
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_rehearsal as t
t.rehearsed(t.planned({LABELS!r}, {str(tiny_dataset)!r}, {str(tmp_path / "study")!r}))
from jax._src import xla_bridge
assert not xla_bridge._backends, xla_bridge._backends
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
