"""Ways of fine-tuning through the loop: what is frozen stays to the bit, what is learned is plain weights afterwards."""

import csv
import json

import jax
import numpy as np
import pytest
from flax import traverse_util
from short_runs import CLASSIFY, MAE, PROJECT, cut_after, same, settings, state_of, train
from sklearn.metrics import cohen_kappa_score

import vitmed.runs
from vitmed import train as training
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.evaluate.evaluate import evaluate
from vitmed.evaluate.predictions import read
from vitmed.infer import Model
from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.models.build import ModelConfig
from vitmed.models.transformer import stacked
from vitmed.models.vit import VARIANTS, Variant
from vitmed.objectives.classifier import Classifier
from vitmed.objectives.interface import Spec
from vitmed.runs import checkpoint
from vitmed.runs import metrics as run_metrics
from vitmed.runs.finetune import FinetuneConfig
from vitmed.study.study import metric_names

PROBE = {"finetune.method": "probe"}
LORA = {"finetune.method": "lora", "finetune.lora.rank": 2, "finetune.lora.products": "query|value|mlp1"}
FAST = {"optim.lr": 0.01, "optim.warmup": 0.0, "model.drop_path": 0.5, "optim.layer_decay": 1.0}


@pytest.fixture(scope="module", autouse=True)
def small():
    """A ViT of two blocks in place of the smallest, whose programs compile in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "nano", Variant(16, 2, 2, 24))
        yield


@pytest.fixture(scope="module")
def former(tiny_dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("former") / "mae"
    train(MAE, tiny_dataset, run, **{"train.steps": 2})
    return run


@pytest.fixture
def tune(tiny_dataset, former, tmp_path):
    """Fine-tunes from ``former`` with these keys; returns the run and the state it ended in, as NumPy."""

    def make(name, **keys):
        keys = {"init_from": former, "optim.ema": 0.0, **FAST, **keys}
        train(CLASSIFY, tiny_dataset, tmp_path / name, **keys)
        return tmp_path / name, state_of(tmp_path / name)

    return make


def flat(tree):
    return traverse_util.flatten_dict(tree)


@pytest.mark.parametrize("pool,ema", [("mean", 0.9), ("attentive", 0.0)])
def test_a_probe_leaves_the_encoder_as_it_was(tune, former, tiny_dataset, pool, ema):
    """To the bit, under weight decay and an average too; and its features are those of the encoder without drop path."""
    run, state = tune("probe", **PROBE, **{"optim.ema": ema, "model.pool": pool})
    encoder = vitmed.runs.load(former)["encoder"]
    assert same(state["params"]["encoder"], encoder) and same(vitmed.runs.load(run)["encoder"], encoder)
    head = vitmed.runs.load(run)["head"]
    assert same(head, state["ema" if ema else "params"]["head"])
    assert not same(state["ema"].get("head", {}), state["params"]["head"])
    assert set(state["ema"]) == ({"head"} if ema else set())
    moments = [path for path in flat(state["opt_state"]) if "encoder" in path]
    assert not moments, "the optimiser keeps what it does not train"
    logits = Model.open(run).logits(Dataset.open(tiny_dataset), "val")
    assert logits.shape[1] == 2 and np.ptp(logits) > 0 and ("attention" in head) == (pool == "attentive")


def test_no_gradient_goes_through_a_frozen_encoder(tiny_dataset, former):
    """Otherwise a probe costs what fine-tuning does: the program's backward pass has no product with its kernels."""

    def products(**keys):
        config = check(settings(CLASSIFY, tiny_dataset, init_from=former, **{"model.scan": False}, **keys))
        job = Job(config)
        state = jax.eval_shape(job.fresh_state, job.seed)
        return job.update.lower(state, next(iter(job.batches(0)))).as_text().count("dot_general")

    full, probe = products(), products(**PROBE)
    assert probe < 0.5 * full


def test_lora_is_what_load_says_it_is(tune, former, tiny_dataset, capsys):
    """The base stays to the bit, the change is in the checkpoint, ``load`` gives the sum, and another run starts from it."""
    run, state = tune("lora", **LORA)
    encoder = vitmed.runs.load(former)["encoder"]
    assert same(state["params"]["encoder"], encoder)
    loaded = vitmed.runs.load(run)
    assert set(loaded) == {"encoder", "head"}
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded))
    assert jax.tree.structure(loaded["encoder"]) == jax.tree.structure(encoder)
    block = loaded["encoder"]["transformer"]["blocks"]["attention"]
    pair = state["params"]["lora"]["transformer"]["blocks"]["attention"]["value"]
    for layer in range(2):
        down, up = (
            np.reshape(pair[side][layer], shape) for side, shape in (("down", (16, 2)), ("up", (2, 16)))
        )
        moved = (block["qkv"]["kernel"] - encoder["transformer"]["blocks"]["attention"]["qkv"]["kernel"])[
            layer
        ]
        np.testing.assert_allclose(moved[:, 2].reshape(16, 16), 16 / 2 * down @ up, atol=1e-6)
        assert np.abs(moved[:, 2]).max() > 1e-4 and not np.any(moved[:, 1])
    assert same(block["out"], encoder["transformer"]["blocks"]["attention"]["out"])

    # A merged run starts others: the same scores at once from its weights, and by a second change.
    again, second = tune("again", **LORA, **{"init_from": run, "model.scan": False})
    assert same(stacked(second["params"]["encoder"]), loaded["encoder"])
    assert evaluate(again)["metrics"]["auroc"]["value"] is not None

    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(state["opt_state"]))
    trained = sum(leaf.size for part in ("lora", "head") for leaf in jax.tree.leaves(state["params"][part]))
    assert kept == pytest.approx(8 * trained, abs=64), "two moments of what is trained, and a few counters"
    job = Job(check(settings(CLASSIFY, tiny_dataset, init_from=former, **{"optim.ema": 0.0}, **LORA)))
    assert f"lora: {trained:,} parameters are trained, with {kept:,} bytes of optimiser state" in job.summary(
        0
    )


def test_lora_starts_at_the_former_function(tiny_dataset, former):
    """To the bit, the head's probe included: nothing that the encoder knew is lost by asking for it."""
    states = []
    for keys in (LORA, PROBE):
        config = check(settings(CLASSIFY, tiny_dataset, init_from=former, **keys))
        job = Job(config)
        state = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
        states.append(config.finetune.plain(state["params"]))
    assert same(*states)


@pytest.mark.slow
@pytest.mark.parametrize("way", [LORA, {"finetune.frozen_blocks": 1, "finetune.head_first": 0.5}], ids=str)
def test_both_engines_and_both_forms_of_the_layers_agree(tune, way):
    """jit and pmap, scanned and unrolled, to rounding, with an average and layer decay over what is trained."""
    way = {**way, "optim.ema": 0.9, "optim.layer_decay": 0.7, "model.drop_path": 0.1, "optim.lr": 0.001}
    other = {"parallel.engine": "pmap", "model.scan": False}
    runs = tune("jit", **way)[0], tune("pmap", **way, **other)[0]
    np.testing.assert_allclose(*(run_metrics.read(run)["loss"][1] for run in runs), rtol=1e-4)
    loaded = [stacked(vitmed.runs.load(run)) for run in runs]
    for a, b in zip(*map(jax.tree.leaves, loaded), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("scan", [True, False])
def test_the_first_blocks_stay_and_the_others_learn(tune, former, scan):
    """The embedding with them; in a stacked array too, where they are its first entries."""
    run, state = tune("frozen", **{"finetune.frozen_blocks": 1, "model.scan": scan, "optim.ema": 0.9})
    began = flat(stacked(vitmed.runs.load(former)["encoder"]))
    for ended in (state["params"]["encoder"], vitmed.runs.load(run)["encoder"]):
        for path, leaf in flat(stacked(ended)).items():
            if "blocks" in path:
                assert np.array_equal(leaf[0], began[path][0])
                if path[-1] == "kernel":
                    assert not np.array_equal(leaf[1], began[path][1])
            elif path[0] == "norm":
                assert not np.array_equal(leaf, began[path])
            else:
                assert np.array_equal(leaf, began[path]), path
    for path, leaf in flat(state["opt_state"]).items():
        assert "block_0" not in path and "patches" not in path
        assert "blocks" not in path or leaf.shape[0] == 1


def test_the_head_goes_first_and_the_encoder_joins(tune, former, monkeypatch, tiny_dataset, tmp_path):
    """Until then it and its moments stay as they were; a run killed before goes on to the same bits after."""
    keys = {"finetune.head_first": 0.5, "train.steps": 8, "optim.clip": 1.0, "train.val_every": 8}
    run, state = tune("whole", **keys)
    encoder = vitmed.runs.load(former)["encoder"]
    assert not same(state["params"]["encoder"], encoder)
    with checkpoint.Checkpoints(tmp_path / "whole", checkpoint.CheckpointConfig()) as checkpoints:
        assert checkpoints.steps() == [6, 8]
    with cut_after(5, monkeypatch):  # the last checkpoint is of step 4, where the encoder is about to join
        tune("cut", **keys)
    half = state_of(tmp_path / "cut")
    assert same(half["params"]["encoder"], encoder)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(half["opt_state"]["encoder"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(half["opt_state"]["rest"]))
    assert same(tune("cut", **keys)[1], state)


@pytest.mark.parametrize(
    "way,learned",
    [
        (FinetuneConfig("lora"), True),
        (FinetuneConfig(frozen_blocks=1), True),
        (FinetuneConfig("probe"), False),
        (FinetuneConfig("lora", head_first=0.5), True),
    ],
    ids=str,
)
def test_a_table_of_slices_learns_with_the_encoder(way, learned):
    """It may have begun at zero, when the encoder was inflated, and nothing else would tell slices apart."""
    model = ModelConfig("nano", (2, 4, 4), learned_slices=True)
    spec = Spec((8, 8, 8), 1, "multiclass", 2)
    params = jax.eval_shape(lambda key: way.begun(Classifier(model, spec).init(key), key), jax.random.key(0))
    for stage in way.stages(params, 10):
        trained = flat(stage.split.trained(jax.tree.map(lambda leaf: np.zeros(leaf.shape), params)))
        assert (("encoder", "slices") in trained) == (learned and not stage.still)
        assert not any(path[:2] == ("encoder", "patches") for path in trained)


# --- masks -----------------------------------------------------------------------------------------------------------

IJEPA, SELF_DISTIL, SEMI_MASKED = (
    str(PROJECT / "configs" / f"{name}.py:tiny")
    for name in ("pretrain_ijepa", "pretrain_self_distil", "semi_masked")
)
SEGMENT, TEACHER, SIMMIM = (
    str(PROJECT / "configs" / f"{name}.py:tiny")
    for name in ("finetune_segment", "semi_teacher_segment", "pretrain_simmim")
)
PATCH = {"model.patch_size": (4, 4)}
FIRST = {"finetune.frozen_blocks": 1, "finetune.head_first": 0.5}


@pytest.fixture(scope="module")
def masked_former(marked_dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("masked_former") / "mae"
    train(MAE, marked_dataset, run, **{"train.steps": 2}, **PATCH)
    return run


@pytest.mark.parametrize(
    "spec,way",
    [
        pytest.param(SEGMENT, PROBE, id="probe"),
        pytest.param(SEGMENT, LORA, id="lora"),
        pytest.param(SEGMENT, FIRST, id="first"),
        pytest.param(TEACHER, PROBE, id="teacher-probe"),
        pytest.param(TEACHER, LORA, id="teacher-lora", marks=pytest.mark.slow),
    ],
)
def test_of_masks_too_what_is_frozen_stays_to_the_bit(masked_former, marked_dataset, tmp_path, spec, way):
    """In the state and in what the run gives, which is a slow average: of the parameters, or a teacher."""
    average = {} if spec == TEACHER else {"optim.ema": 0.9}
    keys = {**FAST, **PATCH, **average, **way, "data.labels": 6, "init_from": masked_former}
    run = tmp_path / "run"
    train(spec, marked_dataset, run, **keys)
    state, given = state_of(run), vitmed.runs.load(run)
    began = flat(vitmed.runs.load(masked_former)["encoder"])
    ended, taken = flat(state["params"]["encoder"]), flat(given["encoder"])

    def still(path):
        """Which entries of a leaf of the encoder nothing trains."""
        if way is FIRST and "blocks" in path:
            return slice(0, 1)
        return slice(0, 0) if way is FIRST and path[0] == "norm" else slice(None)

    for path, leaf in began.items():
        assert np.array_equal(ended[path][still(path)], leaf[still(path)]), path
        # What the run gives has the change added; only products have one.
        if way is not LORA or path[-1] != "kernel":
            assert np.array_equal(taken[path][still(path)], leaf[still(path)]), path
    moved = [path for path in began if not np.array_equal(taken[path], began[path])]
    assert bool(moved) == (way is not PROBE)
    moments = {path: leaf for path, leaf in flat(state["opt_state"]).items() if np.ndim(leaf)}
    for part, trained in (("encoder", way is FIRST), ("lora", way is LORA), ("segmenter", True)):
        assert any(np.any(leaf) for path, leaf in moments.items() if part in path) == trained, part


def test_a_pretrained_decoder_comes_along_but_for_its_scores(marked_dataset, tmp_path, capsys):
    """The scores are of voxels there and of structures here; a decoder of another width cannot come, which is told."""
    whole, other = tmp_path / "whole", tmp_path / "other"
    train(
        SIMMIM,
        marked_dataset,
        whole,
        **{"train.steps": 2, "objective.head": "segmenter", "model.width": 4, **PATCH},
    )
    learned = flat(vitmed.runs.load(whole)["segmenter"])
    assert not Model.open(whole).gives_masks

    keys = {**FAST, **PATCH, "data.labels": 6, "init_from": whole}
    job = Job(check(settings(SEGMENT, marked_dataset, **keys)))
    state = jax.device_get(job.fresh_state(job.seed))
    own, begun = (flat(s["params"]["segmenter"]) for s in (state, job.with_former(state)))
    assert begun.keys() == own.keys()
    for path, leaf in begun.items():
        its = own if "scores" in path else learned
        assert np.array_equal(leaf, its[path]), path
    assert "its decoder comes along, but for the scores" in capsys.readouterr().err

    train(SEGMENT, marked_dataset, other, **{**keys, "model.width": 8})
    assert "its decoder is of another shape" in capsys.readouterr().err
    # A segmentation goes on with another's too, and with its scores where these are of the same structures: a teacher
    # that began with others would guess at random.
    job = Job(check(settings(SEGMENT, marked_dataset, **{**keys, "model.width": 8, "init_from": other})))
    fresh = jax.device_get(job.fresh_state(job.seed))
    its, own = flat(vitmed.runs.load(other)["segmenter"]), flat(fresh["params"]["segmenter"])
    begun = flat(job.with_former(fresh)["params"]["segmenter"])
    assert all(np.array_equal(begun[path], its[path]) for path in its)
    assert "its decoder comes along, scores and all" in capsys.readouterr().err
    sheet = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(sheet | {"structures": {"another": [1], "2": [2]}}))
    begun = flat(job.with_former(fresh)["params"]["segmenter"])
    assert all(np.array_equal(begun[path], (own if "scores" in path else its)[path]) for path in its)


def test_masked_modelling_goes_on_with_the_decoder_that_it_was_pretrained_with(
    tiny_dataset, tmp_path, capsys
):
    """Otherwise what is masked beside the labels teaches the encoder by way of a decoder that knows nothing."""
    train(MAE, tiny_dataset, tmp_path / "mae", **{"train.steps": 2, **PATCH})
    keys = {"objective.name": "semi_masked", "init_from": tmp_path / "mae", "data.labels": 6, **PATCH}
    job = Job(check(settings(SEMI_MASKED, tiny_dataset, **keys)))
    fresh = jax.device_get(job.fresh_state(job.seed))
    begun = flat(job.with_former(fresh)["params"])
    learned = flat(vitmed.runs.load(tmp_path / "mae"))
    assert all(np.array_equal(begun[path], learned[path]) for path in learned)
    assert "its decoder of hidden patches comes along" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spec,keys,message",
    [
        (
            CLASSIFY,
            {"objective": {"name": "mae"}, **PROBE},
            "config.finetune keeps parts of the model from training, which 'mae' does not allow",
        ),
        (CLASSIFY, {"init_from": "", **LORA}, "config.init_from is empty, so nobody trained them before"),
        (
            CLASSIFY,
            {"finetune.frozen_blocks": 3},
            "config.finetune.frozen_blocks is 3, but the encoder has 2 blocks",
        ),
        (
            CLASSIFY,
            {**PROBE, "finetune.lora.rank": 2},
            "config.finetune.lora is .* no meaning for the method 'probe'",
        ),
        (CLASSIFY, {**PROBE, "finetune.head_first": 0.5}, "config.finetune.head_first is 0.5.*no meaning"),
        (CLASSIFY, {"finetune.method": "probing"}, "'full', 'probe', 'lora'.*did you mean 'probe'"),
        (MAE, {"model.pool": "attentive"}, "config.model.pool is 'attentive', which is learned with labels"),
        (
            CLASSIFY,
            {"data.sampling": "balanced", "objective.class_weights": "balanced"},
            "are both 'balanced', which lifts rare classes twice",
        ),
        (MAE, {"data.sampling": "balanced"}, "config.data.sampling is balanced, but 'mae' uses no labels"),
        (MAE, {"checkpoint.best": "val/loss"}, "config.checkpoint.best is 'val/loss'.*val_every is 0"),
        (
            MAE,
            {"checkpoint.best": "val/loss", "train.val_every": 4, "checkpoint.every": 6},
            "steps between validations are 4 and config.checkpoint.every is 6",
        ),
        (IJEPA, {"optim.ema": 0.9}, "'ijepa' keeps a slow average of its own"),
        (SELF_DISTIL, {"optim.ema": 0.9}, "'self_distil' keeps a slow average of its own"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(tiny_dataset, former, tmp_path, spec, keys, message):
    with pytest.raises(InputError, match=message):
        train(spec, tiny_dataset, tmp_path / "run", **{"init_from": former, **keys})
    assert not (tmp_path / "run").exists()


# --- classes in order, and rare ones ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graded(tiny_pngs, tmp_path_factory):
    """``tiny_pngs`` with three grades, of which the highest comes first by name."""
    folder = tmp_path_factory.mktemp("graded")
    with open(tiny_pngs / "labels.csv") as file:
        rows = list(csv.DictReader(file))
    grades = [
        ("grave", "absent", "slight")[int(row["patient"][1:]) % 3 if i % 5 else 1]
        for i, row in enumerate(rows)
    ]
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "patient", "split", "grade")]
            + [(row["path"], row["patient"], row["split"], grade) for row, grade in zip(rows, grades)]
        )
    ingest(tiny_pngs, folder / "set", labels=folder / "labels.csv", modality="xray", workers=1)
    return folder / "set"


ORDINAL = {
    "objective.task": "ordinal",
    "objective.order": ("absent", "slight", "grave"),
    "objective.class_weights": "balanced",
    "data.labels": 20,
}


def test_ordered_classes_are_learned_and_judged_in_ranks(graded, former, tmp_path):
    """From a probed head, weighed by the budget's own counts; errors in ranks beside the usual numbers."""
    run = tmp_path / "ordinal"
    values = settings(CLASSIFY, graded, init_from=former, **ORDINAL)
    job = Job(check(values))
    label = Dataset.open(graded).labels("train")[0][job.feeds["main"].parts[0].members, 0].astype(int)
    shown = np.bincount(label, minlength=3)
    assert job.spec.counts == tuple((n, len(label) - n) for n in shown) and len(label) <= 20
    training.train(values, run, quiet=True)
    head = vitmed.runs.load(run)["head"]["scores"]
    assert head["thresholds"].shape == (2,) and head["kernel"].shape == (16, 1) and np.any(head["kernel"])

    found = evaluate(run)
    assert (found["task"], found["order"]) == ("multiclass", ["absent", "slight", "grave"])
    assert any("absent < slight < grave" in note for note in found["notes"])
    table = read(run / "evaluations" / "test" / "predictions.csv")
    rank = np.array([table.classes.index(name) for name in found["order"]])
    chance, truth = table.score[:, rank], np.argsort(rank)[table.label[:, 0].astype(int)]
    said = (np.cumsum(chance, axis=1)[:, :2] < 0.5).sum(axis=1)
    number = found["metrics"]["rank_mae"]
    assert number["value"] == pytest.approx(np.abs(said - truth).mean())
    assert number["low"] <= number["value"] <= number["high"] and number["interval"] == "percentile"
    kappa = cohen_kappa_score(truth, said, weights="quadratic", labels=[0, 1, 2])
    assert found["metrics"]["quadratic_kappa"]["value"] == pytest.approx(kappa, nan_ok=True)
    assert found["metrics"]["accuracy"]["value"] == pytest.approx((said == truth).mean())
    # Shown to a study before its first training; without an order there are no ranks to speak of.
    assert {"rank_mae", "quadratic_kappa"} < set(
        metric_names(str(graded), "test", ORDINAL["objective.order"])
    )
    assert "rank_mae" not in metric_names(str(graded), "test")
