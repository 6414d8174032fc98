"""``vitmed evaluate``: a run's scores on a split, what they come to, and how often it was opened."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitmed import durable
from vitmed.data.copies import copies
from vitmed.data.dataset import Dataset
from vitmed.data.structures import structures_of
from vitmed.errors import InputError
from vitmed.evaluate import guard, masks
from vitmed.evaluate.predictions import Predictions, write
from vitmed.evaluate.score import probabilities, score
from vitmed.evaluate.subgroups import NOTE, subgroups
from vitmed.infer import Model
from vitmed.progress import Bar
from vitmed.runs import ledger, step_of

SAME_SPLIT = "thresholds were chosen on this same split: what depends on them is optimistic"


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a run says of a split, beside what is true, as ``score`` takes it.

    Attributes:
        task, classes, score, label, weight, val: as ``score`` has them.
        beside, notes: what the result holds too.
    """

    task: str
    classes: list[str]
    score: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    val: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    beside: dict = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def evaluate(
    run: str | Path,
    dataset: str | Path | None = None,
    split: str = "test",
    which: str = "last",
    seed: int = 0,
    by: Sequence[str] = (),
    quiet: bool = True,
    tolerance: float | None = None,
) -> dict:
    """Evaluates a run and writes ``RUN/evaluations/SPLIT/{metrics.json, predictions.csv}``.

    Thresholds come from the dataset's validation split (``config.data.val_split`` of the run); masks need none, and
    are compared on the dataset's own grid. Every call is noted in the run's ledger. A dataset other than the one
    trained on goes to ``RUN/evaluations/SPLIT@HASH/``.

    Args:
        run: folder of a run with a classifier or regressor, or of one that gives masks.
        dataset: folder of the dataset; None takes the one that the run was trained on.
        split: name of the split.
        which: "last" or "best" checkpoint.
        seed: of the bootstrap.
        by: columns of the dataset, such as "site", by whose groups the numbers are given too.
        quiet: show no progress.
        tolerance: of NSD, in millimetres, or in pixels where a spacing is not known; None is ``masks.TOLERANCE``. Only
            for a run that gives masks.

    Returns:
        What ``score`` returns, with ``run``, ``dataset``, ``split``, ``checkpoint`` (the step), ``opened``
        (how often this split of this dataset was evaluated with this run, this time included) and
        ``folder`` (where it was written), ``order`` (the classes from the lowest rank to the highest, [] if they
        have none), ``guard`` (what was ``asked`` of a guarded run and what its guard had ``chosen``; None without one),
        and ``subgroups``: {column: what ``subgroups`` returns}; of masks also what ``Judging.counted`` says.

    Raises:
        InputError: no run, no labels learned, no such split or column, a split without labels, or a dataset that
            does not fit the run's recipe or labels.
        MachineError: no checkpoint can be read, or the disk is full.
    """
    model = Model.open(run, which)
    if not (model.has_head or model.gives_masks):
        raise InputError(
            f"{run} is a run of {model.objective!r}, which learns no labels; evaluate needs a classifier: "
            "fine-tune it with configs/finetune_classify.py and --config.init_from"
        )
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed is {seed}; a whole number from 0 on was expected")
    if tolerance is not None and not (model.gives_masks and tolerance > 0):
        what = f"{tolerance:g} was given" if model.gives_masks else f"{run} gives none"
        raise InputError(f"--tolerance is a positive distance for the surfaces of masks; {what}")
    if dataset is None and not model.dataset_path:
        raise InputError(f"{run} has its weights from a file, which names no dataset; give --dataset")
    if dataset is None and not Path(model.dataset_path).is_dir():
        raise InputError(
            f"{run} was trained on {model.dataset_path}, which does not exist; if the dataset has moved, give --dataset"
        )
    data = Dataset.open(dataset or model.dataset_path)
    # Refused, before any work, is what cannot be evaluated.
    model.check(data, whole=not model.gives_masks)
    data.size(split)
    check_truth(model, data, split)
    groups = {column: data.groups(split, column) for column in by}
    val_split = model.config["data"].get("val_split", "val")
    if model.gives_masks:
        found = _of_masks(model, data, split, tolerance or masks.TOLERANCE, quiet)
    else:
        found = _of_labels(model, data, split, val_split, quiet)
    patients = data.patients(split)
    given = (found.task, found.classes, found.score, found.label, found.weight, patients, found.val, seed)
    order = [found.classes.index(name) for name in model.order]
    result = score(*given, order=order)
    result |= found.beside
    result["notes"] += learned_from(model, data, split) + model.beside(data) + found.notes
    result["subgroups"] = {column: subgroups(names, *given, order=order) for column, names in groups.items()}
    if by:
        result["notes"].append(NOTE)
    own = data.datasheet["content_hash"] == model.datasheet["content_hash"]
    if result["threshold_from"] == "val":
        if split == val_split:
            result["notes"].append(SAME_SPLIT)
        elif not own:
            result["notes"].append(
                f"thresholds were chosen on the {val_split} split of {data.path}; predict says yes at those of the run's "
                "own dataset"
            )
    decided = guard.told(model.run)
    if decided is not None:
        result["notes"].append(guard.sentence(decided))
    out = model.run / "evaluations" / (split if own else f"{split}@{data.datasheet['content_hash'][:12]}")
    with durable.disk(out, "the evaluation"):
        out.mkdir(parents=True, exist_ok=True)
    step = step_of(model.run, which)
    # Noted before the numbers are shown or written: a split that was looked at has been looked at.
    opened = ledger.record(model.run, data.datasheet["content_hash"], split, step)
    result = {
        "run": str(run),
        "dataset": str(data.path),
        "split": split,
        "checkpoint": step,
        "opened": opened,
        "folder": str(out),
        "task": found.task,
        "classes": found.classes,
        "order": model.order,
        "guard": decided and {key: decided[key] for key in ("asked", "chosen")},
        **result,
    }
    table = Predictions(
        found.task,
        found.classes,
        data.ids(split),
        patients,
        data.sites(split),
        probabilities(found.task, found.score),
        found.label,
        found.weight,
    )
    write(out / "predictions.csv", table)
    # Not sorted by key: the numbers stand in the order that people read them in.
    durable.write_text(out / "metrics.json", json.dumps({"format": 1, **result}, indent=2) + "\n")
    return result


def learned_from(model: Model, data: Dataset, split: str) -> list[str]:
    """What should be said of scans of a split of another dataset than the run's: it may have learned from them."""
    if data.datasheet["content_hash"] == model.datasheet["content_hash"]:
        return []
    trained = model.config["data"].get("split", "train")
    there = Path(model.dataset_path) if model.dataset_path else None
    if there is not None and there.is_dir():
        own = Dataset.open(there)
        if own.datasheet["content_hash"] == model.datasheet["content_hash"]:
            seen = len(copies(data, split, own, (trained,)))
            many = f"{seen} of {data.size(split)} scans of the {split} split of {data.path} are"
            return (
                [f"{many} copies of scans that the run learned from: the numbers flatter it"] if seen else []
            )
    return [
        f"{data.path} is not what the run was trained on, which is gone: whether it learned from scans of the {split} split "
        "is not known"
    ]


def check_truth(model: Model, data: Dataset, split: str) -> None:
    """InputError where a split's labels or masks are none, or not what the run learned."""
    if model.gives_masks:
        _check_structures(model, data)
        return
    mine, theirs = (
        (sheet["task"], list(sheet["classes"] or ())) for sheet in (model.datasheet, data.datasheet)
    )
    if mine != theirs:
        raise InputError(
            f"dataset {data.path} has labels {_labels(*theirs)}, "
            f"but the run {model.run} learned {_labels(*mine)}; give a dataset ingested with the same labels"
        )
    if not data.labels(split)[1].any():
        raise InputError(f"split {split!r} of {data.path} has no labels; ingest it with --labels")


def _check_structures(model: Model, data: Dataset) -> None:
    if not data.has_masks:
        raise InputError(
            f"{data.path} has no masks; ingest it with some, such as by a manifest's column mask"
        )
    theirs = [name for name, _ in structures_of(data.datasheet)]
    if theirs != model.structures:
        raise InputError(
            f"the masks of {data.path} hold {', '.join(theirs)}, but the run {model.run} learned "
            f"{', '.join(model.structures)}; give a dataset whose masks name the same structures"
        )


def _of_labels(model: Model, data: Dataset, split: str, val_split: str, quiet: bool) -> Scored:
    task, classes = data.datasheet["task"], data.datasheet["classes"]
    with_val = task != "regression" and data.has_split(val_split) and data.labels(val_split)[1].any()
    splits = list(dict.fromkeys([split, val_split] if with_val else [split]))
    with Bar(f"evaluate {split}", sum(map(data.size, splits)), "scans", quiet=quiet) as bar:
        logits = {name: logits_of(model, data, name, bar) for name in splits}
    val = (logits[val_split], *data.labels(val_split)) if with_val else None
    return Scored(task, list(classes), logits[split], *data.labels(split), val)


def _of_masks(model: Model, data: Dataset, split: str, tolerance: float, quiet: bool) -> Scored:
    with Bar(f"evaluate {split}", data.size(split), "scans", quiet=quiet) as bar:
        judging = masks.judged(model, data, split, tolerance=tolerance, advance=bar.advance)
    return Scored(
        "segmentation", model.structures, *judging.stacked(), beside=judging.counted(), notes=judging.notes
    )


def _labels(task: str | None, classes: list[str]) -> str:
    return f"{task} ({', '.join(classes)})" if task else "of no kind"


def logits_of(model: Model, data: Dataset, split: str, bar: Bar) -> np.ndarray:
    """Scores of a whole split, (n, K), with the bar moving on."""
    parts = []
    for indices in model.stretches(data.size(split)):
        parts.append(model.logits(data, split, indices))
        bar.advance(len(indices))
    return np.concatenate(parts)
