"""Trainings handed to a real Slurm of two nodes: they find one another, are preempted, come back, and lose a node.

Every process is one of vitmed's own, as a user's would be; only the cluster is small.
"""

import contextlib
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slurm_here

from vitmed.runs import load as load_params

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = f"{PROJECT}/configs/pretrain_mae.py:tiny"
pytestmark = pytest.mark.slurm


class Submitted:
    """Jobs handed over by launch/slurm/submit.sh."""

    def __init__(self, slurm, folder: Path, dataset: Path):
        self.slurm, self.folder, self.dataset = slurm, folder, dataset

    def __call__(self, run: str, *words: str, options: tuple[str, ...] = (), steps: int = 20) -> str:
        done = subprocess.run(
            [
                "bash", str(PROJECT / "launch" / "slurm" / "submit.sh"), "--nodes=2", "--cpus-per-task=1", "--time=10",
                f"--logs={self.folder / 'logs'}", f"--python={sys.executable}", *options, CONFIG,
                "--workdir", str(self.folder / run), f"--config.data.path={self.dataset}",
                f"--config.train.steps={steps}", "--config.checkpoint.every=1000", *words,
            ],
            env=self.slurm.environment, cwd=PROJECT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(self, job: str) -> str:
        return "\n".join(file.read_text() for file in sorted((self.folder / "logs").glob(f"{job}*.log")))

    def rows(self, run: str) -> int:
        """Steps that the run has written down."""
        with contextlib.suppress(FileNotFoundError), open(self.folder / run / "metrics.csv") as file:
            return sum(1 for _ in csv.reader(file)) - 1
        return 0

    def finished(self, job: str) -> None:
        self.slurm.wait(lambda: self.slurm.ended(job), 400, f"job {job}: {self.log(job)[-2000:]}")
        assert self.slurm.job(job)["JobState"] == "COMPLETED", self.log(job)[-4000:]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running cluster, or a skip that says what it lacks."""
    if why := slurm_here.missing():
        pytest.skip(f"Slurm cannot be started here: {why}")
    with slurm_here.running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def submit(slurm, tmp_path, tiny_dataset):
    return Submitted(slurm, tmp_path, tiny_dataset)


def test_two_nodes_of_two_processes_train_one_model(submit, tmp_path):
    """Otherwise each node or process trains its own, or they never meet."""
    job = submit("run", "--json", options=("--tasks-per-node=2",))
    submit.finished(job)
    first, *others = (tmp_path / "logs" / f"{job}-{rank}.log" for rank in range(4))
    result = json.loads(first.read_text().strip().splitlines()[-1].partition(": ")[2])
    assert result["step"] == 20 and np.isfinite(result["metrics"]["loss"])
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["starts"][-1]["processes"] == 4
    for other in others:
        assert other.exists() and '"step"' not in other.read_text(), "only the first process speaks"


def test_preempted_it_saves_is_requeued_and_ends_as_if_nothing_had_been(submit, slurm, tmp_path):
    """A higher partition takes both nodes mid-run; the job comes back under its number, and no bit differs."""
    alone = submit("alone", steps=200)
    submit.finished(alone)
    job = submit("taken", steps=200)
    slurm.wait(lambda: submit.rows("taken") > 5, 300, "the run's first steps")
    slurm(
        "sbatch",
        "--parsable",
        "--partition=high",
        "--nodes=2",
        "--cpus-per-task=2",
        "--output=/dev/null",
        "--wrap=sleep 2",
    )
    submit.finished(job)
    assert slurm.job(job)["Restarts"] == "1", submit.log(job)
    assert "ended with code 75" in submit.log(job) and "going on from step" in submit.log(job)
    one, other = (_leaves(load_params(tmp_path / run)) for run in ("alone", "taken"))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_requeued_by_hand_it_ends_as_if_nothing_had_been(submit, slurm, tmp_path):
    """Somebody makes room with scontrol: the job is started again under its number, and no bit differs."""
    alone = submit("alone", steps=200)
    submit.finished(alone)
    job = submit("taken", "--config.checkpoint.every=5", steps=200)
    slurm.wait(lambda: submit.rows("taken") > 20, 300, "the run's first steps")
    slurm("scontrol", "requeue", job)
    submit.finished(job)
    assert slurm.job(job)["Restarts"] == "1" and "going on from step" in submit.log(job)
    one, other = (_leaves(load_params(tmp_path / run)) for run in ("alone", "taken"))
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_lost_node_ends_the_step_and_the_job_comes_back(submit, slurm, tmp_path):
    """One process is killed outright: the other does not hang, and the job is started again."""
    job = submit("run", "--config.checkpoint.every=5", steps=200)
    slurm.wait(lambda: submit.rows("run") > 20, 300, "the run's first steps")
    slurm("scancel", "--signal=KILL", f"{job}.0")
    submit.finished(job)
    assert slurm.job(job)["Restarts"] == "1"
    assert submit.rows("run") >= 200 and "going on from step" in submit.log(job)


def test_a_node_that_is_lost_with_its_daemon_ends_the_job_which_comes_back(submit, slurm, tmp_path):
    """A power cut: otherwise the other node waits for ever, or what the lost one had begun is never taken up."""
    job = submit("run", "--config.checkpoint.every=5", steps=200)
    slurm.wait(lambda: submit.rows("run") > 20, 300, "the run's first steps")
    slurm.lose(slurm_here.NODES[1])
    slurm.wait(lambda: slurm.job(job)["JobState"] != "RUNNING", 150, f"the end of job {job} as it was")
    slurm.start(slurm_here.NODES[1])
    submit.finished(job)
    assert int(slurm.job(job)["Restarts"]) >= 1
    assert submit.rows("run") >= 200 and "going on from step" in submit.log(job)


def test_bad_input_is_not_queued_again(submit, slurm):
    job = submit("run", "--config.train.lr=1")
    slurm.wait(lambda: slurm.ended(job), 200, f"job {job}")
    assert slurm.job(job)["JobState"] == "FAILED" and slurm.job(job)["Restarts"] == "0"
    assert "config.train.lr" in submit.log(job)


def test_an_array_fills_in_its_numbers(submit, slurm, tmp_path):
    """Otherwise every draw of a study is the same draw, or writes over the others."""
    job = submit("run-%a", "--config.train.seed=%a", options=("--array=0-1", "--nodes=1"))
    slurm.wait(lambda: not slurm("squeue", "-h", "-j", job, check=False), 300, f"array {job}")
    seeds = [
        json.loads((tmp_path / f"run-{n}" / "config.json").read_text())["config"]["train"]["seed"]
        for n in (0, 1)
    ]
    assert seeds == [0, 1], submit.log(job)


def test_doctor_looks_at_both_nodes(submit, slurm, tmp_path):
    """Shared folder, clocks and a sum over both processes, in one report."""
    done = subprocess.run(
        [
            "bash", str(PROJECT / "launch" / "slurm" / "submit.sh"), "--nodes=2", "--cpus-per-task=1", "--wait",
            f"--logs={tmp_path / 'logs'}", f"--python={sys.executable}", "--", "doctor", "--workdir", str(tmp_path), "--json",
        ],
        env=slurm.environment, cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    said = submit.log(done.stdout.strip())
    assert done.returncode == 0, said
    assert "one folder for all 2 processes" in said and "clocks differ by" in said and "SLURM_JOB_ID" in said


def _leaves(tree: dict, path: str = "") -> dict[str, np.ndarray]:
    made = {}
    for name, value in tree.items():
        made |= _leaves(value, f"{path}/{name}") if isinstance(value, dict) else {f"{path}/{name}": value}
    return made


def test_the_cluster_is_what_it_says(slurm):
    assert slurm("sinfo", "-h", "-p", "low", "-o", "%D") == str(len(slurm_here.NODES))
