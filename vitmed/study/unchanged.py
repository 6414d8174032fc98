"""Whether a folder holds the study that is asked for, or one of another config or of other scans."""

import json
from collections.abc import Mapping
from pathlib import Path

from vitmed import durable
from vitmed.config import flat
from vitmed.errors import InputError
from vitmed.runs import manifest
from vitmed.study.plan import Cell, Plan

# What the plan of a folder may be older than: where its runs do not tell it either, it is kept from now on.
_LATER = ("init_from", "content_hash", "metric")


def check_unchanged(plan: Plan, contents: Mapping[str, str]) -> None:
    """Refuses a folder whose runs were made with other configs or scans; new budgets, draws and arms may be added, and what
    has not begun may change.

    Args:
        contents: the content hash of each dataset that the study reads, by its path.

    Raises:
        InputError: naming the keys that differ, with both values; a run to start from that has no checkpoint.
    """
    file = plan.workdir / "plan.json"
    cells = {cell.name: cell for cell in plan.everything}
    now = {name: _plain(cell, contents, plan.config.study.metrics[0]) for name, cell in cells.items()}
    now["study"] = {"split": plan.config.study.split, "checkpoint": plan.config.study.checkpoint}
    before = durable.read_json(file)["runs"] if file.exists() else {}
    arm_of = {name: cell.arm or name for name, cell in cells.items()}
    begun = _begun(plan)
    differ: dict[str, str] = {}  # by key, since one changed key of an arm shows in all its cells
    for name in before.keys() & now.keys():
        if name in cells and name not in begun:
            continue
        kept = (_told_by_runs(cells[name]) if name in cells else {}) | before[name]
        keys = (kept.keys() | now[name].keys()) - {key for key in _LATER if key not in kept}
        for key in sorted(keys):
            was, is_now = kept.get(key), now[name].get(key)
            if was != is_now:
                differ.setdefault(f"{arm_of.get(name, name)}: {key}", f"was {was!r}, now {is_now!r}")
    if differ:
        told = "; ".join(f"{key} {both}" for key, both in sorted(differ.items()))
        raise InputError(
            f"{plan.workdir} holds a study made with another config or dataset ({told}); use another --workdir"
        )
    plan.workdir.mkdir(parents=True, exist_ok=True)
    durable.write_json(file, {"format": 1, "runs": before | now})


def _begun(plan: Plan) -> set[str]:
    """Names of the cells of which something was made, and of what those start from."""
    made = [cell for cell in plan.everything if any(path.exists() for path in (*cell.runs, cell.tuning))]
    return {cell.name for cell in made} | {cell.start for cell in made}


def _plain(cell: Cell, contents: Mapping[str, str], metric: str) -> dict:
    """Flat, as JSON gives it back, and without where anything lies: moving a study does not change it.

    Datasets are kept by their content. A run from elsewhere that it starts from is kept by its weights; one of the
    study itself by its name. The ``metric`` is kept where trials are chosen by it.
    """
    values = flat(cell.config)
    if cell.trials:
        values |= {"trials": [trial.changes for trial in cell.trials], "parts": cell.parts}
    if len(cell.trials) > 1:
        values["metric"] = metric
    values = json.loads(json.dumps(values))
    former = values.get("init_from")
    values = {key: value for key, value in values.items() if key not in ("init_from", "data.path")}
    return values | {
        "content_hash": sorted({contents[path] for path in cell.datasets}),
        "init_from": cell.start or (manifest.last(Path(former)) if former else ""),
    }


def _told_by_runs(cell: Cell) -> dict:
    """What the runs of a cell tell of it that its plan may be older than; nothing where none has begun."""
    files, kept = [run / "dataset.json" for run in cell.runs], {}
    sheet = next((durable.read_json(file) for file in files if file.exists()), None)
    if sheet is not None:
        read = {sheet["content_hash"], *(part["content_hash"] for part in sheet.get("beside", ()))}
        kept["content_hash"] = sorted(read)
    if len(cell.trials) > 1 and cell.tuning.exists():
        kept["metric"] = durable.read_json(cell.tuning)["metric"]
    return kept
