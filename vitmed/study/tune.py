"""How a cell chooses among its trials, and where its threshold lies, within the protocol that the config names.

By ``budget`` every trial is trained on the cell's labelled scans without one part of them, for each part in turn, and
judged by the part left out; the mean over the parts decides, and no label beyond the budget is read. The scores of the
left-out scans by the chosen trial give a threshold from inside the budget too. By ``val`` every trial is trained once
and judged on validation, and the best of them is the cell's run. Of equally good trials the first is taken.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from vitmed import durable
from vitmed.config import tree
from vitmed.errors import InputError
from vitmed.evaluate import thresholds
from vitmed.evaluate.measures import Judged, estimates, measures, with_parts
from vitmed.runs.direction import lower_is_better
from vitmed.study.plan import Cell


class LeftOut(NamedTuple):
    """Scores (n, K) of the scans that a run was not trained on, with their labels and weights as a dataset has them.

    Of masks they are what ``vitmed.evaluate.masks.judge`` gives of each.

    ``order`` is of ordered classes, the class index of each rank, lowest first.
    """

    task: str
    classes: list[str]
    score: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    order: tuple[int, ...] = ()


def left_out(run: Path, checkpoint: str) -> LeftOut:
    """What a run with ``data.fold`` says of that part of its label budget.

    Raises:
        InputError: a run that gives neither scores nor masks.
    """
    from vitmed.data import budget  # in the worker alone: the parent needs no accelerator
    from vitmed.data.copies import copies
    from vitmed.data.dataset import Dataset
    from vitmed.evaluate.masks import judged
    from vitmed.evaluate.score import probabilities
    from vitmed.infer import Model

    model = Model.open(run, checkpoint)
    dataset, data, masks = Dataset.open(model.dataset_path), model.config["data"], model.gives_masks
    copied = copies(dataset, data["split"], dataset, data.get("apart", ()))
    chosen = budget.labelled(dataset, data["split"], data["labels"], data["label_seed"], masks, copied)
    part = budget.fold(dataset, data["split"], chosen, tuple(data["fold"]), data["label_seed"], masks)
    if masks:
        return LeftOut(
            "segmentation", model.structures, *judged(model, dataset, data["split"], part).stacked()
        )
    task, (label, weight) = dataset.datasheet["task"], dataset.labels(data["split"])
    score = probabilities(task, model.logits(dataset, data["split"], part))
    classes = list(dataset.datasheet["classes"])
    order = tuple(classes.index(name) for name in model.order)
    return LeftOut(task, classes, score, label[part], weight[part], order)


def choose(cell: Cell, metric: str, checkpoint: str, work: Any) -> ConfigDict:
    """The config to train the cell by; what was tried, and found, goes to ``trials/CELL/tuning.json``.

    Goes on where it was stopped. Runs in a worker.

    Args:
        metric: what trials are judged by, at a threshold of 0.5 where it needs one.
        work: trains, evaluates and judges (``vitmed.study.study.Work``).

    Raises:
        InputError: the metric has no value in any trial.
    """
    if len(cell.trials) < 2 and not cell.parts:
        return cell.config
    if not cell.tuning.exists():
        judge = _within_budget if cell.parts else _on_validation
        values, more = judge(cell, metric, checkpoint, work)
        if len(cell.trials) > 1 and all(value is None for value in values):
            raise InputError(
                f"{cell.name}: no setting has a value of {metric} by the labels that settings are judged by, so none can be "
                "chosen; give config.study.metrics another first one, or more labels"
            )
        sign = -1 if lower_is_better(metric) else 1
        ranked = [-np.inf if value is None else sign * value for value in values]
        chosen = int(np.argmax(ranked))
        told = {
            "format": 1,
            "by": "budget" if cell.parts else "val",
            "metric": metric,
            "trials": [
                {"changes": trial.changes, "value": value} for trial, value in zip(cell.trials, values)
            ],
            "chosen": chosen,
            "threshold": more[chosen] if more else None,
        }
        durable.write_json(cell.tuning, told)
    best = durable.read_json(cell.tuning)["chosen"]
    if not cell.parts and (cell.trying / str(best)).exists():
        cell.run.parent.mkdir(parents=True, exist_ok=True)
        os.replace(cell.trying / str(best), cell.run)
    return cell.trials[best].config


def told(cell: Cell) -> dict[str, Any] | None:
    """What a cell tried and chose; None where there was nothing to choose."""
    return durable.read_json(cell.tuning) if cell.trials and cell.tuning.exists() else None


def _on_validation(cell: Cell, metric: str, checkpoint: str, work: Any) -> tuple[list[float | None], list]:
    values = []
    for number, trial in enumerate(cell.trials):
        run = cell.trying / str(number)
        work.train(trial.config, run)
        split = trial.config.data.get("val_split", "val")
        found = run / "evaluations" / split / "metrics.json"
        result = durable.read_json(found) if found.exists() else work.evaluate(run, split, checkpoint)
        values.append(result["metrics"][metric]["value"])
    return values, []


def _within_budget(cell: Cell, metric: str, checkpoint: str, work: Any) -> tuple[list[float | None], list]:
    values, at = [], []
    for number, trial in enumerate(cell.trials):
        found = []
        for part in range(cell.parts):
            run = cell.trying / f"{number}-{part}"
            whole = trial.config.to_dict()
            whole["data"] = {**whole["data"], "fold": (part, cell.parts)}
            if checkpoint == "last":
                whole["train"] = {**whole["train"], "val_every": 0}
                whole["checkpoint"] = {**whole.get("checkpoint", {}), "best": None}
            work.train(tree(whole), run)
            found.append(work.left_out(run, checkpoint))
        each = [value_of(metric, one) for one in found]
        values.append(None if None in each else float(np.mean(each)))
        at.append(threshold_of(found))
    return values, at


def value_of(metric: str, found: LeftOut) -> float | None:
    """The metric of these scans, None where they do not allow it."""
    judged = _judged(found)
    listed = measures(judged)[0]
    if metric not in {measure.name for measure in listed}:
        return None
    value = estimates(with_parts(listed, [metric]), np.ones((1, len(found.score))))[metric][0]
    return float(value) if np.isfinite(value) else None


def threshold_of(found: list[LeftOut]) -> dict[str, float] | None:
    """The threshold of each yes/no column from all left-out scans together; None where no column takes one."""
    together = found[0]._replace(
        score=np.concatenate([one.score for one in found]),
        label=np.concatenate([one.label for one in found]),
        weight=np.concatenate([one.weight for one in found]),
    )
    judged, made = _judged(together), {}
    for k, name in enumerate(judged.columns):
        _, label, score = judged.column(k)
        both = label.any() and not label.all()
        made[name] = thresholds.balanced(label, score) if both else thresholds.DEFAULT
    return made or None


def _judged(found: LeftOut) -> Judged:
    known = np.asarray(found.weight) > 0
    at = np.arange(len(found.score))
    return Judged(
        found.task, found.classes, found.score, np.asarray(found.label), known, at, order=found.order
    )


def settings(cells: list[Cell]) -> list[str]:
    """What the cells chose, each setting once, as ``optim.lr=0.001``."""
    made = []
    for cell in cells:
        found = told(cell)
        if found is not None:
            changes = found["trials"][found["chosen"]]["changes"]
            made.append(", ".join(f"{key}={value}" for key, value in changes.items()))
    return list(dict.fromkeys(filter(None, made)))
