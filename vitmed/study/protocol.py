"""What a study makes sure of before it starts: nothing learns from a scan that it is judged or chosen by.

Pretrainings, and the unlabelled scans of semi-supervised arms, are compared with the validation and test splits by
content: by the copies that ingest counted within a dataset, by the pixels where another dataset is learned from. Folds
must be the folds of one set of scans, tested on once each.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vitmed import durable
from vitmed.data import budget
from vitmed.data.copies import copies
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.report import words
from vitmed.study.plan import Cell, Plan

FILE = "protocol.json"


def check(planned: Plan) -> dict[str, Any]:
    """Checks the datasets of a study.

    Returns:
        ``validation``: labelled scans of the validation splits, over all folds; ``notes``: what a reader should know.

    Raises:
        InputError: a pretraining, or an unlabelled stream, that would see scans of the validation or test split; folds
            that are not those of one set.
    """
    opened: dict[str, Dataset] = {}
    for cell in planned.everything:
        opened.setdefault(cell.config.data.path, Dataset.open(cell.config.data.path))
    if planned.config.data.folds:
        _check_folds(planned, opened)
    file = planned.workdir / FILE
    seen = set(durable.read_json(file)["apart"]) if file.exists() else set()
    for name, cell in _without_labels(planned).items():
        seen |= _check_apart(name, cell, opened[cell.config.data.path], _held_apart(planned), seen)
    planned.workdir.mkdir(parents=True, exist_ok=True)
    durable.write_json(file, {"format": 1, "apart": sorted(seen)})
    first = planned.cells[0].config.data
    return {
        "validation": sum(
            _labelled(dataset, first.get("val_split", "val"), planned.masks) for dataset in opened.values()
        ),
        "notes": _notes(planned, list(opened.values()), first.get("split", "train")),
    }


def _held_apart(planned: Plan) -> list[str]:
    """The splits that are judged or chosen by."""
    val = planned.cells[0].config.data.get("val_split", "val")
    return list(dict.fromkeys([val, planned.config.study.split, "test"]))


def _without_labels(planned: Plan) -> dict[str, Cell]:
    """One cell for each key of the config and fold whose run learns from scans without labels."""
    from vitmed.objectives.registry import OBJECTIVES  # late: it loads JAX

    found = {}
    for cell in planned.pretrains:
        named = cell.pretraining in planned.config.pretrains
        key = f"config.pretrains.{cell.pretraining}" if named else "config.pretrain"
        found.setdefault((key, cell.fold), cell)
    for cell in planned.cells:
        name = cell.config.get("objective", {}).get("name", "")
        if "unlabelled" in getattr(getattr(OBJECTIVES.get(name), "Config", None), "streams", ()):
            found.setdefault((f"config.arms.{cell.arm}.config", cell.fold), cell)
    return {f"{key} (fold {fold})" if fold else key: cell for (key, fold), cell in found.items()}


def _check_apart(key: str, cell: Cell, own: Dataset, held: list[str], seen: set[str]) -> set[str]:
    """Notes of what was compared, for next time; InputError where a scan is on both sides."""
    data = cell.config.data
    split, left_out = data.get("split", "train"), tuple(data.get("apart", ()))
    held = [name for name in held if own.has_split(name)]
    paths = list(data.get("mix", {}) or {data.path: 1}) if not cell.arm else [data.path]
    if data.get("unlabelled", "") not in ("", "split"):
        paths.append(data.unlabelled)
    done = set()
    for path in paths:
        same = Path(path).resolve() == own.path.resolve()
        if same and split in held:
            raise InputError(f"{key}.data.split is {split!r}, which models are judged by; learn from another")
        other = own if same else Dataset.open(path)
        for name in (name for name in held if name not in left_out):
            known = own.datasheet.get("duplicates", {}).get(f"{split}/{name}") if same else None
            mark = " ".join([own.datasheet["content_hash"], name, other.datasheet["content_hash"], split])
            if known is None and mark not in seen:
                known = len(copies(other, split, own, [name]))
                done.add(mark)
            if known:
                raise InputError(
                    f"{key} would learn from copies of scans that models are judged by ({known} of the {name} split of "
                    f"{own.path}, in {other.path}); leave them out with {key.split(' ')[0]}.data.apart={tuple(held)!r}, "
                    "or ingest with --dedupe"
                )
    return done


def _check_folds(planned: Plan, opened: dict[str, Dataset]) -> None:
    folds, first, tested = planned.config.data.folds, None, {}
    for cell in planned.cells:
        tested.setdefault(cell.fold, opened[cell.config.data.path])
    for fold, dataset in tested.items():
        splits = dataset.datasheet["splits"]
        if splits["how"] != f"fold:{fold}/{folds}":
            raise InputError(
                f"{dataset.path} is split by {splits['how']}; fold {fold} of config.data.folds={folds} is a dataset of "
                f"`vitmed ingest --split fold:{fold}/{folds}`"
            )
        known = [scan for split in dataset.splits for scan in dataset.ids(split)]
        alike = {"scans": sorted(known), "seed": splits["seed"], "dedupe": splits["dedupe"]}
        first = first or alike
        for what in alike:
            if alike[what] != first[what]:
                raise InputError(
                    f"{dataset.path} is no fold of the same set as {next(iter(tested.values())).path}: their {what} "
                    "differ; ingest all folds from one source with the same options"
                )
    where: dict[str, Path] = {}
    for dataset in tested.values():
        for scan in dataset.ids("test"):
            if where.setdefault(scan, dataset.path) != dataset.path:
                raise InputError(
                    f"{scan} is tested on in {where[scan]} and in {dataset.path}; ingest all folds alike"
                )


def _labelled(dataset: Dataset, split: str, masks: bool) -> int:
    if not dataset.has_split(split):
        return 0
    if masks:
        return len(budget.marked(dataset, split))
    return int(np.sum((dataset.labels(split)[1] > 0).any(axis=1)))


def _notes(planned: Plan, datasets: list[Dataset], split: str) -> list[str]:
    reported, notes = planned.config.study.split, []
    for kind, what in (("duplicates", "are copies of"), ("near_duplicates", "look like")):
        counts = [d.datasheet.get(kind, {}).get(f"{split}/{reported}", 0) for d in datasets]
        if sum(counts):
            notes.append(
                f"{words.plural(sum(counts), 'scan')} of the {reported} split {what} scans with labels in {split}: numbers "
                "of all arms are flattered by them."
            )
    left = sorted({name for cell in planned.pretrains for name in cell.config.data.get("apart", ())})
    if left:
        notes.append(f"Pretrainings leave out what is a copy of a scan of {words.listed(left)}.")
    return notes
