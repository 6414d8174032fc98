"""Progress with time left: a live bar on a terminal, a plain line every few seconds in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class Bar:
    """Counts work done. Use as a context; ``quiet`` shows nothing.

    Args:
        what: what is being done, in a word or two.
        total: how many units there are.
        unit: the name of a unit, plural.
        start: units already done, which do not count for the speed.
        per: how many of what is counted are one of the units that are shown: 2**20 where bytes are shown in MB.
    """

    def __init__(
        self, what: str, total: int, unit: str = "", start: int = 0, quiet: bool = False, per: int = 1
    ):
        self.what, self.total, self.unit, self.done, self._start = what, total, unit, start, start
        self._per = per
        self._quiet = quiet
        self._began = self._spoke = time.monotonic()
        self._live = None
        if not quiet and sys.stderr.isatty():
            self._live = Progress(
                TextColumn("{task.description}", markup=False),  # it may be a file's name
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._live.add_task(what, total=total / per, completed=start / per, note="")

    def __enter__(self) -> "Bar":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._live:
            self._live.stop()
        elif not self._quiet and kind is None and self.done > self._start:
            self._line(time.monotonic(), "")

    def expect(self, total: int) -> None:
        """There are ``total`` units after all."""
        self.total = total
        if self._live:
            self._live.update(self._task, total=total / self._per)

    def advance(self, units: int = 1, note: str = "") -> None:
        """``units`` more are done; ``note`` stands beside the bar (a loss, a file)."""
        self.done += units
        if self._live:
            self._live.update(self._task, advance=units / self._per, note=note)
        elif not self._quiet and time.monotonic() - self._spoke > LINE_EVERY:
            self._line(time.monotonic(), note)

    def _line(self, now: float, note: str) -> None:
        rate = (self.done - self._start) / max(now - self._began, 1e-9)
        left = (self.total - self.done) / rate if rate else 0.0
        parts = [
            f"{self.what}: {self.done // self._per}/{self.total // self._per} {self.unit}".rstrip(),
            f"{clock(now - self._began)} so far",
        ]
        if self.done < self.total:
            parts.append(f"{clock(left)} left")
        print(", ".join(parts + ([note] if note else [])), file=sys.stderr, flush=True)
        self._spoke = now


def clock(seconds: float) -> str:
    """``75`` as ``1:15``."""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
