"""Run folders: config, checkpoints, metrics, exact resume."""

from pathlib import Path
from typing import Any

from vitmed.config import build
from vitmed.runs import folder, units


def load(run: Path | str, which: str = "last") -> dict[str, Any]:
    """The parameters of a run as nested dicts of NumPy arrays, verified, on any machine.

    Where the run keeps a slow average of its parameters, that average is what comes (``averaged``). Weights that were
    trained by a low-rank change (``config.finetune``) come as plain ones, with the change added, and a head that learned
    numbers in standard deviations as one that gives them in the labels' unit (``vitmed.runs.units``).

    Args:
        run: the run's folder (``--workdir`` of training).
        which: ``"last"`` or ``"best"`` checkpoint.

    Raises:
        InputError: ``run`` is no run, or has no such checkpoint.
        MachineError: every checkpoint is corrupt.
    """
    path = folder.locate(run)
    return units.in_units(_given(path, which), units.scale_of(folder.datasheet_of(path)))


def _given(path: Path, which: str) -> dict[str, Any]:
    """``load``'s parameters, as they were trained."""
    # Imported here, as JAX and orbax take 400 MB, which whoever only looks into run folders does without.
    import jax
    import numpy as np

    from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
    from vitmed.runs.finetune import FinetuneConfig

    config = folder.config_of(path)
    tuned = build(FinetuneConfig, config.get("finetune", {}), "config.finetune")
    with Checkpoints(
        path, build(CheckpointConfig, config.get("checkpoint", {}), "config.checkpoint")
    ) as checkpoints:
        if config.optim.ema and tuned.whole:
            return checkpoints.restore(which, part="ema")
        parts = checkpoints.restore(which, part=("params", "memory", "ema"))
    params = parts["params"]
    if config.optim.ema:  # kept of what is trained alone
        params = tuned.split(params).joined(params, parts["ema"])
    if not tuned.whole:
        params = jax.tree.map(np.asarray, tuned.plain(params))
    return averaged(params, parts.get("memory", {}))


def step_of(run: Path | str, which: str = "last") -> int | None:
    """The step of a run's ``"last"`` or ``"best"`` checkpoint, None where it has none. What ``load`` found corrupt is gone."""
    from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints

    path = folder.locate(run)
    config = build(CheckpointConfig, folder.config_of(path).get("checkpoint", {}), "config.checkpoint")
    with Checkpoints(path, config) as checkpoints:
        return checkpoints.best() if which == "best" else checkpoints.latest()


def averaged(params: dict[str, Any], memory: dict[str, Any]) -> dict[str, Any]:
    """The parameters by which a run without ``config.optim.ema`` is used and judged.

    An objective's teacher is the slow average of its student and stands in for it, as in the papers of those that
    have one; what it does not average stays as it is.
    """
    teacher = memory.get("teacher", {})
    return {name: teacher.get(name, part) for name, part in params.items()}
