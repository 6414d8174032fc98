"""What the training loop does where a disk is full or a step is not finite."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_runs import MAE, same, state_of, train

from vitmed.data import loader
from vitmed.data.dataset import Dataset
from vitmed.errors import DiskFull, InputError
from vitmed.job import postmortem
from vitmed.job.job import Job
from vitmed.runs import metrics as run_metrics
from vitmed.runs.checkpoint import Checkpoints
from vitmed.runs.metrics import MetricsWriter

pytestmark = pytest.mark.usefixtures("small_nano")


def test_a_full_disk_ends_a_run_or_not_as_it_is_asked(tiny_dataset, tmp_path, monkeypatch, capfd):
    """Else a run that should wait for room dies at night, or one that should stop goes on unsaved."""
    honest = Checkpoints._write_arrays

    def write(self, path, arrays):
        if path.parent.name == "2":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(self, path, arrays)

    monkeypatch.setattr(Checkpoints, "_write_arrays", write)
    result = train(MAE, tiny_dataset, tmp_path / "on", checkpoint__full_disk="go_on")
    assert result["step"] == 4 and "checkpoint 2 does not fit in" in capfd.readouterr().err
    assert [p.name for p in (tmp_path / "on" / "checkpoints").iterdir()] == ["4"]
    with monkeypatch.context() as patch:
        patch.setattr(MetricsWriter, "written", lambda self, must: must)
        train(MAE, tiny_dataset, tmp_path / "rows", train__steps=6, checkpoint__full_disk="go_on")
        assert "no checkpoint 4, as rows of metrics.csv wait" in capfd.readouterr().err
        assert [p.name for p in (tmp_path / "rows" / "checkpoints").iterdir()] == ["6"]
    with pytest.raises(DiskFull, match="checkpoint 2 does not fit in"):
        train(MAE, tiny_dataset, tmp_path / "stop", train__steps=4000, checkpoint__every=2)
    assert run_metrics.read(tmp_path / "stop")["loss"][0][-1] < 100


@pytest.fixture
def spoiled(monkeypatch):
    """``spoiled(*steps)``: the gradients of these steps, counted from 1, are not finite."""
    honest = Job._slopes

    def spoil(*steps):
        def slopes(self, state, batch, stage):
            gradients, *rest = honest(self, state, batch, stage)
            bad = jnp.isin(state["step"] + 1, jnp.array(steps))
            return jax.tree.map(lambda g: jnp.where(bad, jnp.nan, g), gradients), *rest

        monkeypatch.setattr(Job, "_slopes", slopes)

    return spoil


@pytest.mark.parametrize("engine", ["jit", "pmap"])
def test_a_step_that_is_not_finite_stops_the_run_on_the_state_before_it(
    spoiled, tiny_dataset, tmp_path, engine
):
    """Else what came after it is saved, or nobody finds out which scans and which layer it was."""
    keys = dict(parallel__engine=engine, train__steps=8, checkpoint__every=3, checkpoint__keep=9)
    spoiled(99)
    train(MAE, tiny_dataset, tmp_path / "whole", **{**keys, "checkpoint__every": 4})
    spoiled(5)
    said = rf"gradient_norm became nan at step 5.* checkpoint 4.*{tmp_path}/run/nonfinite/5.json.*config.optim.lr"
    with pytest.raises(InputError, match=said):
        train(MAE, tiny_dataset, tmp_path / "run", **keys)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["3", "4"]
    assert same(state_of(tmp_path / "run", 4), state_of(tmp_path / "whole", 4))

    told = json.loads((tmp_path / "run" / "nonfinite" / "5.json").read_text())
    assert told["step"] == 5 and told["metrics"]["gradient_norm"] == "nan"
    assert [row[0] for row in told["before"]] == [1, 2, 3, 4] and all(row[2] > 0 for row in told["before"])
    assert set(told["gradient_norms"].values()) == {"nan"}
    assert "encoder/norm/scale" in told["gradient_norms"]
    dataset = Dataset.open(tiny_dataset)
    fed = next(loader.batches(dataset, "train", 8, 0, 4, 5))["main"]["example"][:, :2]
    named = [dataset.ids("train").index(scan["id"]) for scan in told["scans"]["main"]]
    assert np.array_equal(dataset.read("train", np.array(named))["example"], fed)

    with pytest.raises(InputError, match="became nan at step 5"):  # at once
        train(MAE, tiny_dataset, tmp_path / "run", **keys)
    assert run_metrics.read(tmp_path / "run")["loss"][0][-1] <= 5
    result = train(MAE, tiny_dataset, tmp_path / "run", train__skip_nonfinite=1, **keys)
    assert result["resumed_from"] == 4 and result["step"] == 8 and np.isfinite(result["metrics"]["loss"])
    assert json.loads((tmp_path / "run" / "nonfinite" / "5.json").read_text()) == told, (
        "what was found out is lost"
    )


def test_steps_that_are_not_finite_are_left_out_where_that_is_asked_for(
    spoiled, tiny_dataset, tmp_path, capfd
):
    """Else a left-out step leaves traces in the state, or without end of them a run goes on that learns nothing."""
    keys = dict(train__steps=6, checkpoint__every=1, checkpoint__keep=9, optim__ema=0.9, train__log_every=1)
    spoiled(2, 3, 6)
    result = train(MAE, tiny_dataset, tmp_path / "two", train__skip_nonfinite=2, **keys)
    assert result["step"] == 6
    at = {step: state_of(tmp_path / "two", step) for step in (1, 3, 4, 5, 6)}
    learned = ("params", "ema", "memory")
    assert same([at[3][name] for name in learned], [at[1][name] for name in learned])
    assert same(*([x for x in jax.tree.leaves(at[k]["opt_state"]) if x.dtype == float] for k in (3, 1)))
    assert same(at[6]["params"], at[5]["params"]) and not same(at[5]["params"], at[4]["params"])
    counts = [int(x) for x in jax.tree.leaves(at[6]["opt_state"]) if x.dtype == np.int32]
    assert counts and set(counts) == {6}, "the rate that is told is not that of the optimiser"
    said = capfd.readouterr().err
    assert "warning: gradient_norm became nan at step 3, which was left out; its scans are in " in said
    assert sorted(p.name for p in (tmp_path / "two" / "nonfinite").iterdir()) == [
        "2.json",
        "3.json",
        "6.json",
    ]
    steps, counts = run_metrics.read(tmp_path / "two")["left_out"]
    assert list(zip(steps, counts)) == [(2, 1), (3, 2), (6, 1)]
    again = train(MAE, tiny_dataset, tmp_path / "two", train__skip_nonfinite=2, **keys)["metrics"]
    assert all(again[name] == result["metrics"][name] for name in ("loss", "gradient_norm"))

    for _ in range(2):  # the second time from checkpoint 2, after one was left out
        with pytest.raises(InputError, match="nan at step 3.*the state before it is checkpoint 2"):
            train(MAE, tiny_dataset, tmp_path / "one", train__skip_nonfinite=1, **keys)


def test_a_full_disk_does_not_hide_a_step_that_is_not_finite(
    spoiled, tiny_dataset, tmp_path, monkeypatch, capfd
):
    """Else what went wrong is told as a full disk, or a run that may go on over one ends at it after all."""

    def full(*_):
        raise DiskFull("the disk is full: so it is; free some")

    spoiled(3, 5)
    keys = dict(train__steps=8, checkpoint__every=4, checkpoint__full_disk="go_on")
    with monkeypatch.context() as patch:
        patch.setattr(postmortem, "_write", full)
        result = train(MAE, tiny_dataset, tmp_path / "on", train__skip_nonfinite=1, **keys)
        assert result["step"] == 8
        assert "step 3, which was left out; its scans could not be written down (the disk is full" in (
            capfd.readouterr().err
        )
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_write_arrays", full)
        with pytest.raises(
            InputError, match="gradient_norm became nan at step 5.*could not be saved .the disk"
        ):
            spoiled(5)
            train(MAE, tiny_dataset, tmp_path / "run", **keys)
    assert (tmp_path / "run" / "nonfinite" / "5.json").exists()
