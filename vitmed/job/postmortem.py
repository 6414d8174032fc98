"""What is kept of a step whose loss or gradient is not finite, for people who look for the scan or the layer that did it.

The host learns a step's loss while the device is at the next one, so the state that a step failed on is gone by then. But a
state is a function of seed and step: it is made once more from the last checkpoint, and becomes one itself.
"""

import math
import sys
from pathlib import Path
from typing import Any

from vitmed import durable
from vitmed.errors import MachineError
from vitmed.job.begin import begin
from vitmed.job.job import Job
from vitmed.parallel import processes
from vitmed.progress import Bar
from vitmed.runs.checkpoint import Checkpoints
from vitmed.runs.late_metrics import NotFinite

FOLDER = "nonfinite"


def left_out(job: Job, fault: NotFinite, run: Path) -> None:
    """Says that a step that is not finite was left out, and keeps which scans it was made of."""
    told = _tell(job, fault, run)
    if processes.index() == 0:
        print(f"warning: {fault}, which was left out; its scans {told}", file=sys.stderr, flush=True)


def failed(job: Job, fault: NotFinite, checkpoints: Checkpoints, quiet: bool) -> str:
    """The sentence that ends a training at a step that is not finite; keeps what it was made of."""
    config, at, lost = job.config, fault.step - 1, ""
    try:
        checkpoints.wait()
    except MachineError as error:
        lost = f"{error}. "
    state = _again(job, checkpoints, at, quiet)
    norms = job.gradient_norms(state, at)
    told = _tell(job, fault, checkpoints.run, norms)
    host = job.engine.to_host(state, everywhere=False)
    kept = f"the state before it is checkpoint {at}"
    try:
        checkpoints.save(at, host, wait=True)
    except MachineError as error:
        kept = f"the state before it could not be saved ({error})"
    if all(map(math.isfinite, norms.values())) and fault.name == "gradient_norm":
        kept += ", on which its gradient was finite when it was made again (see --deterministic)"
    more = "more of them" if config.train.skip_nonfinite else "such steps"
    return (
        f"{lost}{fault}, so training stopped; {kept}, its scans and gradient norms {told}. Lower config.optim.lr (now "
        f"{config.optim.lr}), set config.optim.clip, or leave {more} out by config.train.skip_nonfinite"
    )


def _again(job: Job, checkpoints: Checkpoints, step: int, quiet: bool) -> Any:
    """The state after ``step`` updates, made once more from the last checkpoint before it."""
    state, start = begin(job, checkpoints)
    batches = job.batches(start)
    with Bar("the state before it", step, "steps", start, quiet) as bar:
        for at in range(start, step):
            state, _ = job.update_at(at)(state, job.engine.put_batch(next(batches)))
            bar.advance(1)
    return state


def _tell(job: Job, fault: NotFinite, run: Path, norms: dict[str, float] | None = None) -> str:
    """Writes down what a step that is not finite was made of; says where, or why not."""
    path = run / FOLDER / f"{fault.step}.json"
    if processes.index() == 0:
        try:
            _write(path, fault, job.scans(fault.step - 1), norms)
        except MachineError as error:
            return f"could not be written down ({error})"
    return f"are in {path}"


def _write(
    path: Path, fault: NotFinite, scans: dict[str, list[dict]], norms: dict[str, float] | None
) -> None:
    """The step's metrics, the steps before it, its scans by stream, and the norm of its gradient by array.

    What an earlier start of the run wrote of this step, and this one knows less of, stays.

    Raises:
        MachineError: the disk is full or refuses.
    """
    former = durable.read_json(path) if path.exists() else {}
    before = [[step, _plain(loss), _plain(norm)] for step, loss, norm in fault.before]
    told = {
        "format": 1,
        "step": fault.step,
        "metrics": {name: _plain(value) for name, value in fault.values.items()},
        "before": max(before, former.get("before", []), key=len),
        "scans": scans,
    }
    if norms is not None:
        told["gradient_norms"] = {name: _plain(value) for name, value in norms.items()}
    elif "gradient_norms" in former:
        told["gradient_norms"] = former["gradient_norms"]
    with durable.disk(path.parent.parent, FOLDER):
        path.parent.mkdir(exist_ok=True)
    durable.write_json(path, told)


def _plain(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)
