"""A run folder: what was trained, on what, with what, in files that another person can read years later.

``config.json`` (resolved config), ``recipe.json`` (how the input was prepared), ``dataset.json`` (the
datasheet of the dataset) and ``environment.json`` (versions, devices and command of every start).
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import vitmed
from vitmed import durable
from vitmed.config import flat, load, to_json, tree
from vitmed.errors import InputError
from vitmed.runs.lock import NAME, locked
from vitmed.scans.recipe import Recipe

# Keys that may change between the starts of one run, because no parameter depends on them.
FREE_KEYS = {
    "data.path": "the dataset may have moved: its content is compared by its hash instead",
    "data.mix": "likewise: the weights are compared by the datasets' hashes",
    "data.unlabelled": "likewise, and with how many examples",
    "data.workers": "the order of examples is a function of seed and step, not of who loads them",
    "probe": "looking at the features changes none of them",
    "checkpoint.keep": "how many old checkpoints stay on disk",
    "checkpoint.milestones": "likewise",
    "checkpoint.full_disk": "what becomes of a training whose checkpoint finds no room",
    "parallel": "how the work is shared out changes results by rounding alone",
    "train.skip_nonfinite": "likewise: without it there are no steps that it would leave out",
}


_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NCCL_ALGO")


def create(
    workdir: Path | str,
    config: ConfigDict,
    recipe: Recipe,
    datasheet: dict[str, Any],
    resolve: Callable[[ConfigDict], ConfigDict] = lambda config: config,
) -> Path:
    """Makes a run folder, or opens one that was made with the same config on the same data.

    Appends this start to ``environment.json``.

    Args:
        config: resolved: with every key.
        resolve: gives a former config the keys that came after it, each as it is where nobody sets it; InputError where
            it has keys that are none any more.

    Raises:
        InputError: ``workdir`` is a file or a dataset, or a run of another config, recipe or dataset
            content; each key that differs is named with both values.
        MachineError: the disk is full or refuses.
    """
    run = place(workdir)
    with durable.disk(run, "the run folder"):
        run.mkdir(parents=True, exist_ok=True)
    if (run / "config.json").exists():
        _same_run(run, config, recipe, datasheet, resolve)
    else:
        durable.write_text(run / "recipe.json", recipe.to_json())
        durable.write_json(run / "dataset.json", datasheet)
        durable.write_text(run / "config.json", to_json(config))  # last: it is what makes the folder a run
    _record_start(run)
    return run


@contextlib.contextmanager
def taken(workdir: Path | str) -> Iterator[None]:
    """Holds the folder of a run, which is made if it is not there, for one training at a time.

    What a training that is refused before its first step made of a new folder is removed again: it would stand in the
    way of the one that is put right.

    Raises:
        InputError: another training holds it, or as ``place``.
        MachineError: as ``create``.
    """
    run = place(workdir)
    new = not (run / "config.json").exists()
    with durable.disk(run, "the run folder"):
        run.mkdir(parents=True, exist_ok=True)
    with locked(run, "training"):
        try:
            yield
        except InputError:
            if new and not _measured(run):
                _discard(run)
            raise


def _measured(run: Path) -> bool:
    """Whether anything of it was told of, or saved."""
    file = run / "metrics.csv"
    kept = any((run / "checkpoints").glob("*")) or (run / "nonfinite").exists()
    return kept or (file.exists() and len(file.read_text().splitlines()) > 1)


def _discard(run: Path) -> None:
    for name in ("config.json", "recipe.json", "dataset.json", "environment.json", "metrics.csv", NAME):
        (run / name).unlink(missing_ok=True)
    for events in (run / "tensorboard").glob("events.*"):
        events.unlink()
    for folder in (run / "tensorboard", run / "checkpoints", run):
        with contextlib.suppress(OSError):  # what is not empty holds something of somebody's
            folder.rmdir()


def place(workdir: Path | str) -> Path:
    """Where a run may be made; InputError where there is a file or a dataset."""
    run = Path(workdir)
    if run.is_file():
        raise InputError(f"{run} is a file; give a folder as --workdir")
    if (run / "datasheet.json").exists():
        raise InputError(f"{run} is a dataset; give another folder as --workdir, the run is written there")
    return run


def locate(run: Path | str) -> Path:
    """The path of an existing run.

    Raises:
        InputError: there is no run, with what is there instead.
    """
    path = Path(run)
    if (path / "config.json").is_file():
        return path
    if not path.exists():
        raise InputError(f"run {path} does not exist; give the --workdir of a training")
    what = "a dataset" if (path / "datasheet.json").exists() else "not a run (it has no config.json)"
    raise InputError(f"{path} is {what}; give the --workdir of a training")


def config_of(run: Path | str) -> ConfigDict:
    """The resolved config of a run."""
    return load(str(locate(run) / "config.json"))


def recipe_of(run: Path | str) -> Recipe:
    """The recipe of a run: how its model's input is prepared."""
    return Recipe.from_json(locate(run) / "recipe.json")


def datasheet_of(run: Path | str) -> dict[str, Any]:
    """The datasheet of the dataset that a run was trained on."""
    return durable.read_json(locate(run) / "dataset.json")


def environment() -> dict[str, Any]:
    """Versions, devices, command and source commit of this process, for ``environment.json``."""
    import jax  # 400 MB that ingest, whose page asks only what runs there are, does without

    devices = jax.devices()
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "vitmed": vitmed.__version__,
        "source": _commit(Path(vitmed.__file__).parent.parent),
        "flags": {name: os.environ[name] for name in _FLAGS if name in os.environ},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": {"kind": devices[0].device_kind, "platform": devices[0].platform, "count": len(devices)},
        "processes": jax.process_count(),
        "packages": {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()},
    }


def _record_start(run: Path) -> None:
    path = run / "environment.json"
    starts = durable.read_json(path).get("starts", []) if path.exists() else []
    durable.write_json(path, {"format": 1, "starts": [*starts, environment()]})


def _commit(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that vitmed runs from, and whether files differ from it; None when installed."""

    def git(*words):
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        if (top := git("rev-parse", "--show-toplevel")) is None or Path(top) != folder.resolve():
            return None
        return {"commit": git("rev-parse", "--verify", "HEAD"), "dirty": git("status", "--porcelain") != ""}
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine: the versions of the packages remain


def _same_run(run: Path, config: ConfigDict, recipe: Recipe, datasheet: dict[str, Any], resolve) -> None:
    former, now = _completed(config_of(run), resolve), _read_back(config)
    clauses = [f"config.{clause}" for clause in _differences(flat(former), flat(now), FREE_KEYS)]
    if not clauses:
        then = durable.read_json(run / "recipe.json")
        if then["model"] and "model" in former:
            then["model"] = former.model.to_dict() | then["model"]
        clauses = [f"recipe.{clause}" for clause in _differences(then, json.loads(recipe.to_json()))]
    if not clauses:
        then = datasheet_of(run)
        sides = (_content(sheet, then) for sheet in (then, datasheet))
        clauses = [f"the dataset's {clause}" for clause in _differences(*sides)]
    if clauses:
        raise InputError(
            f"{run} is a run of another config or dataset: {'; '.join(clauses)}; "
            "go on with what it was made with, or give another --workdir"
        )


def _content(sheet: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """What is trained on, as far as the datasheet that the run began with tells: an older one counts no examples."""
    untold = {"examples"} if any("examples" not in stream for stream in then.get("beside", [])) else set()
    streams = [
        {key: value for key, value in stream.items() if key not in untold}
        for stream in sheet.get("beside", [])
    ]
    return {"content_hash": sheet.get("content_hash"), "other streams": streams}


def _completed(former: ConfigDict, resolve) -> ConfigDict:
    try:
        return _read_back(resolve(former))
    except InputError:  # a key of it is none any more: the comparison names it
        return former


def _read_back(config: ConfigDict) -> ConfigDict:
    """As ``config_of`` gives it: JSON has lists for tuples."""
    return tree(json.loads(to_json(config))["config"])


def _differences(then: dict[str, Any], now: dict[str, Any], free=()) -> list[str]:
    absent = object()
    clauses = []
    keys = {key for key in then.keys() | now.keys() if not any(f"{key}.".startswith(f"{f}.") for f in free)}
    for key in sorted(keys):
        sides = then.get(key, absent), now.get(key, absent)
        if sides[0] != sides[1]:
            there, here = ("absent" if side is absent else repr(side) for side in sides)
            clauses.append(f"{key} is {there} there and {here} here")
    return clauses
