"""Where a run stands: at its last intact checkpoint, or at its beginning."""

from pathlib import Path
from typing import Any

import jax

from vitmed.job.job import Job
from vitmed.parallel import processes
from vitmed.runs import folder, manifest
from vitmed.runs.checkpoint import Checkpoints
from vitmed.scans.recipe import Recipe


def begun(run: Path) -> Recipe | None:
    """The recipe of a run that has a checkpoint to go on from; None where none has been made."""

    def read() -> str | None:
        known = manifest.steps(run) and (run / "config.json").exists()
        return folder.recipe_of(run).to_json() if known else None

    text = processes.first(read)
    return None if text is None else Recipe.from_text(text, run / "recipe.json")


def made(run: Path) -> dict | None:
    """The datasheet of a run that has been made, whether it has a checkpoint or not; None where there is none yet."""
    return processes.first(lambda: folder.datasheet_of(run) if (run / "config.json").exists() else None)


def begin(job: Job, checkpoints: Checkpoints) -> tuple[Any, int]:
    """The state that the run stands at, on the devices, and its step."""
    if processes.first(checkpoints.latest) is not None:
        state = _restore(checkpoints, jax.eval_shape(job.fresh_state, job.seed))
        return job.engine.put_state(state), int(state["step"])
    state = job.engine.init(job.fresh_state, job.seed)
    if job.config.init_from:
        state = job.engine.put_state(job.with_former(job.engine.to_host(state)))
    return state, 0


def _restore(checkpoints: Checkpoints, like: Any) -> dict:
    """The last checkpoint: process 0 says which is intact, and every process reads that one."""
    own = []

    def read() -> int:
        own.append(checkpoints.restore("last", like=like))
        return int(own[0]["step"])

    step = processes.first(read)
    return own[0] if own else checkpoints.restore(step, like=like)
