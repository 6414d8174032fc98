"""Run folders: config, checkpoints, metrics, exact resume."""

from pathlib import Path
from typing import Any

from vitmed.config import build
from vitmed.runs import folder


def load(run: Path | str, which: str = "last") -> dict[str, Any]:
    """The parameters of a run as nested dicts of NumPy arrays, verified, on any machine.

    Where the run keeps a moving average of its parameters (``config.optim.ema``), that average is what comes.

    Args:
        run: the run's folder (``--workdir`` of training).
        which: ``"last"`` or ``"best"`` checkpoint.

    Raises:
        InputError: ``run`` is no run, or has no such checkpoint.
        MachineError: every checkpoint is corrupt.
    """
    # Imported here, as JAX and orbax take 400 MB, which whoever only looks into run folders does without.
    from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints

    path = folder.locate(run)
    config = folder.config_of(path)
    with Checkpoints(
        path, build(CheckpointConfig, config.get("checkpoint", {}), "config.checkpoint")
    ) as checkpoints:
        return checkpoints.restore(which, part="ema" if config.optim.ema else "params")
