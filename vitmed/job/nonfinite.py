"""Steps whose loss or gradient is not finite: what they were made of is kept, and on request they are left out.

The host learns a step's loss while the device is at the next one, so a step that is to be left out must be left out by the
update itself (``guarded``), which takes a twentieth of a step where the batch is small. A training that ends at its first
such step need not pay for that: the state before it is a function of seed and step, and is made once more
(``vitmed.train``).
"""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vitmed import durable

FOLDER = "nonfinite"


def guarded(before: dict, after: dict, sound: jax.Array) -> dict:
    """The state after an update that is left out where it is not sound.

    It counts, for the step and for the optimiser's schedule, and changes no parameter, moment, average or memory.

    Args:
        before, after: without and with what the update changes.
        sound: () bool, whether its loss and gradient are finite.
    """

    def kept(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(sound, new, old) if jnp.issubdtype(new.dtype, jnp.inexact) else new

    return jax.tree.map(kept, after, before)


def write(
    run: Path,
    step: int,
    values: dict[str, float],
    before: list[tuple[int, float, float]],
    scans: dict[str, list[dict[str, Any]]],
    gradient_norms: dict[str, float] | None = None,
) -> Path:
    """Writes ``RUN/nonfinite/STEP.json``, for people who look for the scan or the layer that did it.

    What an earlier start of the run wrote of this step and this one knows nothing of, or less, stays.

    Args:
        step: that failed, counted from 1.
        values: its metrics.
        before: (step, loss, norm of the gradient) of the steps before it.
        scans: of its batch, by stream.
        gradient_norms: of its gradient, by array.

    Raises:
        MachineError: the disk is full or refuses.
    """
    path = run / FOLDER / f"{step}.json"
    former = durable.read_json(path) if path.exists() else {}
    told = {
        "format": 1,
        "step": step,
        "metrics": {name: _plain(value) for name, value in values.items()},
        "before": [[at, _plain(loss), _plain(norm)] for at, loss, norm in before],
        "scans": scans,
    }
    told["before"] = max(told["before"], former.get("before", []), key=len)
    if gradient_norms is not None:
        told["gradient_norms"] = {name: _plain(value) for name, value in gradient_norms.items()}
    elif "gradient_norms" in former:
        told["gradient_norms"] = former["gradient_norms"]
    with durable.disk(run, FOLDER):
        path.parent.mkdir(exist_ok=True)
    durable.write_json(path, told)
    return path


def _plain(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if math.isfinite(value) else str(value)
