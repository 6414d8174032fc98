"""``vitmed evaluate``: a run's scores on a split, what they come to, and how often it was opened."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitmed import durable
from vitmed.config import build
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import guard
from vitmed.evaluate.predictions import Predictions, write
from vitmed.evaluate.score import probabilities, score
from vitmed.evaluate.subgroups import NOTE, subgroups
from vitmed.infer import BATCH, Model
from vitmed.progress import Bar
from vitmed.runs import folder, ledger
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints

_AT_ONCE = 8 * BATCH  # examples between two ticks of the progress bar


def evaluate(
    run: str | Path,
    dataset: str | Path | None = None,
    split: str = "test",
    which: str = "last",
    seed: int = 0,
    by: Sequence[str] = (),
    quiet: bool = True,
) -> dict:
    """Evaluates a run and writes ``RUN/evaluations/SPLIT/{metrics.json, predictions.csv}``.

    Thresholds come from the dataset's validation split (``config.data.val_split`` of the run). Every call
    is noted in the run's ledger. A dataset other than the one trained on goes to
    ``RUN/evaluations/SPLIT@HASH/``.

    Args:
        run: folder of a run with a classifier or regressor.
        dataset: folder of the dataset; None takes the one that the run was trained on.
        split: name of the split.
        which: "last" or "best" checkpoint.
        seed: of the bootstrap.
        by: columns of the dataset, such as "site", by whose groups the numbers are given too.
        quiet: show no progress.

    Returns:
        What ``score`` returns, with ``run``, ``dataset``, ``split``, ``checkpoint`` (the step), ``opened``
        (how often this split of this dataset was evaluated with this run, this time included) and
        ``folder`` (where it was written), ``order`` (the classes from the lowest rank to the highest, [] if they
        have none), and ``subgroups``: {column: what ``subgroups`` returns}.

    Raises:
        InputError: no run, no labels learned, no such split or column, a split without labels, or a dataset that
            does not fit the run's recipe or labels.
        MachineError: no checkpoint can be read, or the disk is full.
    """
    model = Model.open(run, which)
    if not model.has_head:
        raise InputError(
            f"{run} is a run of {model.objective!r}, which learns no labels; evaluate needs a classifier: "
            "fine-tune it with configs/finetune_classify.py and --config.init_from"
        )
    data = Dataset.open(dataset or model.dataset_path)
    _check(model, data, split)
    task, classes = data.datasheet["task"], data.datasheet["classes"]
    groups = {column: data.groups(split, column) for column in by}
    val_split = model.config["data"].get("val_split", "val")
    with_val = task != "regression" and data.has_split(val_split) and data.labels(val_split)[1].any()
    splits = list(dict.fromkeys([split, val_split] if with_val else [split]))
    with Bar(f"evaluate {split}", sum(map(data.size, splits)), "scans", quiet=quiet) as bar:
        logits = {name: _logits(model, data, name, bar) for name in splits}
    label, label_weight = data.labels(split)
    patients = data.patients(split)
    val = (logits[val_split], *data.labels(val_split)) if with_val else None
    given = (task, classes, logits[split], label, label_weight, patients, val, seed)
    order = [classes.index(name) for name in model.order]
    result = score(*given, order=order)
    result["subgroups"] = {column: subgroups(names, *given, order=order) for column, names in groups.items()}
    if by:
        result["notes"].append(NOTE)
    if split == val_split and result["threshold_from"] == "val":
        result["notes"].append(
            "thresholds were chosen on this same split: what depends on them is optimistic"
        )
    if (decided := guard.told(model.run)) is not None:
        result["notes"].append(guard.sentence(decided))
    own = data.datasheet["content_hash"] == model.datasheet["content_hash"]
    out = model.run / "evaluations" / (split if own else f"{split}@{data.datasheet['content_hash'][:12]}")
    with durable.disk(out, "the evaluation"):
        out.mkdir(parents=True, exist_ok=True)
    step = _step(model.run, which)
    # Noted before the numbers are shown or written: a split that was looked at has been looked at.
    opened = ledger.record(model.run, data.datasheet["content_hash"], split, step)
    result = {
        "run": str(run),
        "dataset": str(data.path),
        "split": split,
        "checkpoint": step,
        "opened": opened,
        "folder": str(out),
        "task": task,
        "classes": list(classes),
        "order": model.order,
        **result,
    }
    scores = probabilities(task, logits[split])
    table = Predictions(
        task, list(classes), data.ids(split), patients, data.sites(split), scores, label, label_weight
    )
    write(out / "predictions.csv", table)
    # Not sorted by key: the numbers stand in the order that people read them in.
    durable.write_text(out / "metrics.json", json.dumps({"format": 1, **result}, indent=2) + "\n")
    return result


def _check(model: Model, data: Dataset, split: str) -> None:
    """Refuses, before any work, what cannot be evaluated."""
    model.check(data)
    if not data.has_split(split):
        raise InputError(f"dataset {data.path} has no split {split!r}; it has {', '.join(data.splits)}")
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


def _labels(task: str | None, classes: list[str]) -> str:
    return f"{task} ({', '.join(classes)})" if task else "of no kind"


def _logits(model: Model, data: Dataset, split: str, bar: Bar) -> np.ndarray:
    parts = []
    for start in range(0, data.size(split), _AT_ONCE):
        indices = np.arange(start, min(start + _AT_ONCE, data.size(split)))
        parts.append(model.logits(data, split, indices))
        bar.advance(len(indices))
    return np.concatenate(parts)


def _step(run: Path, which: str) -> int:
    """The step of the checkpoint just restored; a corrupt one was put aside by then."""
    config = build(CheckpointConfig, folder.config_of(run).get("checkpoint", {}), "config.checkpoint")
    with Checkpoints(run, config) as checkpoints:
        return checkpoints.best() if which == "best" else checkpoints.latest()
