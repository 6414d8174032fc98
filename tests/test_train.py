"""The training loop: exact resume of real processes, refusals by name, any objective through one loop."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitmed.runs
from vitmed import config
from vitmed import train as training
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate.evaluate import evaluate
from vitmed.infer import Model
from vitmed.models.build import encoder
from vitmed.models.head import pooled
from vitmed.models.vit import VARIANTS, Variant
from vitmed.objectives import registry
from vitmed.objectives.interface import Objective, weighted_mean
from vitmed.runs import lineage
from vitmed.runs import metrics as run_metrics
from vitmed.runs.late_metrics import LateMetrics

PROJECT = Path(__file__).resolve().parents[1]
MAE = str(PROJECT / "configs" / "pretrain_mae.py:tiny")
CLASSIFY = str(PROJECT / "configs" / "finetune_classify.py:tiny")


def settings(spec, dataset, **keys):
    keys = {"data.path": dataset, "train.steps": 4, "train.val_every": 0, "checkpoint.every": 2, **keys}
    return config.load(spec, {key.replace("__", "."): str(value) for key, value in keys.items()})


def train(spec, dataset, workdir, **keys):
    return training.train(settings(spec, dataset, **keys), workdir, quiet=True)


def same(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


@contextlib.contextmanager
def cut_after(step, monkeypatch):
    """What trains inside ends by a fault after this step, of which there is no checkpoint then."""

    class Cut(Exception):
        pass

    def note(told):
        if told._pending and told._pending[0] == step:
            raise Cut
        return ""

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(LateMetrics, "note", note)
        yield


@pytest.fixture(scope="module")
def pretrained(tiny_dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "mae"
    train(MAE, tiny_dataset, run)
    return run


def test_two_runs_of_one_seed_agree_to_the_bit_and_another_seed_does_not(tiny_dataset, pretrained, tmp_path):
    train(MAE, tiny_dataset, tmp_path / "again")
    train(MAE, tiny_dataset, tmp_path / "other", train__seed=1)
    first = vitmed.runs.load(pretrained)
    assert same(first, vitmed.runs.load(tmp_path / "again"))
    assert not same(first, vitmed.runs.load(tmp_path / "other"))


def test_runs_that_differ_in_their_seed_share_one_program(tiny_dataset):
    """The draws of a study would otherwise each compile their own."""
    texts = set()
    for seed in (0, 1):
        job = training.Job(training.check(settings(MAE, tiny_dataset, train__seed=seed)))
        state = jax.eval_shape(job.fresh_state, job.seed)
        batch = job.engine.put_batch(next(job.batches(0)))
        texts.add(job.update.lower(state, batch).as_text())
    assert len(texts) == 1


def test_folders_may_be_named_from_where_one_stands(tiny_dataset, tmp_path, monkeypatch):
    """``--workdir runs/mae`` is what people type."""
    monkeypatch.chdir(tmp_path)
    data = os.path.relpath(tiny_dataset, tmp_path)
    train(MAE, data, "runs/mae", train__steps=2)
    assert train(MAE, data, "runs/mae", train__steps=2)["resumed_from"] == 2
    train(CLASSIFY, data, "runs/tuned", train__steps=2, init_from="runs/mae")
    assert Model.open("runs/tuned").logits(Dataset.open(data), "test").shape[1] > 1
    assert same(vitmed.runs.load("runs/mae"), vitmed.runs.load(tmp_path / "runs" / "mae"))


def start(spec, dataset, workdir, **keys):
    """A training as a process of its own."""
    flags = [f"--config.{k.replace('__', '.')}={v}" for k, v in {"data.path": dataset, **keys}.items()]
    environment = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "vitmed", "train", "--config", spec, "--workdir", str(workdir), *flags]
    return subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoints(run, count, process):
    for _ in range(1200):
        if process.poll() is not None or len(list((run / "checkpoints").glob("*"))) >= count:
            return
        time.sleep(0.05)


LONG = dict(train__steps=60, train__val_every=0, checkpoint__every=5, checkpoint__keep=50)


def test_stopped_and_killed_runs_end_with_the_same_bits(tiny_dataset, tmp_path):
    """SIGKILL, SIGTERM (75) and ctrl-C (130) at some moment; the run goes on and ends as one left alone does."""
    alone = start(MAE, tiny_dataset, tmp_path / "alone", **LONG)
    assert alone.wait(timeout=300) == 0, alone.stderr.read()
    run = tmp_path / "stopped"
    for number, (kind, code) in enumerate([(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)]):
        process = start(MAE, tiny_dataset, run, **LONG)
        wait_for_checkpoints(run, 1 + 3 * number, process)
        process.send_signal(kind)
        assert process.wait(timeout=120) in (code, 0), process.stderr.read()
    last = start(MAE, tiny_dataset, run, **LONG)
    text = last.communicate(timeout=300)[1]
    assert last.returncode == 0 and "going on from step" in text
    assert same(vitmed.runs.load(tmp_path / "alone"), vitmed.runs.load(run))
    whole, parts = (run_metrics.read(path)["loss"] for path in (tmp_path / "alone", run))
    np.testing.assert_array_equal(whole, parts)


def test_finished_run_is_left_as_it_is(tiny_dataset, pretrained):
    before = sorted((p, p.stat().st_mtime) for p in (pretrained / "checkpoints").rglob("*"))
    result = train(MAE, tiny_dataset, pretrained)
    assert result["resumed_from"] == result["step"] == 4 and np.isfinite(result["metrics"]["loss"])
    assert before == sorted((p, p.stat().st_mtime) for p in (pretrained / "checkpoints").rglob("*"))


def test_jit_and_pmap_agree(tiny_dataset, tmp_path):
    """Eight devices, 20 steps: the two engines differ by rounding only."""
    losses = {}
    for name in ("jit", "pmap"):
        keys = dict(train__steps=20, train__batch_size=16, objective__mixup=0.2, parallel__engine=name)
        train(CLASSIFY, tiny_dataset, tmp_path / name, **keys)
        losses[name] = run_metrics.read(tmp_path / name)["loss"][1]
    np.testing.assert_allclose(losses["jit"], losses["pmap"], rtol=1e-4)
    for a, b in zip(*(jax.tree.leaves(vitmed.runs.load(tmp_path / name)) for name in ("jit", "pmap"))):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_batch_that_the_devices_cannot_share(tiny_dataset, tmp_path):
    with pytest.raises(
        InputError, match="batch_size is 12, which 8 devices cannot share evenly; the nearest is 16"
    ):
        train(MAE, tiny_dataset, tmp_path / "x", train__batch_size=12)
    assert not (tmp_path / "x").exists()


def test_fine_tuning_starts_from_the_pretrained_encoder_and_keeps_its_recipe(
    tiny_dataset, pretrained, tmp_path
):
    values = settings(CLASSIFY, tiny_dataset, init_from=pretrained)
    job = training.Job(training.check(values))
    state = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
    former = vitmed.runs.load(pretrained)["encoder"]
    assert same(state["params"]["encoder"], former)
    assert same(state["ema"]["encoder"], former)
    assert job.recipe.mean == vitmed.runs.folder.recipe_of(pretrained).mean
    assert np.any(state["params"]["head"]["scores"]["kernel"]), "the head starts as a probe of what it knows"
    assert same(state["ema"]["head"], state["params"]["head"])
    zero = settings(CLASSIFY, tiny_dataset, init_from=pretrained, objective__head="zero")
    plain = training.Job(training.check(zero))
    fresh = plain.with_former(plain.engine.to_host(plain.engine.init(plain.fresh_state, plain.seed)))
    assert not np.any(fresh["params"]["head"]["scores"]["kernel"])
    result = train(CLASSIFY, tiny_dataset, tmp_path / "tuned", init_from=pretrained)
    assert result["metrics"]["accuracy"] >= 0
    assert not same(vitmed.runs.load(tmp_path / "tuned")["encoder"], former)


@pytest.mark.parametrize(
    "keys,message",
    [
        (dict(model__patch_size=(8, 8)), "patch_size is \\(4, 4\\) here and \\(8, 8\\) there"),
        (dict(model__variant="ti"), "of another architecture; .* is shape"),
    ],
)
def test_another_model_is_refused_by_name(tiny_dataset, pretrained, tmp_path, keys, message):
    with pytest.raises(InputError, match=message):
        train(CLASSIFY, tiny_dataset, tmp_path / "x", init_from=pretrained, **keys)


def test_another_dimension_and_modality_are_refused_by_name(tiny_volumes, pretrained, tmp_path):
    with pytest.raises(
        InputError, match="modality is xray here and mr there.*dimension is 2D here and 3D there"
    ):
        train(CLASSIFY, tiny_volumes, tmp_path / "x", init_from=pretrained, model__patch_size=(4, 4, 4))


def test_workdir_of_another_config(tiny_dataset, pretrained):
    with pytest.raises(InputError, match="config.optim.lr is 0.0015 there and 0.5 here"):
        train(MAE, tiny_dataset, pretrained, optim__lr=0.5)


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    tiny_dataset, tmp_path, monkeypatch
):
    """A run must never save weights that came after a loss that is not finite."""
    spoiled = {"at": 5}
    honest = training.Job._update

    def update(self, state, batch):
        state, metrics = honest(self, state, batch)
        bad = state["step"] >= spoiled["at"]
        return state, {**metrics, "loss": jnp.where(bad, jnp.nan, metrics["loss"])}

    monkeypatch.setattr(training.Job, "_update", update)
    with pytest.raises(
        InputError, match="loss became nan at step 5.*last good checkpoint is step 4.*config.optim.lr"
    ):
        train(MAE, tiny_dataset, tmp_path / "run", train__steps=8)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["2", "4"]


def test_label_budget_trains_on_that_many(tiny_dataset, tmp_path):
    job = training.Job(training.check(settings(CLASSIFY, tiny_dataset, data__labels=10)))
    assert 2 <= job.examples <= 10
    with pytest.raises(InputError, match="'mae' uses no labels"):
        train(MAE, tiny_dataset, tmp_path / "x", data__labels=10)


def test_supervised_learns_what_can_be_learned(tiny_dataset, tmp_path):
    """A bright square tells the classes apart; a loop that learns nothing would stay at one half."""
    keys = dict(train__steps=80, train__batch_size=16, optim__lr=2e-3, optim__ema=0.0, checkpoint__every=80)
    assert (
        train(CLASSIFY, tiny_dataset, tmp_path / "run", **keys, train__val_every=80)["metrics"][
            "val/accuracy"
        ]
        >= 0.9
    )


# --- an objective with a teacher: what later ones need must fit the three functions and this loop -------------------


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    name: Literal["teacher"] = "teacher"
    decay: float = 0.5


def build_teacher(settings, model, spec, remat="none"):
    """The student follows the mean features of its own slow average, which is the objective's memory."""
    network = encoder(model, spec.size, remat)

    def init(key, spec):
        params = network.init(key, jnp.zeros((1, *spec.size, spec.channels)))["params"]
        return {"encoder": params}, {
            "teacher": jax.tree.map(jnp.copy, params),
            "centre": jnp.zeros(128),
            "updates": jnp.zeros((), jnp.int32),
        }

    def loss(params, memory, batch, key, axis=None, train=True):
        stream = batch["main"]
        student, teacher = (
            pooled(network.apply({"params": p}, stream["image"]))
            for p in (params["encoder"], memory["teacher"])
        )
        wide = jnp.broadcast_to(stream["weight"][:, None], teacher.shape)
        centre = jax.vmap(lambda t, w: weighted_mean(t, w, axis), in_axes=1)(teacher, wide)
        value = weighted_mean(
            jnp.mean((student - teacher + memory["centre"]) ** 2 + 0.1 * student**2, -1),
            stream["weight"],
            axis,
        )
        memory = {**memory, "centre": 0.9 * memory["centre"] + 0.1 * centre} if train else memory
        return value, ({"loss": value}, memory)

    def after_update(params, memory, step):
        teacher = jax.tree.map(
            lambda t, s: settings.decay * t + (1 - settings.decay) * s, memory["teacher"], params["encoder"]
        )
        return {**memory, "teacher": teacher, "updates": step}

    return Objective(init, loss, after_update)


def test_an_objective_with_a_teacher_needs_no_change_of_the_loop(tiny_dataset, tmp_path, monkeypatch):
    """Its memory is carried, updated after each step, the same under both engines, and survives a resume to the bit."""
    monkeypatch.setitem(
        registry.OBJECTIVES, "teacher", SimpleNamespace(Config=TeacherConfig, build=build_teacher)
    )

    def memory_of(run, **keys):
        values = settings(MAE, tiny_dataset, **keys)
        values.objective = {"name": "teacher", "decay": 0.7}
        training.train(values, run, quiet=True)
        checked = training.check(values)
        return training.Checkpoints(run, checked.checkpoint).restore("last", part="memory")

    whole = memory_of(tmp_path / "jit", train__steps=6)
    assert int(whole["updates"]) == 6 and float(np.abs(whole["centre"]).sum()) > 0
    replicas = memory_of(tmp_path / "pmap", train__steps=6, parallel__engine="pmap")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(replicas)):
        np.testing.assert_allclose(a, b, atol=1e-4)

    with cut_after(5, monkeypatch):  # the last checkpoint is of step 4
        memory_of(tmp_path / "cut", train__steps=6)
    assert "6" not in [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()], "it was not cut"
    assert same(whole, memory_of(tmp_path / "cut", train__steps=6))


@pytest.mark.parametrize("name", ["ijepa", "self_distil"])
def test_teachers_are_the_same_under_both_engines_and_survive_a_resume_to_the_bit(
    tiny_dataset, tmp_path, monkeypatch, name
):
    """Sinkhorn, KoLeo and the teacher see the whole batch of eight devices; their run's weights are the teacher's."""
    monkeypatch.setitem(VARIANTS, "nano", Variant(16, 1, 2, 24))  # a ViT whose program compiles in no time
    spec = str(PROJECT / "configs" / f"pretrain_{name}.py:tiny")
    keys = {
        "train.steps": 4,
        "train.batch_size": 16,
        "model.scan": False,
        "augment.flip": (1,),
        "probe.every": 4,
    }
    result = train(spec, tiny_dataset, tmp_path / "jit", **keys)

    def state(run, part):
        with training.Checkpoints(run, training.CheckpointConfig()) as checkpoints:
            return checkpoints.restore("last", part=part)

    whole = state(tmp_path / "jit", "memory")["teacher"]
    assert same(vitmed.runs.load(tmp_path / "jit")["encoder"], whole["encoder"])
    assert not same(whole["encoder"], state(tmp_path / "jit", "params")["encoder"])
    replicas = train(spec, tiny_dataset, tmp_path / "pmap", **keys, **{"parallel.engine": "pmap"})
    for metric, value in result["metrics"].items():
        close = 0.05 if "auroc" in metric else 2e-4  # two scans may change places by rounding
        assert replicas["metrics"][metric] == pytest.approx(value, rel=2e-3, abs=close), metric
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(state(tmp_path / "pmap", "memory")["teacher"])):
        np.testing.assert_allclose(a, b, atol=1e-4)

    job = training.Job(
        training.check(settings(spec, tiny_dataset, **keys, **{"init_from": tmp_path / "jit"}))
    )
    begun = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
    assert same(begun["memory"]["teacher"]["encoder"], whole["encoder"])
    assert same(begun["params"]["encoder"], whole["encoder"])

    with cut_after(3, monkeypatch):  # the last checkpoint is of step 2
        train(spec, tiny_dataset, tmp_path / "cut", **keys)
    assert train(spec, tiny_dataset, tmp_path / "cut", **keys)["resumed_from"] == 2
    for part in ("memory", "params", "opt_state"):
        assert same(state(tmp_path / "jit", part), state(tmp_path / "cut", part))


# --- the health of what is learned ---------------------------------------------------------------------------------


def test_health_is_measured_on_the_training_split_and_written(tiny_dataset, tmp_path, monkeypatch):
    """Every so many steps and at the end, in the run's CSV, with the count of labels that it used."""
    monkeypatch.setitem(VARIANTS, "nano", Variant(16, 1, 2, 24))
    keys = {"train.steps": 3, "probe.every": 2, "model.scan": False, "probe.examples": 30}
    train(MAE, tiny_dataset, tmp_path / "run", **keys)
    found = run_metrics.read(tmp_path / "run")
    for name in ("rank", "deviation", "knn_auroc", "linear_auroc", "labels"):
        steps, values = found[f"health/{name}"]
        assert steps.tolist() == [2, 3] and np.isfinite(values).all()
    assert 20 < found["health/labels"][1][0] <= 30 and found["health/rank"][1][0] > 1
    plain = train(MAE, tiny_dataset, tmp_path / "plain", **{**keys, "probe.every": 0})
    assert not [name for name in plain["metrics"] if name.startswith("health")]
    assert same(vitmed.runs.load(tmp_path / "run"), vitmed.runs.load(tmp_path / "plain")), (
        "looking changes nothing"
    )


def test_a_collapse_is_said_and_may_stop(tiny_dataset, tmp_path, monkeypatch, capsys):
    """Otherwise days of pretraining end in features that are the same for every scan."""
    monkeypatch.setitem(VARIANTS, "nano", Variant(16, 1, 2, 24))
    monkeypatch.setattr(training.Job, "_represent", lambda job, state, batch: jnp.ones((8, 16)))
    keys = {"train.steps": 4, "probe.every": 2, "model.scan": False}
    train(MAE, tiny_dataset, tmp_path / "on", **keys)
    said = capsys.readouterr().err
    assert (
        said.count("warning: the features have collapsed: rank 1 (below 1.5) and deviation 0 (below 0.01)")
        == 2
    )
    with pytest.raises(
        InputError, match="collapsed.* at step 2, so training stopped \\(config.probe.stop\\)"
    ):
        train(MAE, tiny_dataset, tmp_path / "stopped", **keys, **{"probe.stop": True})
    assert run_metrics.read(tmp_path / "stopped")["health/rank"][1] == pytest.approx([1], abs=1e-3)


# --- an objective that learns from two streams ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PairConfig:
    streams: ClassVar = ("main", "unlabelled")
    labelled: ClassVar = True
    name: Literal["pair"] = "pair"


def build_pair(settings, model, spec, remat="none"):
    """Labels from one stream, and features near their mean from the other; metrics tell what reached the step."""
    network = encoder(model, spec.size, remat)

    def init(key, spec):
        params = network.init(key, jnp.zeros((1, *spec.size, spec.channels)))["params"]
        return {"encoder": params, "head": jnp.zeros(128)}, {}

    def loss(params, memory, batch, key, axis=None, train=True):
        assert set(batch) == ({"main", "unlabelled"} if train else {"main"})

        def features(name):
            return pooled(network.apply({"params": params["encoder"]}, batch[name]["image"]))

        main = batch["main"]
        weight = main["weight"] * main["label_weight"][:, 0]
        value = weighted_mean((features("main") @ params["head"] - main["label"][:, 0]) ** 2, weight, axis)
        metrics = {"labelled": value}
        if train:
            other = batch["unlabelled"]
            assert other["label"].shape[1] == 0 and len(other["image"]) == 2 * len(main["image"])
            spread = weighted_mean(jnp.mean(features("unlabelled") ** 2, -1), other["weight"], axis)
            value = value + 0.1 * spread
            for name, stream in batch.items():
                image, sums = stream["image"], (1, 2, 3)
                metrics[f"{name}_mean"] = weighted_mean(jnp.mean(image, sums), stream["weight"], axis)
                metrics[f"{name}_square"] = weighted_mean(jnp.mean(image**2, sums), stream["weight"], axis)
        return value, ({"loss": value, **metrics}, memory)

    return Objective(init, loss, lambda params, memory, step: memory)


@pytest.fixture
def pair(monkeypatch):
    monkeypatch.setitem(registry.OBJECTIVES, "pair", SimpleNamespace(Config=PairConfig, build=build_pair))


def train_pair(dataset, run, **keys):
    values = settings(
        MAE, dataset, **{"data.unlabelled": "split", "data.unlabelled_batch": 16, "data.labels": 8, **keys}
    )
    values.objective = {"name": "pair"}
    return training.train(values, run, quiet=True)


def test_an_objective_of_two_streams_needs_no_change_of_the_loop(tiny_dataset, pair, tmp_path, monkeypatch):
    """Both streams are normalised and augmented, alike under both engines, validated on, and resumed to the bit."""
    keys = {"train.steps": 6, "train.val_every": 6}
    result = train_pair(tiny_dataset, tmp_path / "jit", **keys)
    assert "val/loss" in result["metrics"] and result["metrics"]["labelled"] != result["metrics"]["loss"]
    for name in ("main", "unlabelled"):  # stored integers have means of about 80 and squares of thousands
        assert abs(result["metrics"][f"{name}_mean"]) < 0.6 and 0.4 < result["metrics"][f"{name}_square"] < 2
    bright = train_pair(tiny_dataset, tmp_path / "bright", **{"train.steps": 6, "augment.brightness": 5.0})
    for name in ("main", "unlabelled"):
        assert bright["metrics"][f"{name}_square"] > 2 * result["metrics"][f"{name}_square"]
    replicas = train_pair(tiny_dataset, tmp_path / "pmap", **{**keys, "parallel.engine": "pmap"})
    assert abs(replicas["metrics"]["loss"] - result["metrics"]["loss"]) < 1e-4

    with cut_after(5, monkeypatch):  # the last checkpoint is of step 4
        train_pair(tiny_dataset, tmp_path / "cut", **keys)
    assert train_pair(tiny_dataset, tmp_path / "cut", **keys)["resumed_from"] == 4
    assert same(vitmed.runs.load(tmp_path / "jit"), vitmed.runs.load(tmp_path / "cut"))


def test_streams_that_do_not_fit_the_objective_are_refused(tiny_dataset, pair, tmp_path):
    """A stream that nobody reads, or that is missing, would show only in the result."""
    with pytest.raises(InputError, match="config.data.unlabelled is 'split', but 'mae' learns from the main"):
        train(MAE, tiny_dataset, tmp_path / "x", data__unlabelled="split")
    with pytest.raises(
        InputError, match="config.data.unlabelled_batch is 16, but 'mae' learns from the main"
    ):
        train(MAE, tiny_dataset, tmp_path / "x", data__unlabelled_batch=16)
    with pytest.raises(InputError, match="config.data.labels is 1.0, which leaves no scan of split 'train'"):
        train_pair(tiny_dataset, tmp_path / "x", **{"data.unlabelled": "", "data.labels": 1.0})
    with pytest.raises(InputError, match="config.data.unlabelled_batch is 12, which 8 devices cannot share"):
        train_pair(tiny_dataset, tmp_path / "x", **{"data.unlabelled_batch": 12})
    assert not (tmp_path / "x").exists()


@pytest.fixture
def mite(monkeypatch):
    """ "nano" is a ViT whose program compiles in no time."""
    monkeypatch.setitem(VARIANTS, "nano", Variant(16, 1, 2, 24))
    return {"model.scan": False, "train.batch_size": 16, "data.labels": 16}


@pytest.mark.parametrize("name", ["semi_masked", "semi_teacher"])
def test_semi_supervised_runs_agree_under_both_engines_and_resume_to_the_bit(
    tiny_dataset, tmp_path, monkeypatch, mite, name
):
    """Teacher and running means are carried; a run's weights are the teacher's; it starts as the student does."""
    spec, keys = str(PROJECT / "configs" / f"{name}.py:tiny"), {**mite, "train.val_every": 4}
    if name == "semi_teacher":
        keys["objective.threshold"] = 0.5  # an untrained teacher is not sure of much

    def state(run, part):
        with training.Checkpoints(run, training.CheckpointConfig()) as checkpoints:
            return checkpoints.restore("last", part=part)

    result = train(spec, tiny_dataset, tmp_path / "jit", **keys)
    replicas = train(spec, tiny_dataset, tmp_path / "pmap", **keys, **{"parallel.engine": "pmap"})
    for metric, value in result["metrics"].items():
        assert replicas["metrics"][metric] == pytest.approx(value, rel=2e-3, abs=2e-4), metric
    assert "val/accuracy" in result["metrics"]
    if name == "semi_teacher":
        memory = state(tmp_path / "jit", "memory")
        assert same(vitmed.runs.load(tmp_path / "jit"), memory["teacher"])
        assert not same(memory["teacher"], state(tmp_path / "jit", "params"))
        for a, b in zip(*(jax.tree.leaves(state(tmp_path / e, "memory")) for e in ("jit", "pmap"))):
            np.testing.assert_allclose(a, b, atol=1e-4)
        job = training.Job(training.check(settings(spec, tiny_dataset, **keys, init_from=tmp_path / "jit")))
        begun = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
        assert same(begun["memory"]["teacher"], begun["params"])
        assert np.any(begun["params"]["head"]["scores"]["kernel"])
    else:
        model = Model.open(tmp_path / "jit")
        made = model.reconstruct(Dataset.open(tiny_dataset).read("val", np.arange(2)))
        assert made["mask"].mean() == pytest.approx(0.75)
    with cut_after(3, monkeypatch):  # the last checkpoint is of step 2
        train(spec, tiny_dataset, tmp_path / "cut", **keys)
    assert train(spec, tiny_dataset, tmp_path / "cut", **keys)["resumed_from"] == 2
    for part in ("params", "memory", "opt_state"):
        assert same(state(tmp_path / "jit", part), state(tmp_path / "cut", part)), part


def test_two_slow_averages_are_refused(tiny_dataset, tmp_path):
    """Else the one that is validated is not the one that the run gives."""
    with pytest.raises(InputError, match="config.optim.ema is 0.9, but 'semi_teacher' keeps a slow average"):
        train(str(PROJECT / "configs" / "semi_teacher.py:tiny"), tiny_dataset, tmp_path / "x", optim__ema=0.9)


def test_labels_beside_the_budget_reach_no_batch(tiny_dataset, monkeypatch):
    """Else a budget of 16 labels is one in name only."""
    spec = str(PROJECT / "configs" / "semi_masked.py:tiny")
    config_ = training.check(settings(spec, tiny_dataset, data__labels=16))
    dataset = Dataset.open(tiny_dataset)
    chosen = training.budget.labelled(dataset, "train", 16, 0)
    monkeypatch.setattr(training.budget, "labelled", lambda *_: chosen)

    def first_batches():
        return list(training.loader.streams(training._feeds(dataset, config_), 0, 6))

    honest, read = first_batches(), Dataset.read

    def poisoned(self, split, indices, crop=None):
        stream = read(self, split, indices, crop)
        return {**stream, "label": np.where(np.isin(indices, chosen)[:, None], stream["label"], -99)}

    monkeypatch.setattr(Dataset, "read", poisoned)
    monkeypatch.setattr(Dataset, "labels", None)
    for a, b in zip(*map(jax.tree.leaves, (honest, first_batches())), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {tuple(x) for b in honest for x in b["main"]["example"]}.isdisjoint(
        tuple(x) for b in honest for x in b["unlabelled"]["example"]
    )


def test_a_guarded_run_says_what_was_kept(tiny_dataset, tmp_path, mite):
    """In its folder and wherever it is evaluated; it goes on as any run does, and is what its config says."""
    spec = str(PROJECT / "configs" / "semi_masked.py:tiny")
    keys = {**mite, "train.steps": 2, "guard.folds": 2}
    result = train(spec, tiny_dataset, tmp_path / "run", **keys)
    kept = result["guard"]["chosen"]
    assert vitmed.runs.folder.config_of(tmp_path / "run").objective.name == kept
    assert sorted(p.name for p in (tmp_path / "run" / "guard").iterdir()) == [
        f"{arm}-{k}" for arm in ("semi_masked", "supervised") for k in (0, 1)
    ]
    assert train(spec, tiny_dataset, tmp_path / "run", **keys)["resumed_from"] == 2
    notes = evaluate(tmp_path / "run", split="val", quiet=True)["notes"]
    assert any(note.startswith("guard: semi_masked ") and "within the 16 labelled" in note for note in notes)


def test_a_mix_is_trained_on_and_known_by_its_content(tiny_dataset, tmp_path):
    """A run goes on with datasets that moved, not with others; a withdrawal finds the runs of every one."""
    data = [shutil.copytree(tiny_dataset, tmp_path / name) for name in ("a.v1", "b.v1")]
    sheet = json.loads((data[1] / "datasheet.json").read_text())
    (data[1] / "datasheet.json").write_text(json.dumps({**sheet, "content_hash": "other"}))

    def mixed(a, b, steps=2, weight=0.25):
        mix = {str(a): 1 - weight, str(b): weight}
        return train(MAE, a, tmp_path / "run", data__mix=mix, train__steps=steps)

    assert mixed(*data)["step"] == 2
    moved = [path.rename(path.with_suffix(".v2")) for path in data]
    assert mixed(*moved)["resumed_from"] == 2
    with pytest.raises(InputError, match="the dataset's other streams"):
        mixed(*moved, weight=0.5)
    with pytest.raises(InputError, match="the dataset's other streams"):
        mixed(moved[0], moved[0])
    assert lineage.made_from(["other"], [tmp_path])[0]["run"] == str((tmp_path / "run").resolve())
    tuned = train(
        CLASSIFY,
        moved[0],
        tmp_path / "tuned",
        init_from=tmp_path / "run",
        data__mix={str(m): 1 for m in moved},
    )
    assert np.isfinite(tuned["metrics"]["loss"])  # its probe has swept both
