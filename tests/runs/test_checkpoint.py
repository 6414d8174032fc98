import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed import durable
from vitmed.errors import DiskFull, InputError, MachineError
from vitmed.runs import manifest
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
from vitmed.runs.direction import lower_is_better


@pytest.fixture
def saved(tmp_path, state):
    """A run with checkpoints 3 and 6, whose states differ."""
    with Checkpoints(tmp_path, CheckpointConfig(keep=5)) as checkpoints:
        checkpoints.save(3, state)
        checkpoints.save(6, state | {"step": jnp.int32(6)})
        checkpoints.wait()
        yield checkpoints


def test_a_state_comes_back_bit_by_bit(saved, state, same):
    """Else a resumed run is another run."""
    same(saved.restore(3, like=state), state)
    same(saved.restore(3, like=jax.eval_shape(lambda: state)), state)


def test_without_like_it_is_nested_dicts_of_numpy(saved, state, same):
    """Else parameters cannot be read without the code that made them."""
    found = saved.restore()
    same(found["params"], state["params"])
    assert found["ema"] == {} and int(found["step"]) == 6
    same(saved.restore(part="params"), state["params"])


def test_a_state_that_does_not_fit_is_refused_by_name(saved, state):
    """Else weights of another shape are put to work, or the message does not help."""
    like = state | {"memory": {"centre": jnp.zeros(5)}}
    with pytest.raises(InputError, match=r"memory/centre is float32\[4\] in it and float32\[5\] here"):
        saved.restore(like=like)


def test_a_donated_buffer_is_safe(tmp_path, state, same):
    """Else the step after a save writes into the checkpoint."""
    kept = jax.tree.map(np.array, state)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(5):
            state = step(state)
        same(checkpoints.restore(like=kept), kept)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "seal"])
def test_a_damaged_checkpoint_is_named_and_the_former_one_used(saved, damage, capsys):
    """Else weights with a flipped byte are used without a word, as orbax alone would."""
    newest = saved.run / "checkpoints" / "6"
    data = max((f for f in newest.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    if damage == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "remove":
        data.unlink()
    else:
        data = newest / "manifest.json"
        data.write_text(data.read_text().replace('"step": 6', '"step": 8'))
    assert int(saved.restore()["step"]) == 3
    warning = capsys.readouterr().err
    assert str(data) in warning and "checkpoint 3 is used instead" in warning
    assert saved.steps() == [3] and (saved.run / "corrupt" / "6").is_dir()


def test_every_byte_is_watched(saved):
    """Else some file of a checkpoint can change unseen."""
    path = saved.run / "checkpoints" / "6"
    for file in (f for f in path.rglob("*") if f.is_file() and f.name != "manifest.json"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 128]))
        assert str(file) in manifest.fault(path)
        file.write_bytes(content)
    assert manifest.fault(path) is None


def test_no_intact_checkpoint_is_a_machine_error_that_moves_nothing(saved):
    """Else the next start finds no checkpoint and silently begins again."""
    for step in (3, 6):
        (saved.run / "checkpoints" / str(step) / "index.json").write_text("{}")
    with pytest.raises(MachineError, match=r"no intact checkpoint.*index\.json has 2 bytes"):
        saved.restore()
    assert saved.steps() == [3, 6]


def test_an_exact_step_is_never_replaced_by_another(saved):
    """Else somebody who asked for step 6 gets step 3."""
    (saved.run / "checkpoints" / "6" / "index.json").unlink()
    with pytest.raises(MachineError):
        saved.restore(6)
    with pytest.raises(InputError, match="has no checkpoint 5; it has 3, 6"):
        saved.restore(5)


@pytest.mark.parametrize("best", ["val/loss", "val/rmse", "val/hd95/liver", "val/cross_entropy"])
def test_the_last_and_the_best_are_kept(tmp_path, best):
    """Else the model chosen on validation is gone when training ends, or the worst one stays in its place."""
    config = CheckpointConfig(keep=2, best=best)
    with Checkpoints(tmp_path, config) as checkpoints:
        for step, loss in enumerate([5.0, 2.0, float("nan"), 4.0, 3.0], start=1):
            checkpoints.save(step, {"step": np.int32(step)}, {best: loss} if step != 5 else {})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
        assert (checkpoints.best(), checkpoints.latest()) == (2, 5)
        assert int(checkpoints.restore("best")["step"]) == 2
        assert not list((tmp_path / ".saving").iterdir())


def test_milestones_stay(tmp_path):
    """Else what a later study wants of the middle of a training is gone."""
    with Checkpoints(tmp_path, CheckpointConfig(every=1, keep=1, milestones=3)) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, {"step": np.int32(step)})
        checkpoints.wait()
        assert checkpoints.steps() == [3, 6, 8]
    with pytest.raises(ValueError, match="milestones is 30; .* a multiple of config.checkpoint.every"):
        CheckpointConfig(every=20, milestones=30)


def test_best_without_its_metric_says_which_there_are(saved):
    """Else a misspelt metric name quietly means the last checkpoint."""
    saved.save(9, {"step": np.int32(9)}, {"val/auroc": 0.5})
    saved.wait()
    with pytest.raises(InputError, match="checkpoint.best is None and the metrics saved are val/auroc"):
        saved.restore("best")


def test_direction_of_better():
    """Else the worst model is kept as the best."""
    for name in ("loss", "ece", "patch_loss", "rank_mae", "rmse/age", "hd95/liver", "masked"):
        assert lower_is_better(f"val/{name}") and lower_is_better(name), name
    for name in ("auroc", "dice", "auroc/hearing_loss", "nsd/masked"):
        assert not lower_is_better(f"val/{name}") and not lower_is_better(name), name


def test_stale_staging_is_swept_and_checkpoints_are_not_touched(saved):
    """Else what a killed process left fills the disk, or sweeping it costs a checkpoint."""
    stale = saved.run / ".saving" / "4" / "state"
    stale.mkdir(parents=True)
    (stale / "half").write_text("half")
    before = {path: path.stat().st_mtime_ns for path in (saved.run / "checkpoints").rglob("*")}
    with Checkpoints(saved.run, CheckpointConfig(keep=5)) as again:
        assert again.latest() == 6 and stale.exists()  # reading a run sweeps nothing: it may be in training
        again.save(9, {"step": np.int32(9)}, wait=True)
    assert not stale.exists()
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_save_that_fails_in_the_background_surfaces_and_leaves_nothing(saved, monkeypatch):
    """Else training goes on for days believing that it is saved."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync", full)
        saved.save(9, {"step": np.int32(9)})
        with pytest.raises(MachineError, match=rf"disk is full: checkpoint 9 does not fit in {saved.run}"):
            saved.save(12, {"step": np.int32(12)})
    assert saved.steps() == [3, 6] and not list((saved.run / ".saving").iterdir())
    saved.save(12, {"step": np.int32(12)}, wait=True)
    assert saved.latest() == 12


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root"
)
def test_a_disk_that_is_full_ends_with_one_sentence(tmp_path, capfd):
    """Else a page of traceback hides that the disk is full, or half a checkpoint is left behind."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(disk)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        state = {"params": {str(i): np.random.default_rng(i).normal(size=250_000) for i in range(2)}}
        with Checkpoints(disk, CheckpointConfig()) as checkpoints:
            checkpoints.save(1, state, wait=True)
            with pytest.raises(MachineError, match="the disk is full: checkpoint 2") as caught:
                checkpoints.save(2, state, wait=True)
            assert caught.value.exit_code == 3
            assert checkpoints.steps() == [1] and manifest.fault(disk / "checkpoints" / "1") is None
            assert not list((disk / ".saving").iterdir())
        assert "Traceback" not in capfd.readouterr().err
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_on_request_a_training_goes_on_over_a_full_disk(tmp_path, monkeypatch, capfd):
    """Else a night is lost for one checkpoint that would have found room an hour later."""
    honest, full = Checkpoints._write_arrays, {2, 3}

    def write(self, path, arrays):
        if int(path.parent.name) in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(self, path, arrays)

    monkeypatch.setattr(Checkpoints, "_write_arrays", write)
    state = {"params": np.arange(5.0)}
    patient = CheckpointConfig(full_disk="go_on", keep=9)
    with Checkpoints(tmp_path / "on", patient) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, state)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4] and not list((tmp_path / "on" / ".saving").iterdir())
    said = capfd.readouterr().err
    assert said.count("; training goes on without it") == 2 and "checkpoint 3 does not fit in" in said

    full.add(5)
    with pytest.raises(DiskFull, match="checkpoint 5"), Checkpoints(tmp_path / "on", patient) as checkpoints:
        checkpoints.save(5, state)  # the last one: what was trained would be lost
    with (
        pytest.raises(DiskFull, match="checkpoint 2"),
        Checkpoints(tmp_path / "stop", CheckpointConfig()) as c,
    ):
        c.save(2, state)
        while True:  # it is known without another save
            c.settle()


SAVER = """
import sys, numpy as np
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
with Checkpoints(sys.argv[1], CheckpointConfig(keep=2, best="loss")) as checkpoints:
    first = (checkpoints.latest() or 0) + 1
    for step in range(first, first + 10_000):
        state = {"params": {str(i): np.full((300, 20), step, np.float32) for i in range(30)}}
        checkpoints.save(step, state, {"loss": 1 / (1 + step % 7)})
"""


def test_a_process_killed_while_saving_leaves_only_whole_checkpoints(tmp_path):
    """Else a run killed at the wrong moment cannot go on."""
    random = np.random.default_rng(0)
    for _ in range(3):
        before = Checkpoints(tmp_path, CheckpointConfig()).latest() or 0
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], cwd=Path(__file__).parents[2]
        )
        deadline = time.monotonic() + 60
        watch = Checkpoints(tmp_path, CheckpointConfig())
        while (watch.latest() or 0) <= before + 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        steps = watch.steps()
        assert steps and steps[-1] > before
        for step in steps:
            assert manifest.fault(tmp_path / "checkpoints" / str(step)) is None
            assert {leaf.flat[0] for leaf in jax.tree.leaves(watch.restore(step))} == {float(step)}


def test_the_manifest_says_what_is_in_a_checkpoint(saved):
    """Else a person years later cannot tell what the folder holds."""
    said = json.loads((saved.run / "checkpoints" / "6" / "manifest.json").read_text())
    assert (said["format"], said["step"], said["data_position"]) == (1, 6, 6)


@pytest.mark.parametrize("key", ["every", "keep"])
def test_a_config_without_sense_is_refused(key):
    """Else every step saves, or every checkpoint is deleted."""
    with pytest.raises(ValueError, match=f"{key} is 0"):
        CheckpointConfig(**{key: 0})
