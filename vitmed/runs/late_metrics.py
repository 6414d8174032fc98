"""Metrics on their way from the device: asked for a step late, so that the loop never waits for a value."""

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitmed.runs.metrics import MetricsWriter, read

LEFT_OUT = "left_out"
_RECENT = 50  # steps before one that is not finite, of which loss and gradient are told


class NotFinite(Exception):
    """A step's loss or gradient is not finite, and no further one may be left out.

    Attributes:
        step: counted from 1.
        name: "loss" or "gradient_norm".
        values: the step's metrics.
        before: (step, loss, norm of the gradient) of the steps before.
    """

    def __init__(self, step: int, name: str, values: dict[str, float], before: list):
        super().__init__(f"{name} became {values[name]} at step {step}")
        self.step, self.name, self.values, self.before = step, name, values, before


class LateMetrics:
    """Takes each step's metrics as they are on the device, and writes those that are to be written.

    Attributes:
        last: the newest value of each metric.

    Args:
        fetch: device arrays to host arrays.
        every: steps between rows; the first and the last of ``steps`` are written too.
        allowed: steps in a row that may be left out because they are not finite.
        left_out: of how many the steps before the first one here were left out in a row.
        tell: called with a ``NotFinite`` of each step that is left out.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        fetch: Callable[[Any], Any],
        every: int,
        steps: int,
        allowed: int,
        left_out: int,
        tell: Callable[[NotFinite], None],
    ):
        self._writer, self._fetch = writer, fetch
        self._every, self._steps = every, steps
        self._allowed, self._left_out, self._tell = allowed, left_out, tell
        self._pending: tuple[int, Any] | None = None
        self.last: dict[str, float] = {}
        self._step = 0  # of the newest values in ``last``
        self._fresh: dict[str, float] = {}  # measured at that step itself
        self._recent: deque[tuple[int, float, float]] = deque(maxlen=_RECENT)

    def later(self, step: int, metrics: Any) -> None:
        """Takes the step's metrics and settles those of the step before."""
        self.now()
        self._pending = (step, metrics)

    def now(self) -> None:
        """Fetches what is pending; raises NotFinite where that ends the training."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(value) for name, value in self._fetch(metrics).items()}
        bad = next((n for n in ("loss", "gradient_norm") if not math.isfinite(values[n])), None)
        if bad:
            self._fail(NotFinite(step, bad, values, list(self._recent)))
            return
        self._left_out = 0
        self._recent.append((step, values["loss"], values["gradient_norm"]))
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

    def _fail(self, fault: NotFinite) -> None:
        self._left_out += 1
        row = {fault.name: fault.values[fault.name]}
        if self._allowed:
            row[LEFT_OUT] = float(self._left_out)
        self._writer.write(fault.step, row)
        if self._left_out > self._allowed:
            raise fault
        self._tell(fault)


def left_out(run: Path | str, step: int) -> int:
    """How many steps in a row up to ``step`` a run has left out."""
    steps, counts = read(run).get(LEFT_OUT, ((), ()))
    return int(counts[-1]) if len(steps) and steps[-1] == step else 0
