"""Checkpoints: written in the background, appearing whole by one rename, verified before they are read.

A checkpoint is the folder ``RUN/checkpoints/STEP`` with the arrays as orbax writes them (``state/``), their
index (``index.json``, see ``bundle.py``) and a ``manifest.json`` with the SHA-256 of every file. orbax
restores a file with a flipped byte without a word; here it is found. Everything unfinished lives in
``RUN/.saving``, on the same disk, so that a process killed at any instant leaves only complete checkpoints
in ``checkpoints/``.

Arrays are saved whole, by one process, whatever the mesh: a checkpoint then has one writer, one manifest and one rename,
and is read on any other mesh or number of processes, and as NumPy. What that asks of process 0 is memory for the state:
18 GB for a ViT-g with AdamW and a moving average.
"""

import dataclasses
import errno
import json
import logging
import math
import os
import re
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization

from vitmed import durable
from vitmed.errors import DiskFull, InputError, MachineError
from vitmed.parallel import processes
from vitmed.parallel.rules import leaves
from vitmed.runs import manifest
from vitmed.runs.bundle import bundle, unbundle
from vitmed.runs.direction import lower_is_better

# orbax's threads log a page of traceback for an error that is raised to the caller as well.
logging.getLogger("absl").addFilter(lambda record: "_SignalingThread" not in record.getMessage())


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep.

    Attributes:
        every: steps between checkpoints.
        keep: how many of the last ones stay.
        best: name of a metric, such as ``"val/loss"``; the checkpoint best by it stays too. Losses and
            errors are better lower, all else higher (``vitmed.runs.direction``).
        milestones: every checkpoint of a multiple of so many steps stays for good; 0 is none.
        full_disk: what becomes of a training whose checkpoint finds no room on the disk. "stop" ends it; with "go_on" it
            goes on without that checkpoint, to the next. The last one must find room in either case.
    """

    every: int = 500
    keep: int = 2
    best: str | None = None
    milestones: int = 0
    full_disk: Literal["stop", "go_on"] = "stop"

    def __post_init__(self):
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.milestones < 0 or self.milestones % self.every:
            raise ValueError(
                f"milestones is {self.milestones}; 0 (none) or a multiple of config.checkpoint.every ({self.every}) was "
                "expected, as no other steps are saved"
            )


class Checkpoints:
    """The checkpoints of one run, one save in flight at most; use it as a context manager or ``close`` it."""

    def __init__(self, run_dir: Path | str, config: CheckpointConfig):
        self.run = Path(run_dir)
        self.config = config
        whole = self.run.absolute()  # orbax takes no relative paths
        self._folder = whole / manifest.FOLDER
        self._staging = whole / ".saving"
        # Uncompressed: weights hardly shrink, and compressing would take time from the training's cores.
        # By itself, too, where there are several processes: orbax would wait for the others, which do not save.
        alone = ocp.options.MultiprocessingOptions(processes.index(), {processes.index()})
        self._orbax = ocp.PyTreeCheckpointHandler(
            use_ocdbt=True, use_compression=False, multiprocessing_options=alone
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._swept = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def save(
        self, step: int, state: Any, metrics: dict[str, float] | None = None, wait: bool = False
    ) -> None:
        """Saves ``state`` after ``step`` steps; returns once the arrays are copied off the device.

        The caller may donate or overwrite ``state`` at once. A step that is already saved is left as it
        is: the same run at the same step is the same state. Of several processes the first one saves.

        Args:
            step: number of updates done, which is also the position in the data (batches 0..step-1 are used).
            state: a pytree of arrays; dicts, tuples and optax states nest freely.
            metrics: plain numbers kept in the manifest, by which the best checkpoint is chosen.
            wait: return only when the checkpoint is on disk.

        Raises:
            MachineError: the disk is full or refuses, now or in the save before (``settle``).
        """
        if processes.index():
            return
        self.settle(wait=True)
        # On CPU device_get may hand out a view of a buffer that the next step overwrites; bundle copies.
        host = bundle(jax.device_get(serialization.to_state_dict(state)))
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        self._pending = self._thread.submit(self._write, int(step), host, numbers)
        if wait:
            self.wait()

    def settle(self, wait: bool = False) -> None:
        """Comes to know how the save in flight went, if it has ended; with ``wait`` once it has.

        Raises:
            MachineError: it went wrong, and not for want of room while ``config.full_disk`` is "go_on": then that is said
                on standard error.
        """
        if self._pending is None or not (wait or self._pending.done()):
            return
        try:
            self.wait()
        except DiskFull as error:
            if self.config.full_disk == "stop":
                raise
            fault = str(error).partition(";")[0]
            print(f"warning: {fault}; training goes on without it", file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Waits for the save in flight and raises what went wrong in it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits for the save in flight, raises what went wrong in it, and ends the background thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return manifest.steps(self.run)

    def latest(self) -> int | None:
        """The last step with a checkpoint, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step best by ``config.best`` (the earlier of equals), or None when none has that metric."""
        return next(iter(self._ranked()), None)

    def restore(
        self, which: int | str = "last", like: Any = None, part: str | tuple[str, ...] | None = None
    ) -> Any:
        """Reads a checkpoint back, bit by bit what was saved, as NumPy arrays on any machine.

        Args:
            which: ``"last"``, ``"best"``, or a step. Where the last (best) one is corrupt, that is said on
                standard error, it is moved to ``RUN/corrupt``, and the one before (the next best) is read.
            like: a pytree of arrays or ``jax.ShapeDtypeStruct`` whose structure the result takes. Without
                it the result is nested dicts, with tuples as dicts of "0", "1", ….
            part: one top-level key of the state, such as ``"params"``; only its arrays are read and returned.
                Of several keys, a dict of theirs.

        Raises:
            InputError: there is no such checkpoint, or it does not fit ``like``.
            MachineError: checkpoints exist but none that may stand for ``which`` is intact.
        """
        self.wait()
        candidates = self._candidates(which)
        corrupt = {}
        for step in candidates:
            path = self._folder / str(step)
            fault = manifest.fault(path)
            if fault is None:
                state = self._read(path, part)
                for bad, reason in corrupt.items():
                    self._put_aside(bad, reason, used=step)
                return state if like is None else _fit(state, like, path)
            if path.exists():  # else it was pruned by the run's own training while we looked
                corrupt[step] = fault
        listed = "; ".join(f"checkpoint {step}: {reason}" for step, reason in corrupt.items())
        raise MachineError(
            f"no intact checkpoint is left in {self._folder} ({listed or 'it was just emptied'}); "
            "put back a copy of one, or train again in another --workdir"
        )

    def _candidates(self, which: int | str) -> list[int]:
        steps = self.steps()
        if not steps:
            raise InputError(f"{self.run} has no checkpoint yet; train it first")
        if which == "last":
            return steps[::-1]
        if which == "best":
            ranked = self._ranked()
            if not ranked:
                named = sorted({name for step in steps for name in self._metrics(step)})
                raise InputError(
                    f"{self.run} has no best checkpoint: config.checkpoint.best is {self.config.best!r} and "
                    f"the metrics saved are {', '.join(named) or 'none'}; use the last checkpoint"
                )
            return ranked
        if which not in steps:
            raise InputError(
                f"{self.run} has no checkpoint {which!r}; it has {', '.join(map(str, steps))}, 'last', 'best'"
            )
        return [int(which)]

    def _ranked(self) -> list[int]:
        values = {step: self._metrics(step).get(self.config.best, math.nan) for step in self.steps()}
        sign = 1 if lower_is_better(self.config.best or "") else -1
        return sorted(
            (s for s, v in values.items() if not math.isnan(v)), key=lambda s: (sign * values[s], s)
        )

    def _metrics(self, step: int) -> dict[str, float]:
        try:
            return json.loads((self._folder / str(step) / "manifest.json").read_text())["metrics"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # corrupt or just pruned: it has no claim to be the best

    def _write(self, step: int, host: tuple[dict, list], metrics: dict[str, float]) -> None:
        draft, final = self._staging / str(step), self._folder / str(step)
        if final.exists():
            return
        try:
            with durable.disk(self.run, f"checkpoint {step}"):
                if not self._swept:  # what a killed process left; readers of a run never come here
                    shutil.rmtree(self._staging, ignore_errors=True)
                    self._swept = True
                (draft / "state").mkdir(parents=True)
                self._folder.mkdir(exist_ok=True)
                arrays, index = host
                needed = sum(array.nbytes for array in jax.tree.leaves(arrays))
                if needed > shutil.disk_usage(draft).free:
                    # Said before orbax tries: its threads would still be writing when the process ends.
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._write_arrays(draft / "state", arrays)
                (draft / "index.json").write_text(json.dumps({"format": 1, "leaves": index}))
                manifest.write(draft, step, metrics)
                os.rename(draft, final)
                durable.sync(self._folder)
                self._prune()
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _write_arrays(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        try:
            self._orbax.save(epath.Path(path), args=ocp.args.PyTreeSave(arrays))
            self._orbax.finalize(epath.Path(path))
        except ValueError as error:  # how tensorstore, below orbax, words what the operating system refused
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error

    def _read(self, path: Path, part: str | tuple[str, ...] | None) -> Any:
        index = json.loads((path / "index.json").read_text())["leaves"]
        if part is not None:
            wanted = (part,) if isinstance(part, str) else part
            index = [entry for entry in index if entry["path"][0] in wanted]
        item = {entry["array"]: 0 for entry in index if "array" in entry}
        args = ocp.args.PyTreeRestore(item=item, partial_restore=True)
        state = unbundle(self._orbax.restore(epath.Path(path / "state"), args=args) if item else {}, index)
        return state[part] if isinstance(part, str) else state

    def _prune(self) -> None:
        stay = {*self.steps()[-self.config.keep :], *self._ranked()[:1]}
        for step in self.steps():
            if step not in stay and not self._is_milestone(
                step
            ):  # leaves checkpoints/ whole, by a rename, before it is taken apart
                trash = self._staging / f"old-{step}"
                os.rename(self._folder / str(step), trash)
                shutil.rmtree(trash)

    def _is_milestone(self, step: int) -> bool:
        return self.config.milestones > 0 and step % self.config.milestones == 0

    def _put_aside(self, step: int, reason: str, used: int) -> None:
        aside = self.run / "corrupt"
        try:
            aside.mkdir(exist_ok=True)
            earlier = len(list(aside.glob(f"{step}*")))
            target = aside / (f"{step}-{earlier}" if earlier else str(step))
            os.rename(self._folder / str(step), target)
            where = f"it is kept in {target}"
        except OSError as error:
            where = f"it stays where it is ({error.strerror})"
        print(
            f"warning: checkpoint {step} of {self.run} is corrupt: {reason}; {where}, "
            f"and checkpoint {used} is used instead",
            file=sys.stderr,
            flush=True,
        )


def _fit(state: dict, like: Any, path: Path) -> Any:
    """``state`` in the structure of ``like``, every array of the same shape and type, or an InputError."""
    wanted, found = leaves(serialization.to_state_dict(like)), leaves(state)
    for name in sorted(wanted.keys() | found.keys()):
        there, here = (
            f"{t[name].dtype}{list(t[name].shape)}" if name in t else "absent" for t in (found, wanted)
        )
        if there != here:
            raise InputError(
                f"{path} does not fit this model: {name} is {there} in it and {here} here; "
                "use the config that the run was made with"
            )
    return serialization.from_state_dict(like, state)
