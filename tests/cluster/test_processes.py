"""Several processes as one training: the same results, each its own rows, and nobody left waiting."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from short_runs import MAE, PROJECT, cut_after, flags_of, same, train

import vitmed.runs
from vitmed.cli.main import main
from vitmed.data import order
from vitmed.parallel import line
from vitmed.runs import metrics as run_metrics

KEYS = {
    "model.decoder_dim": 32,
    "train.batch_size": 16,
    "train.log_every": 1,
    "train.val_every": 0,
    "checkpoint.every": 5,
    "checkpoint.keep": 100,
    "optim.lr": 1e-4,
}

RECORDER = """#!{python}
# Stands in for Python: writes down which examples a process reads in training, then goes on as vitmed does.
import os, sys
if sys.argv[1] != "-m":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
sys.path.insert(0, os.getcwd())
from vitmed.data.dataset import Dataset
from vitmed.cli.main import main
honest = Dataset.read
def read(self, split, indices, *rest):
    with open({log!r} + os.environ["VITMED_PROCESS"], "a") as file:
        print(*indices, file=file)
    return honest(self, split, indices, *rest)
Dataset.read = read
sys.exit(main(sys.argv[3:]))
"""


def wait_for(run, step, launched):
    """Until there is a checkpoint of this step or a later one."""
    for _ in range(6000):  # five minutes
        found = [int(p.name) for p in (run / "checkpoints").glob("*")]
        if launched.process.poll() is not None or max(found, default=0) >= step:
            return max(found, default=0)
        time.sleep(0.05)


def curves_are_close(a, b):
    one, other = (run_metrics.read(run)["loss"] for run in (a, b))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_allclose(one[1], other[1], rtol=1e-3)
    for x, y in zip(*(jax.tree.leaves(vitmed.runs.load(run)) for run in (a, b)), strict=True):
        np.testing.assert_allclose(x, y, atol=5e-4)


def test_two_processes_are_one_each_reads_its_own_rows_and_a_kill_changes_no_bit(
    tiny_dataset, tmp_path, launch
):
    """The first speaks and writes; killed whole, the run ends with the bits of one left alone."""
    keys = {**KEYS, "train.steps": 10, "data.workers": 0}
    recorder = tmp_path / "recorder"
    recorder.write_text(RECORDER.format(python=sys.executable, log=f"{tmp_path}/rows"))
    recorder.chmod(0o755)
    both = launch(2, tiny_dataset, tmp_path / "two", {"VITMED_PYTHON": str(recorder)}, **keys)
    told = both.result()
    assert told["step"] == 10 and both.log(1) == "" or "Gloo" in both.log(1), both.log(1)
    train(MAE, tiny_dataset, tmp_path / "one", **keys)
    curves_are_close(tmp_path / "one", tmp_path / "two")
    assert told["metrics"]["loss"] == pytest.approx(
        run_metrics.read(tmp_path / "one")["loss"][1][-1], rel=1e-4
    )
    read = [[line.split() for line in (tmp_path / f"rows{i}").read_text().splitlines()] for i in (0, 1)]
    # A line of one scan was read to see what they are like.
    rows = [[one for one in lines if len(one) == 8] for lines in read]
    for step in range(10):
        batch = [str(k) for k in order.indices(0, step, 16, 36)]
        assert (rows[0][step], rows[1][step]) == (batch[:8], batch[8:])

    cut = launch(2, tiny_dataset, tmp_path / "cut", **{**keys, "train.steps": 10, "checkpoint.every": 1})
    wait_for(tmp_path / "cut", 3, cut)
    os.kill(cut.pid(0), signal.SIGKILL)
    code, _, err = cut.end()
    assert code in (0, 137), err
    again = launch(2, tiny_dataset, tmp_path / "cut", **{**keys, "train.steps": 10, "checkpoint.every": 1})
    assert again.result()["resumed_from"] >= 3
    assert same(vitmed.runs.load(tmp_path / "two"), vitmed.runs.load(tmp_path / "cut"))


def test_a_step_that_is_not_finite_ends_both_alike_and_is_kept_once(tiny_dataset, tmp_path, launch):
    """Else one waits for the other for ever, or the state before it, which no process holds whole, is not saved."""
    keys = {**KEYS, "train.steps": 8, "checkpoint.every": 100, "optim.lr": 1e30, "optim.clip": 0}
    keys |= {"parallel.rules": "fsdp", "parallel.mesh": "fsdp=-1"}
    run = tmp_path / "run"
    both = launch(2, tiny_dataset, run, **keys)
    code, _, err = both.end()
    assert code == 2, err
    told = json.loads(next((run / "nonfinite").iterdir()).read_text())
    said = f"at step {told['step']}, so training stopped; the state before it is checkpoint {told['step'] - 1}"
    assert said in err and said in both.log(1)
    assert "nan" in told["gradient_norms"].values() and len(told["scans"]["main"]) == 16
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(vitmed.runs.load(run)))
    assert len(list((run / "nonfinite").iterdir())) == len(list((run / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_one_two_four_and_one_process_go_on_as_one(tiny_dataset, tmp_path, launch, monkeypatch):
    """Another mesh each time. Two are told to stop (75, by one signal to one of them), one of four is killed (3)."""
    keys = {**KEYS, "train.steps": 100}
    train(MAE, tiny_dataset, tmp_path / "alone", **keys)
    run = tmp_path / "run"
    with cut_after(7, monkeypatch):
        train(MAE, tiny_dataset, run, **keys)

    mesh = {"parallel.rules": "fsdp", "parallel.mesh": "data=2,fsdp=2"}
    two = launch(2, tiny_dataset, run, **keys, **mesh)
    wait_for(run, 15, two)
    os.kill(two.pid(1), signal.SIGTERM)
    code, _, err = two.end()
    assert code == 75 and "saved; the same command goes on" in err, err
    assert "going on from step 5" in err and "rules fsdp" in err and "stopped at step" in two.log(1)

    reached = wait_for(run, 0, two)
    mesh = {"parallel.rules": "fsdp+tensor", "parallel.mesh": "fsdp=2,tensor=4"}
    four = launch(4, tiny_dataset, run, **keys, **mesh)
    wait_for(run, reached + 1, four)
    assert four.process.poll() is None, four.end()[2]
    killed = four.pid(2)
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    code, _, err = four.end(60)
    assert code == 3 and time.monotonic() - began < 60, err
    for said in (err, four.log(1), four.log(3)):
        assert f"process 2 of 4 ({os.uname().nodename}, pid {killed}) was lost" in said
    assert f"going on from step {reached}" in err

    assert train(MAE, tiny_dataset, run, **keys)["resumed_from"] > reached
    curves_are_close(tmp_path / "alone", run)


def pair(command, cwd, devices=1, **environment):
    """Two processes of ``command(index)`` that find one another, each in a folder and with devices of its own."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
    shared = {"VITMED_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": address, "PYTHONPATH": str(PROJECT)}
    shared |= {"XLA_FLAGS": flags_of(devices), **environment}
    made = []
    for index in (0, 1):
        (cwd / str(index)).mkdir()
        own = {"cwd": cwd / str(index), "env": {**os.environ, **shared, "VITMED_PROCESS": str(index)}}
        made.append(
            subprocess.Popen([sys.executable, *command(index)], stderr=subprocess.PIPE, text=True, **own)
        )
    return made


GATHERING = """
import sys
import numpy as np
from vitmed.parallel import processes
processes.start()
from vitmed.parallel.engine import ParallelConfig, engine
made = engine(ParallelConfig(mesh="data=2,fsdp=2", rules="fsdp"), 4)
state = made.put_state({"kernel" + str(i): np.full((256, 64), i, np.float32) for i in range(40)})
for _ in range(20):
    whole = made.to_host(state, everywhere=False)
print(whole["kernel39"], file=sys.stderr)
sys.exit(processes.leave(0))
"""


def test_process_1_gathers_no_faster_than_process_0(tmp_path):
    """Otherwise all arrays are gathered there at once; with as many threads as cores both wait for ever."""
    # With as many threads as devices, which a process of several would not have by itself.
    first, second = pair(lambda index: ("-c", GATHERING), tmp_path, devices=2, NPROC="2")
    told = [process.communicate(timeout=120)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), told
    assert "39." in told[0] and "None" in told[1]


ROOM = """
import pathlib, sys
import jax
from vitmed.parallel import processes
processes.start()
jax.block_until_ready(jax.numpy.ones((512, 512)) @ jax.numpy.ones((512, 512)))
threads = [task.read_text() for task in pathlib.Path("/proc/self/task").glob("*/comm")]
print("threads", sum("XLAEigen" in name for name in threads), file=sys.stderr)
sys.exit(processes.leave(0))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at threads as Linux tells of them")
def test_a_process_of_several_devices_has_four_threads_for_each(tmp_path):
    """With as many threads as cores, the sums of one that runs ahead may hold all of them: a deadlock within a step or
    a thousand, so that a test of training itself finds it by chance (seen with two devices on two cores)."""
    both = pair(lambda _: ("-c", ROOM), tmp_path, devices=2)
    told = [process.communicate(timeout=120)[1] for process in both]
    found = [int(re.search(r"threads (\d+)", text)[1]) for text in told]
    assert min(found) >= 8, found


ENDING = """
import sys, threading, time
from vitmed.parallel import processes
processes.PARTING = 5.0
processes.start()
threading.Thread(target=time.sleep, args=(600,)).start()  # such as Python waits for at its end
if {hangs} and processes.index() == 1:
    time.sleep(600)
sys.exit(processes.leave(0))
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_no_end_is_held_up(tmp_path, hangs):
    """Neither by a library's thread, nor by a process that hangs: what there is to save is saved by then."""
    first, second = pair(lambda index: ("-c", ENDING.format(hangs=hangs)), tmp_path)
    err = first.communicate(timeout=120)[1]
    assert first.returncode == 0, err
    assert ("all is saved, but process 1 of 2" in err) == hangs
    if hangs:
        second.kill()
    assert (second.wait(60) == 0) != hangs
    second.stderr.close()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--config.optim.lr=0.5",),
            "has other config than process 0 .*optim.lr is 0.5 there and 0.0015 here",
        ),
        ((), "--workdir run is not shared: process 1 of 2 .* does not see"),
    ],
)
def test_processes_that_were_not_started_alike_are_named(tiny_dataset, tmp_path, flags, words):
    """Another config; the same folder's name on disks of their own. Both say so and end."""
    common = f"-m vitmed train --config {MAE} --workdir run --config.data.path={tiny_dataset}".split()
    common.append("--config.train.batch_size=16")
    for process in pair(lambda index: (*common, *(flags if index else ())), tmp_path):
        err = process.communicate(timeout=120)[1]
        assert process.returncode == 2 and re.search(words, err), err


def test_a_process_0_that_cannot_be_reached(tiny_dataset, tmp_path, monkeypatch, capsys):
    """Exit code 3 within a minute, with what was tried; and other verbs are not run twice over."""
    monkeypatch.setattr(line, "MEET", 0.5)
    for name, value in {"PROCESSES": "2", "PROCESS": "1"}.items():
        monkeypatch.setenv(f"VITMED_{name}", value)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:9")
    assert (
        main(
            [
                "train",
                "--config",
                MAE,
                "--workdir",
                str(tmp_path / "run"),
                f"--config.data.path={tiny_dataset}",
            ]
        )
        == 3
    )
    assert "process 1 could not reach process 0 at 127.0.0.1:9: tried" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "evaluate runs as one process" in capsys.readouterr().err
