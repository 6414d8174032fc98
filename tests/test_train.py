"""The training loop: exact resume of real processes, refusals by name."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from short_runs import CLASSIFY, MAE, PROJECT, cut_after, flags_of, same, settings, train

import vitmed.runs
import vitmed.train
from vitmed import config
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.infer import Model
from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.models.cost import matmul_flops, short
from vitmed.runs import folder, lineage
from vitmed.runs import metrics as run_metrics
from vitmed.study.plan import plan

pytestmark = pytest.mark.usefixtures("small_nano")


@pytest.fixture(scope="module")
def pretrained(small_nano, tiny_dataset, tmp_path_factory):
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
        job = Job(check(settings(MAE, tiny_dataset, train__seed=seed)))
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
    environment = {**os.environ, "XLA_FLAGS": flags_of(devices=1)}
    command = [sys.executable, "-m", "vitmed", "train", "--config", spec, "--workdir", str(workdir), *flags]
    return subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoints(run, count, process):
    for _ in range(1200):
        if process.poll() is not None or len(list((run / "checkpoints").glob("*"))) >= count:
            return
        time.sleep(0.05)


LONG = dict(train__steps=30, train__val_every=0, checkpoint__every=3, checkpoint__keep=50)


def test_stopped_and_killed_runs_end_with_the_same_bits(tiny_dataset, tmp_path):
    """SIGKILL, SIGTERM (75) and ctrl-C (130) at some moment; the run goes on and ends as one left alone does."""
    alone = start(MAE, tiny_dataset, tmp_path / "alone", **LONG)
    assert alone.wait(timeout=300) == 0, alone.stderr.read()
    run, ended = tmp_path / "stopped", []
    for number, (kind, code) in enumerate([(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)]):
        process = start(MAE, tiny_dataset, run, **LONG)
        wait_for_checkpoints(run, 1 + 3 * number, process)
        process.send_signal(kind)
        ended.append(process.wait(timeout=120))
        assert ended[-1] in (code, 0), process.stderr.read()
    assert ended[0] == -9, "it was done before it could be killed"
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
    job = Job(check(values))
    state = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
    former = vitmed.runs.load(pretrained)["encoder"]
    assert same(state["params"]["encoder"], former)
    assert same(state["ema"]["encoder"], former)
    assert job.recipe.mean == vitmed.runs.folder.recipe_of(pretrained).mean
    assert np.any(state["params"]["head"]["scores"]["kernel"]), "the head starts as a probe of what it knows"
    assert same(state["ema"]["head"], state["params"]["head"])
    zero = settings(CLASSIFY, tiny_dataset, init_from=pretrained, objective__head="zero")
    plain = Job(check(zero))
    fresh = plain.with_former(plain.engine.to_host(plain.engine.init(plain.fresh_state, plain.seed)))
    assert not np.any(fresh["params"]["head"]["scores"]["kernel"])
    result = train(CLASSIFY, tiny_dataset, tmp_path / "tuned", init_from=pretrained)
    assert result["metrics"]["accuracy"] >= 0
    assert not same(vitmed.runs.load(tmp_path / "tuned")["encoder"], former)


def test_a_head_is_probed_by_as_many_scans_at_once_as_a_device_takes_in_a_step(tiny_dataset, pretrained):
    """Otherwise a global batch that fits only in shares and parts runs out of memory before its first step."""
    heads = []
    for batch, parts, share in ((16, 1, 2), (32, 4, 1), (64, 2, 4)):
        keys = {"train.batch_size": batch, "parallel.accumulate": parts, "init_from": pretrained}
        job = Job(check(settings(CLASSIFY, tiny_dataset, **keys)))
        assert {len(some["main"]["image"]) for some in job._training_set()} == {share}
        state = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
        heads.append(state["params"]["head"]["scores"]["kernel"])
    for other in heads[1:]:
        np.testing.assert_allclose(other, heads[0], rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_without_the_one_that_it_started_from(tiny_dataset, pretrained, tmp_path, monkeypatch):
    """Its checkpoint and its recipe hold all that is needed; where nothing has begun, there is nothing to start from."""
    former = tmp_path / "former"
    shutil.copytree(pretrained, former)
    recipe = json.loads((former / "recipe.json").read_text())
    (former / "recipe.json").write_text(json.dumps({**recipe, "std": [2 * s for s in recipe["std"]]}))
    with cut_after(3, monkeypatch):  # the last checkpoint is of step 2
        train(CLASSIFY, tiny_dataset, tmp_path / "run", init_from=former)
    whole = train(CLASSIFY, tiny_dataset, tmp_path / "whole", init_from=former)
    shutil.rmtree(former)
    with pytest.raises(InputError, match="former does not exist"):
        train(CLASSIFY, tiny_dataset, tmp_path / "x", init_from=former)
    result = train(CLASSIFY, tiny_dataset, tmp_path / "run", init_from=former)
    assert result["resumed_from"] == 2 and result["metrics"] == whole["metrics"]
    assert same(vitmed.runs.load(tmp_path / "run"), vitmed.runs.load(tmp_path / "whole"))


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


def test_a_refused_start_leaves_no_folder_in_the_way(tiny_dataset, pretrained, tmp_path):
    """Otherwise the command that is put right is told to go on with what was wrong."""
    keys = {"init_from": pretrained, "optim.ema": 0.0}
    with pytest.raises(InputError, match="of another architecture"):
        train(CLASSIFY, tiny_dataset, tmp_path / "run", **keys, **{"model.variant": "ti"})
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="flip is .2,."):  # found while the first step is traced
        train(CLASSIFY, tiny_dataset, tmp_path / "run", **keys, **{"augment.flip": (2,)})
    assert not (tmp_path / "run").exists()
    train(CLASSIFY, tiny_dataset, tmp_path / "run", **keys)


def test_one_training_at_a_time(tiny_dataset, tmp_path):
    """Otherwise two of one command remove each other's checkpoints."""
    with folder.taken(tmp_path / "run"), pytest.raises(InputError, match="in use by another training"):
        train(MAE, tiny_dataset, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    train(MAE, tiny_dataset, tmp_path / "run", **{"train.steps": 1})


def test_another_dimension_and_modality_are_refused_by_name(tiny_volumes, pretrained, tmp_path):
    with pytest.raises(
        InputError, match="modality is xray here and mr there.*dimension is 2D here and 3D there"
    ):
        train(CLASSIFY, tiny_volumes, tmp_path / "x", init_from=pretrained, model__patch_size=(4, 4, 4))


def test_a_wish_adapts_the_former_encoder_and_is_in_the_config(tiny_dataset, pretrained, tmp_path, capsys):
    """Larger patches of the same scans: the run's recipe has the new patch, and what was done is said."""
    keys = dict(init_from=pretrained, model__patch_size=(8, 8), train__steps=1)
    said = "config.model.patch_size=4,4 is that run's, or config.init_adapt=patch adapts its weights"
    with pytest.raises(InputError, match=said):
        train(CLASSIFY, tiny_dataset, tmp_path / "x", **keys)
    result = train(CLASSIFY, tiny_dataset, tmp_path / "run", **keys, init_adapt="patch")
    assert np.isfinite(result["metrics"]["loss"])
    assert (
        "patches of 4x4 there, of 8x8 here: each is seen as resampled to 4x4, the mean preserved"
        in capsys.readouterr().err
    )
    assert vitmed.runs.folder.recipe_of(tmp_path / "run").patch_size == (8, 8)
    with pytest.raises(InputError, match="config.init_adapt is 'patch', but there is no config.init_from"):
        train(CLASSIFY, tiny_dataset, tmp_path / "x", init_adapt="patch")


def test_the_line_before_the_first_step_says_what_it_takes(tiny_dataset):
    """Parameters, two moments and their average, four bytes each; three times the forward pass, whatever is kept."""
    jobs = [
        Job(check(settings(CLASSIFY, tiny_dataset, **keys)))
        for keys in ({}, dict(parallel__remat="full"), dict(model__preset="modern"))
    ]
    flops = [job.flops() for job in jobs]
    assert flops[0] == flops[1] != flops[2]
    job = jobs[0]
    batch = jax.eval_shape(lambda b: job._prepare(b, None), next(job.batches(0)))
    params = jax.eval_shape(job.fresh_params, job.seed)
    forward = matmul_flops(lambda p, b: job.objective.loss(p, {}, b, jax.random.key(0))[0], params, batch)
    assert 2.95 < flops[0] / forward <= 3  # the images need no slope
    line = job.summary(0)
    assert "\n" not in line
    mirrored = Job(check(settings(CLASSIFY, tiny_dataset, augment__flip=(1,)))).summary(0).splitlines()
    assert len(mirrored) == 2 and mirrored[1].startswith(
        "warning: config.augment.flip mirrors axis 1 of xray"
    )
    assert f"state {short(16 * job.parameters)}B on each device, {short(flops[0])}FLOP a step" in line


def test_what_is_meant_for_more_scans_is_said_before_the_first_step(tiny_dataset):
    """Otherwise a folder of thirty scans is pretrained on for a million passes, and nobody sees it before the next day."""
    scans = Job(check(settings(MAE, tiny_dataset))).examples
    keys = dict(train__batch_size=2 * scans, train__steps=30)
    line, warning = Job(check(settings(MAE, tiny_dataset, **keys))).summary(0).splitlines()
    assert f"{scans} scans of 16x16x1, 30 steps of {2 * scans} (60 passes) on" in line
    assert f"each of the {scans} scans more than once" in warning
    few = Job(check(settings(CLASSIFY, tiny_dataset, **keys))).summary(0)
    assert "more than once" not in few, "labels are few"


def test_a_run_whose_recipe_is_not_that_of_its_data_is_refused(tiny_dataset, tmp_path):
    """Otherwise it goes on with scans standardised otherwise than those before."""
    run = tmp_path / "run"
    train(MAE, tiny_dataset, run, train__steps=2)
    held = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(held | {"mean": [0.9]}))
    with pytest.raises(InputError, match="recipe.mean"):
        train(MAE, tiny_dataset, run, train__steps=2)


def test_the_config_of_a_study_and_of_a_run_are_told_apart(tiny_dataset, tmp_path):
    """Otherwise the one's keys are said to be misspelt keys of the other."""
    with pytest.raises(InputError, match="config of a study.*`vitmed study` runs it"):
        check(config.load(str(PROJECT / "configs" / "study" / "demo.py")))
    with pytest.raises(InputError, match="config of one run.*`vitmed train` runs it"):
        plan(settings(CLASSIFY, tiny_dataset), tmp_path)


def test_a_dataset_that_nobody_named_is_asked_for(tmp_path):
    """Otherwise the folder that one stands in is said to be no dataset."""
    with pytest.raises(
        InputError, match="config.data.path is empty; name the dataset: --config.data.path=DATASET"
    ):
        train(MAE, "", tmp_path / "run")


def test_the_line_after_the_last_step_says_where_the_time_went(tiny_dataset, tmp_path, capfd):
    """Else nobody sees that a training waits for its disk."""
    result = vitmed.train.train(settings(MAE, tiny_dataset), tmp_path / "run")
    line = capfd.readouterr().err.splitlines()[-1]
    opened = Dataset.open(tiny_dataset)
    opened.read("train", np.array([0]))  # a small split is read once, whole, and kept
    assert (
        f"step 4, {result['images_per_second']:,.1f} images/s, {short(opened.bytes_read)}B of records read; "
        f"{result['data_wait']:.1%} of the time" in line
    )
    assert line.endswith(f"waiting for data, {result['checkpoint_wait']:.1%} on checkpoints")


def test_workdir_of_another_config(tiny_dataset, pretrained):
    with pytest.raises(InputError, match="config.optim.lr is 0.0015 there and 0.5 here"):
        train(MAE, tiny_dataset, pretrained, optim__lr=0.5)


@pytest.fixture
def cut_before_keys_came(tiny_dataset, tmp_path, monkeypatch):
    """A run of two steps of four, as one that was begun before some of the keys were there."""
    with cut_after(3, monkeypatch):
        train(MAE, tiny_dataset, tmp_path / "old")
    for name, sections in (
        ("config", {"data": ["crop_foreground"], "objective": ["exclude"], "augment": ["flip"]}),
        ("config", {"model": ["registers", "learned_slices", "position_scale"]}),
        ("recipe", {"model": ["registers", "learned_slices", "position_scale"]}),
    ):
        file = tmp_path / "old" / f"{name}.json"
        whole = json.loads(file.read_text())
        inside = whole.get("config", whole)
        for section, keys in sections.items():
            inside[section] = {key: value for key, value in inside[section].items() if key not in keys}
        inside.pop("finetune", None)
        file.write_text(json.dumps(whole))
    return tmp_path / "old"


def test_a_run_that_is_older_than_a_key_goes_on_to_the_same_bits(
    tiny_dataset, pretrained, cut_before_keys_came
):
    """Otherwise every new key ends the long runs that were begun before it."""
    assert train(MAE, tiny_dataset, cut_before_keys_came)["resumed_from"] == 2
    assert same(vitmed.runs.load(pretrained), vitmed.runs.load(cut_before_keys_came))


def test_a_run_that_is_older_than_a_key_does_not_go_on_with_another_value_of_it(
    tiny_dataset, cut_before_keys_came
):
    """Otherwise half of it is trained without what the other half is trained with."""
    run = cut_before_keys_came
    with pytest.raises(
        InputError, match=r"dataset: config.augment.flip is \(\) there and \(1,\) here; go on"
    ):
        train(MAE, tiny_dataset, run, augment__flip=(1,))
    with pytest.raises(InputError, match="dataset: config.model.registers is 0 there and 2 here; go on"):
        train(MAE, tiny_dataset, run, model__registers=2)
    whole = json.loads((run / "config.json").read_text())
    whole["config"]["train"]["warm"] = 3
    (run / "config.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match="config.train.warm is 3 there and absent here"):
        train(MAE, tiny_dataset, run)


def test_label_budget_trains_on_that_many(tiny_dataset, tmp_path):
    job = Job(check(settings(CLASSIFY, tiny_dataset, data__labels=10)))
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
    beside = vitmed.runs.folder.datasheet_of(tmp_path / "run")["beside"]
    assert [stream["examples"] for stream in beside] == 2 * [Dataset.open(moved[0]).size("train")]
    assert lineage.made_from(["other"], [tmp_path])[0]["run"] == str((tmp_path / "run").resolve())
    tuned = train(
        CLASSIFY,
        moved[0],
        tmp_path / "tuned",
        init_from=tmp_path / "run",
        data__mix={str(m): 1 for m in moved},
    )
    assert np.isfinite(tuned["metrics"]["loss"])  # its probe has swept both
