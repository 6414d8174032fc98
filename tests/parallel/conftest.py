"""Trainings without a run folder: the job and its steps alone, for what the devices share."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from short_runs import PROJECT, settings

from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.models.vit import VARIANTS, Variant

SPECS = {
    "mae": "pretrain_mae",
    "simmim": "pretrain_simmim",
    "ijepa": "pretrain_ijepa",
    "self_distil": "pretrain_self_distil",
    "supervised": "finetune_classify",
    "semi_masked": "semi_masked",
    "semi_teacher": "semi_teacher",
    "segmentation": "finetune_segment",
    "semi_teacher_masks": "semi_teacher_segment",
}
OWN = {
    "supervised": {"objective.mixup": 0.2},
    "semi_masked": {"data.labels": 16},
    "semi_teacher": {"data.labels": 16, "objective.threshold": 0.5},
    "segmentation": {"model.patch_size": (4, 4)},
    "semi_teacher_masks": {"model.patch_size": (4, 4), "data.labels": 6, "objective.threshold": 0.5},
}


@pytest.fixture
def steps(monkeypatch):
    """``steps(objective, dataset, count=20, **keys)``: a tiny training, every device's part of it watched.

    Gives ``losses`` of the steps, the ``state`` as it lies on the devices, its ``host`` copy and the ``job``. No array
    travels without being asked to.
    """
    monkeypatch.setitem(VARIANTS, "nano", Variant(32, 2, 2, 64))

    def run(objective, dataset, count=20, **keys):
        keys = {
            "train.steps": 20,
            "train.batch_size": 16,
            "model.scan": True,
            "optim.lr": 1e-3,
            # Else Adam makes a step of the full rate from a slope that is nothing but rounding, and no two ways of
            # adding up the same numbers agree.
            "optim.eps": 1e-5,
            "data.workers": 0,
            **OWN.get(objective, {}),
            **keys,
        }
        spec = str(PROJECT / "configs" / f"{SPECS[objective]}.py:tiny")
        job = Job(check(settings(spec, dataset, **keys)))
        state, losses = job.engine.init(job.fresh_state, job.seed), []
        batches = job.batches(0)
        with jax.transfer_guard("disallow"):
            for _ in range(count):
                state, metrics = job.update(state, job.engine.put_batch(next(batches)))
                losses.append({name: float(x) for name, x in job.engine.to_host(metrics).items()})
        return SimpleNamespace(losses=losses, state=state, host=job.engine.to_host(state), job=job)

    return run


@pytest.fixture
def alike():
    """Asserts that two trainings differ by rounding alone."""

    def check(one, other):
        for number, (a, b) in enumerate(zip(one.losses, other.losses, strict=True)):
            for name in a:
                assert (
                    b[name] == np.float32(a[name]) or abs(a[name] - b[name]) <= 2e-3 * abs(a[name]) + 2e-4
                ), f"{name} of step {number}: {a[name]} and {b[name]}"
        for part in ("params", "memory", "ema"):
            for a, b in zip(*(jax.tree.leaves(x.host[part]) for x in (one, other)), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-4, err_msg=part)

    return check
