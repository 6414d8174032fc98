"""Any objective through one loop: teachers, several streams, probes of features, the guard."""

import dataclasses
from types import SimpleNamespace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_runs import CLASSIFY, MAE, PROJECT, cut_after, same, settings, state_of, train

import vitmed.runs
from vitmed import train as training
from vitmed.data import budget, loader
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate.evaluate import evaluate
from vitmed.infer import Model
from vitmed.job.config import check
from vitmed.job.feeds import feeds_of
from vitmed.job.job import Job
from vitmed.models.build import encoder
from vitmed.models.head import pooled
from vitmed.models.vit import VARIANTS, Variant
from vitmed.objectives import registry
from vitmed.objectives.interface import Objective, ObjectiveConfig, weighted_mean
from vitmed.parallel.engine import engine
from vitmed.runs import checkpoint
from vitmed.runs import metrics as run_metrics


@pytest.fixture(scope="module", autouse=True)
def mite():
    """ "nano" is a ViT whose program compiles in no time: the loop is the same whatever it trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "nano", Variant(16, 1, 2, 24))
        yield


@dataclasses.dataclass(frozen=True)
class TeacherConfig(ObjectiveConfig):
    name: Literal["teacher"] = "teacher"
    decay: float = 0.5


def build_teacher(settings, model, spec, remat="none"):
    """The student follows the mean features of its own slow average, which is the objective's memory."""
    network = encoder(model, spec.size, remat)

    def init(key, spec):
        params = network.init(key, jnp.zeros((1, *spec.size, spec.channels)))["params"]
        return {"encoder": params}, {
            "teacher": jax.tree.map(jnp.copy, params),
            "centre": jnp.zeros(16),
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
        checked = check(values)
        return checkpoint.Checkpoints(run, checked.checkpoint).restore("last", part="memory")

    whole = memory_of(tmp_path / "jit", train__steps=6)
    assert int(whole["updates"]) == 6 and float(np.abs(whole["centre"]).sum()) > 0
    replicas = memory_of(tmp_path / "pmap", train__steps=6, parallel__engine="pmap")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(replicas)):
        np.testing.assert_allclose(a, b, atol=1e-4)

    with cut_after(5, monkeypatch):  # the last checkpoint is of step 4
        memory_of(tmp_path / "cut", train__steps=6)
    assert "6" not in [p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()], "it was not cut"
    assert same(whole, memory_of(tmp_path / "cut", train__steps=6))


@pytest.mark.parametrize("name", ["ijepa", pytest.param("self_distil", marks=pytest.mark.slow)])
def test_teachers_are_the_same_under_both_engines_and_survive_a_resume_to_the_bit(
    tiny_dataset, tmp_path, monkeypatch, name
):
    """Sinkhorn, KoLeo and the teacher see the whole batch of eight devices; their run's weights are the teacher's."""
    spec = str(PROJECT / "configs" / f"pretrain_{name}.py:tiny")
    keys = {
        "train.steps": 4,
        "train.batch_size": 16,
        "model.scan": False,
        "augment.flip": (1,),
        "probe.every": 4,
    }
    result = train(spec, tiny_dataset, tmp_path / "jit", **keys)

    whole = state_of(tmp_path / "jit", part="memory")["teacher"]
    assert same(vitmed.runs.load(tmp_path / "jit")["encoder"], whole["encoder"])
    assert not same(whole["encoder"], state_of(tmp_path / "jit", part="params")["encoder"])
    replicas = train(spec, tiny_dataset, tmp_path / "pmap", **keys, **{"parallel.engine": "pmap"})
    for metric, value in result["metrics"].items():
        close = 0.05 if "auroc" in metric else 2e-4  # two scans may change places by rounding
        assert replicas["metrics"][metric] == pytest.approx(value, rel=2e-3, abs=close), metric
    for a, b in zip(
        jax.tree.leaves(whole), jax.tree.leaves(state_of(tmp_path / "pmap", part="memory")["teacher"])
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)

    job = Job(check(settings(spec, tiny_dataset, **keys, **{"init_from": tmp_path / "jit"})))
    begun = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
    assert same(begun["memory"]["teacher"]["encoder"], whole["encoder"])
    assert same(begun["params"]["encoder"], whole["encoder"])

    with cut_after(3, monkeypatch):  # the last checkpoint is of step 2
        train(spec, tiny_dataset, tmp_path / "cut", **keys)
    assert train(spec, tiny_dataset, tmp_path / "cut", **keys)["resumed_from"] == 2
    for part in ("memory", "params", "opt_state"):
        assert same(state_of(tmp_path / "jit", part=part), state_of(tmp_path / "cut", part=part))


def test_a_modern_vit_with_a_learned_table_is_the_same_under_both_engines(tiny_dataset, tmp_path):
    """Small views resample the table, and its slopes are summed over the devices as all others are."""
    spec = str(PROJECT / "configs" / "pretrain_self_distil.py:tiny")
    keys = {"train.steps": 2, "train.batch_size": 16, "model.preset": "modern", "model.positions": "learned"}
    runs = [tmp_path / engine for engine in ("jit", "pmap")]
    losses = [
        train(spec, tiny_dataset, run, **keys, **{"parallel.engine": run.name})["metrics"]["loss"]
        for run in runs
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    params = [vitmed.runs.load(run)["encoder"] for run in runs]
    assert params[0]["positions"].shape == (4, 4, 16) and params[0]["registers"].shape == (1, 4, 16)
    for a, b in zip(*map(jax.tree.leaves, params)):
        np.testing.assert_allclose(a, b, atol=1e-4)
    recorded = vitmed.runs.folder.config_of(runs[0]).model
    assert (recorded.positions, recorded.norm, recorded.mlp) == ("learned", "rms", "swiglu")


# --- the health of what is learned ---------------------------------------------------------------------------------


def test_health_is_measured_on_the_training_split_and_written(tiny_dataset, tmp_path):
    """Every so many steps and at the end, in the run's CSV, with the count of labels that it used."""
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
    monkeypatch.setattr(Job, "_represent", lambda job, state, batch: jnp.ones((8, 16)))
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
class PairConfig(ObjectiveConfig):
    streams: ClassVar = ("main", "unlabelled")
    labelled: ClassVar = True
    name: Literal["pair"] = "pair"


def build_pair(settings, model, spec, remat="none"):
    """Labels from one stream, and features near their mean from the other; metrics tell what reached the step."""
    network = encoder(model, spec.size, remat)

    def init(key, spec):
        params = network.init(key, jnp.zeros((1, *spec.size, spec.channels)))["params"]
        return {"encoder": params, "head": jnp.zeros(16)}, {}

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


SEMI = {"model.scan": False, "train.batch_size": 16, "data.labels": 16}


@pytest.mark.parametrize("name", ["semi_masked", pytest.param("semi_teacher", marks=pytest.mark.slow)])
def test_semi_supervised_runs_agree_under_both_engines_and_resume_to_the_bit(
    tiny_dataset, tmp_path, monkeypatch, name
):
    """Teacher and running means are carried; a run's weights are the teacher's; it starts as the student does."""
    spec, keys = str(PROJECT / "configs" / f"{name}.py:tiny"), {**SEMI, "train.val_every": 4}
    if name == "semi_teacher":
        keys["objective.threshold"] = 0.5  # an untrained teacher is not sure of much

    result = train(spec, tiny_dataset, tmp_path / "jit", **keys)
    replicas = train(spec, tiny_dataset, tmp_path / "pmap", **keys, **{"parallel.engine": "pmap"})
    for metric, value in result["metrics"].items():
        assert replicas["metrics"][metric] == pytest.approx(value, rel=2e-3, abs=2e-4), metric
    assert "val/accuracy" in result["metrics"]
    if name == "semi_teacher":
        memory = state_of(tmp_path / "jit", part="memory")
        assert same(vitmed.runs.load(tmp_path / "jit"), memory["teacher"])
        assert not same(memory["teacher"], state_of(tmp_path / "jit", part="params"))
        for a, b in zip(*(jax.tree.leaves(state_of(tmp_path / e, part="memory")) for e in ("jit", "pmap"))):
            np.testing.assert_allclose(a, b, atol=1e-4)
        job = Job(check(settings(spec, tiny_dataset, **keys, init_from=tmp_path / "jit")))
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
        assert same(state_of(tmp_path / "jit", part=part), state_of(tmp_path / "cut", part=part)), part


def test_semi_supervised_masks_agree_under_both_engines(marked_dataset, tmp_path):
    """Pseudo-masks from end to end: what is sure counts over the whole batch, and the run gives the teacher."""
    spec = str(PROJECT / "configs" / "semi_teacher_segment.py:tiny")
    keys = {"model.patch_size": (4, 4), "data.labels": 6, "objective.threshold": 0.4, "train.val_every": 4}
    result = train(spec, marked_dataset, tmp_path / "jit", **keys)
    replicas = train(spec, marked_dataset, tmp_path / "pmap", **keys, **{"parallel.engine": "pmap"})
    for metric, value in result["metrics"].items():
        assert replicas["metrics"][metric] == pytest.approx(value, rel=2e-3, abs=2e-4), metric
    assert 0 < result["metrics"]["kept"] <= 1 and "val/dice" in result["metrics"]
    given = vitmed.runs.load(tmp_path / "jit")
    parts = state_of(tmp_path / "jit", part=("params", "memory"))
    assert same(given, parts["memory"]["teacher"]) and not same(given, parts["params"])
    for a, b in zip(*(jax.tree.leaves(vitmed.runs.load(tmp_path / e)) for e in ("jit", "pmap"))):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert Model.open(tmp_path / "jit").gives_masks


def test_validation_is_of_the_labels_that_there_are_whatever_the_batch(tiny_dataset, monkeypatch):
    """Else the best checkpoint depends on where the scans without labels lie; without any, nothing is told."""
    read, known = Dataset.read, 5

    def partly(dataset, split, indices, crop=None):
        stream = read(dataset, split, indices, crop)
        return {**stream, "label_weight": (np.asarray(indices) < known)[:, None].astype(np.float32)}

    monkeypatch.setattr(Dataset, "read", partly)
    found = {}
    for engine_name, size in (("jit", 16), ("jit", 8), ("pmap", 8)):
        keys = {"train.batch_size": size, "parallel.engine": engine_name, "model.scan": False}
        job = Job(check(settings(CLASSIFY, tiny_dataset, **keys)))
        assert job.dataset.size("val") > 8, "the case tests nothing"
        state = job.engine.to_host(job.engine.init(job.fresh_state, job.seed))
        scores = state["params"]["head"]["scores"]
        scores["kernel"] = np.random.default_rng(0).normal(size=scores["kernel"].shape).astype(np.float32)
        found[engine_name, size] = job.validation(job.engine.put_state(state))
    whole = found.pop(("jit", 16))
    assert set(whole) == {"val/loss", "val/accuracy"} and (5 * whole["val/accuracy"]) % 1 == pytest.approx(0)
    for case, other in found.items():
        assert other == pytest.approx(whole, rel=1e-4), case
    known = 0
    assert job.validation(job.engine.put_state(state)) == {}


def test_balanced_sampling_leaves_the_labels_frequencies_to_align_with(tiny_dataset):
    """Else pseudo-labels are pulled to equal shares of the classes, whatever the label budget shows."""
    spec = str(PROJECT / "configs" / "semi_teacher.py:tiny")
    job = Job(check(settings(spec, tiny_dataset, data__labels=13, data__sampling="balanced")))
    label = Dataset.open(tiny_dataset).labels("train")[0][job.feeds["main"].parts[0].members, 0]
    shown = np.bincount(label.astype(int), minlength=2)
    assert shown[0] != shown[1], "the case tests nothing"
    np.testing.assert_allclose(job.fresh_state(job.seed)["memory"]["labels"], shown / shown.sum())
    natural = Job(check(settings(spec, tiny_dataset, data__labels=13, objective__class_weights="balanced")))
    assert natural.spec.counts == tuple((n, 13 - n) for n in shown), "the case tests nothing"
    labels = natural.fresh_state(natural.seed)["memory"]["labels"]
    np.testing.assert_allclose(labels, [0.5, 0.5], err_msg="weights of the loss change the alignment")


def test_two_slow_averages_are_refused(tiny_dataset, tmp_path):
    """Else the one that is validated is not the one that the run gives."""
    with pytest.raises(InputError, match="config.optim.ema is 0.9, but 'semi_teacher' keeps a slow average"):
        train(str(PROJECT / "configs" / "semi_teacher.py:tiny"), tiny_dataset, tmp_path / "x", optim__ema=0.9)


def test_labels_beside_the_budget_reach_no_batch(tiny_dataset, monkeypatch):
    """Else a budget of 16 labels is one in name only."""
    spec = str(PROJECT / "configs" / "semi_masked.py:tiny")
    config_ = check(settings(spec, tiny_dataset, data__labels=16))
    dataset = Dataset.open(tiny_dataset)
    chosen = budget.labelled(dataset, "train", 16, 0)
    monkeypatch.setattr(budget, "labelled", lambda *_: chosen)

    def first_batches():
        made = engine(config_.parallel, config_.train.batch_size)
        return list(loader.streams(feeds_of(dataset, config_, made), 0, 6))

    honest, read = first_batches(), Dataset.read

    def poisoned(self, split, indices, *rest):
        stream = read(self, split, indices, *rest)
        return {**stream, "label": np.where(np.isin(indices, chosen)[:, None], stream["label"], -99)}

    monkeypatch.setattr(Dataset, "read", poisoned)
    monkeypatch.setattr(Dataset, "labels", None)
    for a, b in zip(*map(jax.tree.leaves, (honest, first_batches())), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {tuple(x[:2]) for b in honest for x in b["main"]["example"]}.isdisjoint(
        tuple(x[:2]) for b in honest for x in b["unlabelled"]["example"]
    )


def test_a_guarded_run_says_what_was_kept(tiny_dataset, tmp_path):
    """In its folder and wherever it is evaluated; it goes on as any run does, and is what its config says."""
    spec = str(PROJECT / "configs" / "semi_masked.py:tiny")
    keys = {**SEMI, "train.steps": 2, "guard.folds": 2, "train.val_every": 2, "checkpoint.best": "val/loss"}
    result = train(spec, tiny_dataset, tmp_path / "run", **keys)
    kept = result["guard"]["chosen"]
    assert vitmed.runs.folder.config_of(tmp_path / "run").objective.name == kept
    assert sorted(p.name for p in (tmp_path / "run" / "guard").iterdir()) == [
        f"{arm}-{k}" for arm in ("semi_masked", "supervised") for k in (0, 1)
    ]
    assert train(spec, tiny_dataset, tmp_path / "run", **keys)["resumed_from"] == 2
    notes = evaluate(tmp_path / "run", split="val", quiet=True)["notes"]
    # Whole patients, so perhaps 15.
    labelled = len(budget.labelled(Dataset.open(tiny_dataset), "train", 16, 0))
    said = f"within the {labelled} labelled"
    assert any(note.startswith("guard: semi_masked ") and said in note for note in notes), notes
