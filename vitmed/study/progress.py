"""How far a study is and how long it will take, from what its runs have done so far."""

import sys
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vitmed import durable, words
from vitmed.progress import clock
from vitmed.study.plan import Cell

_TELLING = 0.1  # share of a run after which its speed tells of the rest
_LINE_EVERY = 20.0  # seconds between lines where there is no terminal


class StudyProgress:
    """A live line on a terminal, a plain line now and then in a log. Use as a context.

    Time left is images still to train on, at the speed that each arm has shown (the mean of the others for
    an arm that has not run yet), over the number of jobs. Speeds are kept in the file ``speeds``, so that a study that
    goes on knows them from the start.
    """

    def __init__(self, cells: list[Cell], jobs: int, quiet: bool = False, speeds: Path | None = None):
        self._jobs, self._quiet = jobs, quiet
        self._cells = {cell.name: cell for cell in cells}
        self._left = dict(self._cells)
        self._began: dict[str, tuple[float, int]] = {}  # by name: when, and the step it went on from
        self._spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # by arm: images, seconds
        self._file = speeds
        if speeds is not None and speeds.exists():
            self._spent.update(durable.read_json(speeds)["images_and_seconds"])
        self._start = time.monotonic()
        self._spoke = self._start - _LINE_EVERY + 5.0
        self._live = None
        if not quiet and sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), refresh_per_second=2, transient=True)

    def __enter__(self) -> "StudyProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def announce(self, runs: int) -> None:
        """Says before the first run how many there are, of ``runs`` in all, and how long they may take."""
        if self._quiet:
            return
        cells = list(self._left.values())
        trainings = sum(cell.trainings for cell in cells)
        parts = [f"{words.plural(len(cells), 'run')} to do"]
        parts[0] += f" of {runs}, the others are there" if len(cells) < runs else ""
        if trainings > len(cells):
            parts[0] += f", {trainings} trainings with their trials"
        images = sum(cell.images for cell in cells)
        parts += [f"{words.count(images)} images to train on, those of every step counted"] if images else []
        left = self.seconds_left([], 0.0)
        parts.append(
            f"about {clock(left)} at the speeds measured before"
            if left is not None
            else "how long it takes is told as soon as a tenth of a run has been timed"
        )
        self._say("study: " + "; ".join(parts))

    def tick(self, running: list[str]) -> None:
        """Shows what is running now; called about once a second."""
        now = time.monotonic()
        for name in running:
            self._began.setdefault(name, (now, steps_done(self._cells[name])))
        if self._quiet:
            return
        line = self._line(running, now)
        if self._live:
            self._live.update(Text(line))
        elif now - self._spoke >= _LINE_EVERY:
            print(line, file=sys.stderr, flush=True)
            self._spoke = now

    def done(self, name: str, note: str) -> None:
        """A run has ended; ``note`` is what it found."""
        cell = self._left.pop(name)
        now = time.monotonic()
        began, step = self._began.pop(name, (now, 0))
        self._spent[_kind(cell)][0] += max(cell.images - step * _batch(cell), 0)
        self._spent[_kind(cell)][1] += now - began
        if self._file is not None:
            durable.write_json(self._file, {"format": 1, "images_and_seconds": dict(self._spent)})
        if self._quiet:
            return
        count = f"{len(self._cells) - len(self._left)}/{len(self._cells)}"
        self._say(f"study: {count} {name} {note}, {clock(now - began)}")

    def seconds_left(self, running: list[str], now: float) -> float | None:
        """None until something has been measured."""
        spent = {arm: list(both) for arm, both in self._spent.items()}
        images = {name: float(cell.images) for name, cell in self._left.items()}
        for name in running:
            cell, (began, start) = self._cells[name], self._began[name]
            step = steps_done(cell)
            images[name] -= step * _batch(cell)
            if (step - start) * _batch(cell) >= _TELLING * cell.images:  # before, it has mostly compiled
                both = spent.setdefault(_kind(cell), [0.0, 0.0])
                both[0] += (step - start) * _batch(cell)
                both[1] += now - began
        known = {arm: seconds / n for arm, (n, seconds) in spent.items() if n > 0}
        if not known:
            return None
        other = sum(known.values()) / len(known)
        cost = {n: max(left, 0.0) * known.get(_kind(self._cells[n]), other) for n, left in images.items()}
        alone, pretrainings = 0.0, [name for name, cell in self._left.items() if not cell.arm]
        if len(pretrainings) == 1 and all(cell.start for cell in self._left.values() if cell.arm):
            alone = cost.pop(pretrainings[0])  # all wait for it
        return alone + max(sum(cost.values()) / self._jobs, max(cost.values(), default=0.0))

    def _line(self, running: list[str], now: float) -> str:
        parts = [f"study: {len(self._cells) - len(self._left)}/{len(self._cells)} runs"]
        for name in running:
            steps = self._cells[name].config.get("train", {}).get("steps")
            cell = self._cells[name]
            steps = (steps or 0) * cell.trainings
            parts.append(f"{name} at step {steps_done(cell)}" + (f"/{steps}" if steps else ""))
        left = self.seconds_left(running, now)
        parts.append(f"{clock(now - self._start)} so far")
        return ", ".join(parts + ([f"about {clock(left)} left"] if left is not None else []))

    def _say(self, text: str) -> None:
        if self._live:
            self._live.console.print(Text(text))
        else:
            print(text, file=sys.stderr, flush=True)


def steps_done(cell: Cell) -> int:
    """How many steps of its trainings a cell has done."""
    return sum(map(last_step, cell.runs))


def last_step(run: Path) -> int:
    """The step of the last whole line of a run's metrics.csv; 0 where there is none yet."""
    file = run / "metrics.csv"
    try:
        with open(file, "rb") as stream:
            stream.seek(max(file.stat().st_size - 8192, 0))
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    fields = [line.split(b",")[0] for line in lines]
    steps = [int(field) for field in fields if field.isdigit()]
    return steps[-1] if steps else 0


def _kind(cell: Cell) -> str:
    """What runs of one speed have in common."""
    return cell.arm or f"pretrain {cell.pretraining}"


def _batch(cell: Cell) -> int:
    return cell.config.get("train", {}).get("batch_size") or 0
