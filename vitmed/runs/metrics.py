"""Metrics of a run as CSV, for people and scripts, and as TensorBoard events.

``metrics.csv`` is long form, ``step,name,value``, one number a line: it is only ever appended to, a new
metric needs no new header, and a line torn by a kill is seen as such. Values are written so that they
read back to the same bits.
"""

import csv
import io
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter

from vitmed import durable
from vitmed.parallel import processes

HEADER = ("step", "name", "value")


class MetricsWriter:
    """Appends the metrics of a run; use it as a context manager or ``close`` it.

    Args:
        run_dir: the run's folder.
        resume_step: the step that training goes on from. Rows of later steps, written by a process that was
            killed after its last checkpoint, are dropped here, because those steps are done again.

    Of several processes the first one writes.
    """

    def __init__(self, run_dir: Path | str, resume_step: int = 0):
        self._writes = processes.index() == 0
        if not self._writes:
            return
        path = Path(run_dir) / "metrics.csv"
        kept = [row for row in _rows(path) if row[0] <= resume_step]
        durable.write_text(path, _lines([HEADER, *kept]))
        self._folder = path.parent
        with durable.disk(self._folder, path.name):
            self._csv = open(path, "a", encoding="utf-8", newline="")
            # TensorBoard hides what an earlier process wrote at or after purge_step.
            self._board = SummaryWriter(
                str(self._folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else None
            )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends ``values`` at ``step``; they are in the file when this returns.

        Raises:
            MachineError: the disk is full or refuses.
        """
        if not self._writes:
            return
        rows = [(int(step), name, float(value)) for name, value in values.items()]
        with durable.disk(self._folder, "metrics.csv"):
            self._csv.write(_lines(rows))
            self._csv.flush()
            for _, name, value in rows:
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes both files."""
        if not self._writes:
            return
        with durable.disk(self._folder, "metrics.csv"):
            self._csv.close()
            self._board.close()


def read(run: Path | str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The metrics of a run by name: steps ``(n,)`` int64, ascending, and values ``(n,)`` float64."""
    series: dict[str, tuple[list, list]] = {}
    for step, name, value in _rows(Path(run) / "metrics.csv"):
        steps, values = series.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)
    return {name: (np.array(s, np.int64), np.array(v, np.float64)) for name, (s, v) in series.items()}


def _rows(path: Path) -> list[tuple[int, str, float]]:
    if not path.exists():
        return []
    whole, _, _torn = path.read_text(encoding="utf-8").rpartition("\n")
    return [(int(step), name, float(value)) for step, name, value in list(csv.reader(io.StringIO(whole)))[1:]]


def _lines(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
