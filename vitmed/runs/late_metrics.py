"""Metrics on their way from the device: asked for a step late, so that the loop never waits for a value."""

import math
from collections.abc import Callable
from typing import Any

from vitmed.errors import InputError
from vitmed.runs.checkpoint import Checkpoints
from vitmed.runs.metrics import MetricsWriter


class LateMetrics:
    """Takes each step's metrics as they are on the device, and writes those that are to be written.

    Attributes:
        last: the newest value of each metric.

    Args:
        fetch: device arrays to host arrays.
        every: steps between rows; the first and the last of ``steps`` are written too.
        remedy: what a person is told to do when the loss is no longer finite.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        checkpoints: Checkpoints,
        fetch: Callable[[Any], Any],
        every: int,
        steps: int,
        remedy: str,
    ):
        self._writer, self._checkpoints, self._fetch = writer, checkpoints, fetch
        self._every, self._steps, self._remedy = every, steps, remedy
        self._pending: tuple[int, Any] | None = None
        self.last: dict[str, float] = {}
        self._step = 0  # of the newest values in ``last``
        self._fresh: dict[str, float] = {}  # measured at that step itself

    def later(self, step: int, metrics: Any) -> None:
        """Takes the step's metrics and settles those of the step before."""
        self.now()
        self._pending = (step, metrics)

    def now(self) -> None:
        """Fetches what is pending; raises InputError where the loss or its gradient is not finite."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in self._fetch(metrics).items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                self._diverged(step, name, values[name])
        self._take(step, values)
        if step % self._every == 0 or step in (1, self._steps):
            self._writer.write(step, values)

    def also(self, step: int, values: dict[str, float]) -> None:
        """Metrics that are on the host already, of the same step."""
        self._take(step, values)
        self._writer.write(step, values)

    def of(self, step: int) -> dict[str, float]:
        """What was measured at this very step, by which a checkpoint may be called the best."""
        return dict(self._fresh) if step == self._step else {}

    def note(self) -> str:
        """What stands beside the progress bar."""
        shown = [f"loss {self.last['loss']:.4f}"] if "loss" in self.last else []
        return ", ".join(shown + [f"{n} {v:.4f}" for n, v in self.last.items() if n.startswith("val/")])

    def _take(self, step: int, values: dict[str, float]) -> None:
        self._fresh = {**(self._fresh if step == self._step else {}), **values}
        self._step = step
        self.last.update(values)

    def _diverged(self, step: int, name: str, value: float) -> None:
        self._writer.write(step, {name: value})
        self._checkpoints.close()
        kept = self._checkpoints.latest()
        saved = f"the last good checkpoint is step {kept}" if kept else "no checkpoint had been made yet"
        raise InputError(
            f"{name} became {value} at step {step}, so training stopped; {saved}. {self._remedy}"
        )
