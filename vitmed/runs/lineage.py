"""Which runs were made from a dataset, by what its content was, and which run started from which."""

import os
from collections.abc import Iterable
from pathlib import Path

from vitmed import durable


def made_from(content_hashes: Iterable[str], folders: Iterable[Path]) -> list[dict]:
    """Runs trained on a dataset in any of the states given, and runs that started from those.

    Args:
        content_hashes: of the dataset's states, as its datasheet names them.
        folders: looked through at any depth.

    Returns:
        [{"run": its folder, "from": the run it started from or None}], by folder.
    """
    hashes = set(content_hashes)
    started: dict[Path, Path | None] = {}
    found: dict[Path, Path | None] = {}
    for folder in folders:
        for run in _runs(folder):
            started[run] = _parent(run)
            sheet = durable.read_json(run / "dataset.json")
            if any(one.get("content_hash") in hashes for one in (sheet, *sheet.get("beside", ()))):
                found[run] = None
    fresh = set(found)
    while fresh:
        fresh = {run for run, init in started.items() if init in fresh and run not in found}
        found |= {run: started[run] for run in fresh}
    return [{"run": str(run), "from": str(init) if init else None} for run, init in sorted(found.items())]


def ancestors(run: Path | str) -> list[Path]:
    """The run itself, the one that it started from, and so on back; the last is no run where it is not there any more."""
    found = [Path(run).resolve()]
    while (found[-1] / "config.json").is_file():
        parent = _parent(found[-1])
        if parent is None or parent in found:
            break
        found.append(parent)
    return found


def _parent(run: Path) -> Path | None:
    init = durable.read_json(run / "config.json").get("config", {}).get("init_from")
    return Path(init).resolve() if init else None


def _runs(top: Path) -> Iterable[Path]:
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if "config.json" in files and "dataset.json" in files:
            folders.clear()
            yield Path(folder).resolve()
