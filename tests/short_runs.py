"""Trainings of a few steps, for the tests of the loop: how they are asked for, compared and cut short."""

import contextlib
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from vitmed import config
from vitmed import train as training
from vitmed.job.config import Config
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
from vitmed.runs.late_metrics import LateMetrics

PROJECT = Path(__file__).resolve().parents[1]
MAE = str(PROJECT / "configs" / "pretrain_mae.py:tiny")
CLASSIFY = str(PROJECT / "configs" / "finetune_classify.py:tiny")


def flags_of(devices: int) -> str:
    """The tests' own flags of XLA, for a process that is to have another number of devices."""
    return re.sub(r"(device_count=)\d+", rf"\g<1>{devices}", os.environ["XLA_FLAGS"])


def settings(spec, dataset, **keys):
    keys = {"data.path": dataset, "train.steps": 4, "train.val_every": 0, "checkpoint.every": 2, **keys}
    return config.load(spec, {key.replace("__", "."): str(value) for key, value in keys.items()}, Config)


def train(spec, dataset, workdir, **keys):
    return training.train(settings(spec, dataset, **keys), workdir, quiet=True)


def state_of(run, step="last", part=None):
    """What a checkpoint of a run holds, or a part of it, as NumPy."""
    with Checkpoints(run, CheckpointConfig()) as checkpoints:
        return checkpoints.restore(step, part=part)


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
