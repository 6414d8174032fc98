"""Metrics of a run as CSV, for people and scripts, and as TensorBoard events.

``metrics.csv`` is long form, ``step,name,value``, one number a line: it is only ever appended to, a new
metric needs no new header, and a line torn by a kill is seen as such. Values are written so that they
read back to the same bits.
"""

import contextlib
import csv
import io
import sys
from pathlib import Path

import numpy as np

from vitmed import durable
from vitmed.errors import DiskFull, InputError
from vitmed.parallel import processes
from vitmed.runs.board import Board

HEADER = ("step", "name", "value")


class MetricsWriter:
    """Appends the metrics of a run; use it as a context manager or ``close`` it.

    Args:
        run_dir: the run's folder.
        resume_step: the step that training goes on from. Rows of later steps, written by a process that was
            killed after its last checkpoint, are dropped here, because those steps are done again.
        patient: where the disk has no room for rows they wait, and are written when it has; without, a full disk is
            an error at once.

    Of several processes the first one writes.
    """

    def __init__(self, run_dir: Path | str, resume_step: int = 0, patient: bool = False):
        self._writes = processes.index() == 0
        self._patient, self._told = patient, False
        if not self._writes:
            return
        path = Path(run_dir) / "metrics.csv"
        kept = [row for row in _rows(path) if row[0] <= resume_step]
        durable.write_text(path, _lines([HEADER, *kept]))
        self._folder = path.parent
        with durable.disk(self._folder, path.name):
            self._csv = durable.Appended(path)
            self._board = Board(self._folder / "tensorboard", resume_step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends ``values`` at ``step``; they are in the file when this returns, or wait for room on the disk.

        Raises:
            MachineError: the disk refuses, or is full and nobody has patience.
        """
        if not self._writes:
            return
        values = {name: float(value) for name, value in values.items()}
        self._csv.put(_lines((int(step), name, value) for name, value in values.items()).encode())
        self._board.put(int(step), values)
        self.written(must=not self._patient)

    def written(self, must: bool) -> bool:
        """Tries again to write the rows that wait; whether none do. With ``must`` DiskFull says that some do."""
        if not self._writes:
            return True
        try:
            with durable.disk(self._folder, "metrics.csv"):
                self._csv.flush()
                self._board.flush()
        except DiskFull as error:
            if must:
                raise
            if not self._told:
                fault = str(error).partition(";")[0]
                print(f"warning: {fault}; rows of it wait for room", file=sys.stderr, flush=True)
            self._told = True
            return False
        self._told = False
        return True

    def close(self) -> None:
        """Closes both files; MachineError where rows still find no room."""
        if not self._writes:
            return
        with durable.disk(self._folder, "metrics.csv"), contextlib.closing(self._board):
            self._csv.close()


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
    rows = []
    for number, row in enumerate(csv.reader(io.StringIO(whole)), start=1):
        try:
            step, name, value = row
            rows += [(int(step), name, float(value))] if number > 1 else []
        except ValueError:
            raise InputError(
                f"{path} holds {','.join(row)!r} in line {number}, where a step, a name and a value with commas between were "
                "expected; put it back as the run wrote it"
            ) from None
    return rows


def _lines(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
