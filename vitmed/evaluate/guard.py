"""Whether a semi-supervised run is worth it: supervised fine-tuning is kept unless it is beaten within the budget.

Few labels make it easy to see a gain that is none, and a validation split of hundreds is a label budget of its own
(Oliver et al. 2018, arXiv:1804.09170, section 4.6). So both are trained on the labelled scans without one part of
them, for each of k parts in turn, and judged by the part left out; no label beyond the budget is read. The mean over
the parts decides, and a tie is for the supervised. This costs 2k more trainings of as many steps as the run itself.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vitmed import durable
from vitmed.config import tree
from vitmed.data import budget
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import masks, metrics
from vitmed.evaluate.measures import Judged, estimates, measures
from vitmed.evaluate.score import probabilities
from vitmed.infer import Model
from vitmed.objectives import segmentation, supervised
from vitmed.runs import folder

FILE = "guard.json"
_PLAIN = "supervised"
_METRIC = {"regression": "negative_rmse", "segmentation": "dice"}  # by task; of all others AUROC


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """Keys of ``config.guard``.

    Attributes:
        folds: parts of the label budget that are left out in turn; 0 is no guard.
    """

    folds: int = 0

    def __post_init__(self):
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds is {self.folds}; 2 or more were expected, or 0 for no guard")


def check(config: Any) -> None:
    """InputError where a checked config asks for a guard of what has no supervised part, or beside what it cannot stand."""
    asked, folds, data = config.objective.name, config.guard.folds, config.data
    if not folds:
        return
    if asked == _PLAIN or not isinstance(config.objective, segmentation.Config | supervised.Config):
        raise InputError(f"config.guard.folds is {folds}, but {asked!r} is not semi-supervised; set it to 0")
    for key, given in (("fold", data.fold), ("mix", data.mix)):
        if given:
            raise InputError(
                f"config.guard.folds is {folds} and config.data.{key} is set: a guard leaves parts of the label budget of "
                "one dataset out by itself; set one of the two to nothing"
            )


def choose(
    values: ConfigDict, config: Any, run: Path, train: Callable[[ConfigDict, Path], dict], quiet: bool = False
) -> ConfigDict:
    """The config to train by, that of ``values`` or its supervised part; says why in ``run/guard.json``.

    The runs of the folds stay in ``run/guard/``, where an interrupted guard goes on.

    Args:
        values: as asked for, with ``guard.folds``.
        config: the same, checked.
        train: trains by a config in a folder, going on from where it stands; gives ``step``, where it ended.

    Raises:
        InputError: as ``check``; too few labels for the folds, or a run that was made without a guard.
    """
    check(config)
    asked, of_masks, folds = config.objective.name, config.objective.of_masks, config.guard.folds
    folder.place(run)
    if (run / "config.json").exists() and not (run / FILE).exists():
        raise InputError(
            f"{run} is a run without a guard; give another --workdir, or set config.guard.folds to 0"
        )
    arms = {asked: _changed(values, guard={"folds": 0}), _PLAIN: plain(values, config)}
    dataset, data = Dataset.open(config.data.path), config.data
    copied = data.left_out(dataset, dataset)
    chosen = budget.labelled(dataset, data.split, data.labels, data.label_seed, of_masks, copied)
    parts = [
        budget.fold(dataset, data.split, chosen, (k, folds), data.label_seed, of_masks) for k in range(folds)
    ]
    steps = config.train.total(len(chosen))
    if not quiet:
        print(
            f"guard: {asked} against {_PLAIN} on {folds} folds of {len(chosen)} labelled scans: {2 * folds} trainings "
            f"of {steps} steps before the run's own",
            file=sys.stderr,
            flush=True,
        )
    found: dict[str, list[float]] = {name: [] for name in arms}
    extra = 0
    for k, part in enumerate(parts):
        for name, own in arms.items():
            fold = run / "guard" / f"{name}-{k}"
            length = {} if _counts_epochs(fold) else {"steps": steps, "epochs": None}
            unjudged = {"train": {"val_every": 0, **length}, "checkpoint": {"best": None}}
            one = _changed(own, data={"fold": (k, folds)}, **unjudged)
            extra += train(one, fold)["step"]
            found[name].append(_judged(Model.open(fold), dataset, data.split, part))
    means = {name: float(np.mean(numbers)) for name, numbers in found.items()}
    kept = asked if means[asked] > means[_PLAIN] else _PLAIN
    decision = {
        "format": 1,
        "asked": asked,
        "chosen": kept,
        "labels": len(chosen),
        "metric": _METRIC.get("segmentation" if of_masks else dataset.datasheet["task"], "auroc"),
        "folds": found,
        "mean": means,
        "extra_steps": extra,
    }
    durable.write_json(run / FILE, decision)
    if not quiet:
        print(sentence(decision), file=sys.stderr, flush=True)
    return arms[kept]


def _counts_epochs(fold: Path) -> bool:
    """Whether a fold was begun by epochs, which are fewer steps of it than of the run: it goes on as it began."""
    return (fold / "config.json").exists() and folder.config_of(fold).train.epochs is not None


def plain(values: ConfigDict, config: Any) -> ConfigDict:
    """The supervised part of a semi-supervised config: the same keys, the labelled stream alone."""
    one = segmentation if config.objective.of_masks else supervised
    keys = {field.name for field in dataclasses.fields(one.Config)}
    own = {k: v for k, v in values.objective.to_dict().items() if k in keys}
    # Where a teacher is the run's slow average, the supervised one is as slow.
    optim = {"ema": config.objective.momentum} if config.objective.averages else {}
    one = tree({**values.to_dict(), "objective": {**own, "name": _PLAIN}})
    return _changed(one, data={"unlabelled": "", "unlabelled_batch": None}, optim=optim, guard={"folds": 0})


def quality(task: str, logits: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """AUROC, a mean over classes or findings where there are several; of regression, minus the RMSE.

    Args:
        logits: (n, outputs) scores.
        label, weight: (n, K) as a dataset gives them.
    """
    metric = (lambda y, s: -metrics.rmse(y, s)) if task == "regression" else metrics.auroc
    return metrics.mean_over_columns(metric, task, label, weight, probabilities(task, logits))


def _judged(model: Model, dataset: Dataset, split: str, part: np.ndarray) -> float:
    """What a run is worth on the examples ``part``: ``quality``, or of masks Dice, a mean over structures."""
    if model.gives_masks:
        score, label, weight = masks.judged(model, dataset, split, part).stacked()
        found = Judged("segmentation", model.structures, score, label, weight > 0, np.arange(len(part)))
        return float(estimates(measures(found)[0], np.ones((1, len(part))))["dice"][0])
    label, weight = dataset.labels(split)
    logits = model.logits(dataset, split, part)
    return quality(dataset.datasheet["task"], logits, label[part], weight[part])


def told(run: Path) -> dict[str, Any] | None:
    """What the guard of a run decided, as ``choose`` wrote it; None where it had none."""
    return durable.read_json(run / FILE) if (run / FILE).exists() else None


def sentence(told: dict[str, Any]) -> str:
    """The same for people."""
    asked, kept, folds = told["asked"], told["chosen"], told["folds"]
    sides = " and ".join(
        f"{abs(told['mean'][name]):.3f} {name} ({', '.join(f'{abs(x):.3f}' for x in folds[name])})"
        for name in (asked, _PLAIN)
    )
    what = {"auroc": "AUROC", "negative_rmse": "RMSE", "dice": "Dice"}[told["metric"]]
    verdict = "is what was trained" if kept == asked else f"was not better, so {_PLAIN} is what was trained"
    return (
        f"guard: {asked} {verdict}; cross-validated {what} within the {told['labels']} labelled scans, "
        f"{len(folds[asked])} folds: {sides}"
    )


def _changed(values: ConfigDict, **sections: dict) -> ConfigDict:
    """The config with some keys of some sections set."""
    whole = values.to_dict()
    return tree({**whole, **{name: {**whole.get(name, {}), **keys} for name, keys in sections.items()}})
