"""Kills a tiny training by SIGKILL at random moments, again and again, and counts what that did to it.

  python tests/cluster/kill_many.py DATASET FOLDER [KILLS [SEED]]        (200 by default: about half an hour on two cores)

Each run is killed until it ends by itself, then a new one begins. Of every kill all checkpoints must be whole, and of
every run each array, metric and moment of the optimiser must have the bits of a run that was left alone.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from vitmed.runs import manifest  # noqa: E402
from vitmed.runs import metrics as run_metrics  # noqa: E402
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints  # noqa: E402

KEYS = {
    "train.steps": 60,
    "train.val_every": 0,
    "checkpoint.every": 3,
    "checkpoint.keep": 2,
    "parallel.transfers": "disallow",
}


def begin(dataset: Path, run: Path) -> subprocess.Popen:
    flags = [f"--config.{key}={value}" for key, value in {"data.path": dataset, **KEYS}.items()]
    command = [
        sys.executable,
        "-m",
        "vitmed",
        "train",
        "--config",
        "configs/pretrain_mae.py:tiny",
        "--workdir",
        str(run),
    ]
    return subprocess.Popen([*command, *flags], cwd=PROJECT, stderr=subprocess.DEVNULL)


def state_of(run: Path) -> list[np.ndarray]:
    with Checkpoints(run, CheckpointConfig()) as checkpoints:
        state = jax.tree.leaves(checkpoints.restore())
    return [*state, *run_metrics.read(run)["loss"]]


def kill(dataset: Path, folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """What came of it: ``kills``, ``runs`` that ended, ``corrupt`` checkpoints and ``differing`` arrays."""
    draw, found = random.Random(seed), {"kills": 0, "runs": 0, "corrupt": 0, "differing": 0}
    began = time.monotonic()
    if begin(dataset, folder / "alone").wait():
        raise SystemExit("the run that is left alone fails")
    took, wanted = time.monotonic() - began, state_of(folder / "alone")
    while found["kills"] < kills or not found["runs"]:
        run = Path(tempfile.mkdtemp(dir=folder)) / "run"
        while True:
            process = begin(dataset, run)
            if found["kills"] < kills:
                try:
                    process.wait(draw.uniform(0.3, 1.1) * took)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    found["kills"] += 1
            if process.wait() not in (0, -signal.SIGKILL):
                raise SystemExit(f"{run} does not go on: exit code {process.returncode}")
            found["corrupt"] += sum(
                manifest.fault(path) is not None for path in (run / "checkpoints").glob("*")
            )
            if process.returncode == 0:
                break
        found["runs"] += 1
        found["differing"] += sum(
            not np.array_equal(a, b) for a, b in zip(wanted, state_of(run), strict=True)
        )
        print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    dataset, folder = (Path(word).resolve() for word in sys.argv[1:3])
    folder.mkdir(parents=True, exist_ok=True)
    told = kill(dataset, folder, *(int(word) for word in (sys.argv[3:5] or ["200"])))
    sys.exit(1 if told["corrupt"] or told["differing"] else 0)
