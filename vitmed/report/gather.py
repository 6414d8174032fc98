"""Reads what a report speaks of (datasets, runs, studies) from their folders, as plain dicts."""

from pathlib import Path
from typing import Any

from vitmed import durable
from vitmed.config import flat
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.runs import folder, ledger, metrics

_CURVES = (("loss", "training"), ("train/loss", "training"), ("val/loss", "validation"))


def kind(path: Path) -> str:
    """What a folder holds: "run", "study" or "dataset".

    Raises:
        InputError: none of them.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a run, of a study or of a dataset")
    for name, file in (("run", "config.json"), ("study", "table.json"), ("dataset", "datasheet.json")):
        if (path / file).exists():
            return name
    if (path / "plan.json").exists():
        raise InputError(
            f"{path} is a study without its table yet; run the same `vitmed study` until it ends"
        )
    raise InputError(f"{path} is no run, no study and no dataset; give a folder that vitmed made")


def run(path: Path) -> dict[str, Any]:
    """A run: its config, losses, evaluations, and how it was made.

    Raises:
        InputError: no run there, or a file of it is damaged.
    """
    from vitmed.objectives.registry import OBJECTIVES  # late: the page of a dataset does without JAX

    config = folder.config_of(path)
    starts = (
        durable.read_json(path / "environment.json").get("starts", [])
        if (path / "environment.json").exists()
        else []
    )
    series = metrics.read(path)
    objective = config.get("objective", {}).get("name", "")
    sheet, keys = folder.datasheet_of(path), flat(config)
    return {
        "path": path,
        "name": path.name,
        "config": config,
        "flat": keys,
        "objective": objective,
        "supervised": objective in OBJECTIVES and OBJECTIVES[objective].Config.labelled,
        "recipe": folder.recipe_of(path),
        "datasheet": sheet,
        # Fewer than the split holds where copies of other splits, or labels beyond a budget, are left out; None of
        # weights from a file that does not say it.
        "learned_from": sheet.get(
            "learned_from", sheet.get("examples", {}).get(keys.get("data.split", "train"))
        ),
        "first": starts[0] if starts else {},
        "starts": len(starts),
        "curves": [(label, *map(list, series[name])) for name, label in _CURVES if name in series],
        "step": max((int(steps[-1]) for steps, _ in series.values() if len(steps)), default=0),
        "evaluations": sorted(
            (_evaluation(file) for file in path.glob("evaluations/*/metrics.json")),
            key=lambda e: (e["content"] != "", e["folder"]),
        ),
        "ledger": ledger.entries(path),
    }


def study(path: Path) -> dict[str, Any]:
    """A study's table (``table.json``) with its folder and its pretrainings, one of each."""
    table = durable.read_json(path / "table.json")
    named = [path / name for name in table.get("pretrainings", ["pretrain"])]
    return table | {"path": path, "pretrains": [run(p) for p in named if (p / "config.json").exists()]}


def dataset(path: Path) -> dict[str, Any]:
    """A dataset opened, with its datasheet; InputError where it is none."""
    opened = Dataset.open(path)
    sites = {}
    for split in opened.splits:
        for site in opened.sites(split) or []:
            sites[site] = sites.get(site, 0) + 1
    return {"path": path, "opened": opened, "sheet": opened.datasheet, "sites": sites}


def _evaluation(file: Path) -> dict[str, Any]:
    """An evaluation with its ``folder``, the start of the ``content`` hash of its dataset and that one's name, ``of``.

    Both are "" where it is the run's own dataset.
    """
    found = durable.read_json(file)
    content = file.parent.name.partition("@")[2]
    return found | {
        "folder": file.parent,
        "content": content,
        "of": content and (Path(found["dataset"]).name or content),
    }
