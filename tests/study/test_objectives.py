"""What configs/study/objectives.py says of itself."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vitmed import config as configs
from vitmed.job.config import check
from vitmed.job.job import Job

FILE = Path(__file__).resolve().parents[2] / "configs" / "study" / "objectives.py"


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """Sixteen grey images of 28 x 28, as PneumoniaMNIST has them."""
    from vitmed.data.ingest import ingest

    folder = tmp_path_factory.mktemp("grey")
    draw = np.random.Generator(np.random.Philox(key=3))
    for i in range(16):
        np.save(folder / f"{i}.npy", draw.integers(0, 255, (28, 28)).astype(np.uint8))
    ingest(folder, folder / "data", modality="xray", split="train", workers=1)
    return folder / "data"


def test_pretrainings_take_equal_compute(grey):
    """Otherwise the objective that was trained for longest wins."""
    study, operations = configs.load(str(FILE)), {}
    for name, own in study.pretrains.items():
        own.data.update({"path": str(grey), "workers": 0})
        job = Job(check(own))
        state = jax.eval_shape(job.fresh_state, job.seed)
        step = job.update.lower(state, next(iter(job.batches(0))))
        operations[name] = job.steps * step.cost_analysis()["flops"]
    assert len(operations) == 4
    assert max(operations.values()) < 1.03 * min(operations.values())
