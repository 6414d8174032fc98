"""What a study runs: the pretrainings, then a cell for every arm, label budget, draw and fold.

An arm is one way to a model (pretrained, from scratch, a CNN); a budget is how many labels it may use; a draw
is which ones. Draw ``d`` labels the same examples in every arm (``data.label_seed = d``), so arms are
compared pair by pair. A fold is a dataset of its own, on whose training split all is learned, the pretraining too.
Every cell is an ordinary training run with an ordinary config.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitmed.config import build
from vitmed.errors import InputError
from vitmed.study import published
from vitmed.study.config import BEST, Arm, StudyConfig

PRETRAIN = "pretrain"  # the pretraining that has no other name
# What no setting may change: what an arm learns, which scans and labels from, what it chooses by and starts from.
_GIVEN = (
    *(f"data.{key}" for key in ("path", "split", "val_split", "mix", "unlabelled", "labels", "label_seed")),
    *("data.fold", "data.apart", "train.seed", "probe", "guard", "init_from", "init_adapt"),
    *("objective.name", "objective.task", "objective.order"),
)
# What no arm may set, as each of its cells has its own: the key, what it is where nobody sets it, and who gives it.
_REPLACED = (
    ("data", "labels", None, "config.study.budgets says how many labels each cell has"),
    ("data", "label_seed", 0, "config.study.draws says how often labels are drawn, each time others"),
    ("train", "seed", 0, "config.study.draws says how often an arm is trained, each time by another"),
)
_ELSEWHERE = ", and name what else to pretrain on in its data.mix"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of a cell: what it changes, {dotted key: value}, and the whole training config."""

    changes: dict[str, Any]
    config: ConfigDict


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of the study. ``arm`` is "" for a pretraining, which is not evaluated.

    Attributes:
        pretraining: which pretraining it is, by its name in the config; "" where it is none.
        start: name of the cell of the pretraining that it starts from; "" is none.
        source: which of its pretraining's seeds that is.
        fold: from 1; 0 where there are no folds.
        splits: that it is evaluated on.
        trials: what it chooses among; () where there is nothing to choose.
        parts: of the label budget, left out in turn to judge a trial; 0 where trials are judged on validation.
    """

    name: str
    run: Path
    config: ConfigDict
    arm: str = ""
    budget: int | float = 1.0
    draw: int = 0
    fold: int = 0
    pretraining: str = ""
    start: str = ""
    source: int = 0
    splits: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    parts: int = 0

    @property
    def images(self) -> int:
        """How many images it trains on in all: the measure of its work. 0 where steps are not given."""
        section = self.config.get("train", {})
        return (section.get("steps") or 0) * (section.get("batch_size") or 0) * self.trainings

    @property
    def trainings(self) -> int:
        """How many trainings it takes: the run itself, which on validation is the best trial, and its trials."""
        return max(len(self.trials) * (self.parts or 1) + bool(self.parts), 1)

    @property
    def datasets(self) -> list[str]:
        """Paths of all that it reads."""
        data = self.config.data
        unlabelled = data.get("unlabelled", "")
        return [data.path, *data.get("mix", {}), *[unlabelled] * (unlabelled not in ("", "split"))]

    @property
    def runs(self) -> list[Path]:
        """Where its trainings lie, so far."""
        return [*(self.trying.glob("[0-9]*") if self.trials else ()), self.run]

    @property
    def trying(self) -> Path:
        """Where its trials lie."""
        return self.run.parent.parent / "trials" / self.name

    @property
    def tuning(self) -> Path:
        """What was tried and chosen, where there is anything to choose."""
        return self.trying / "tuning.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a study runs.

    Attributes:
        left_out: arms that want a published encoder, of which none was given.
    """

    config: StudyConfig
    workdir: Path
    pretrains: tuple[Cell, ...]
    cells: tuple[Cell, ...]
    left_out: tuple[str, ...] = ()

    def of(self, arm: str, budget: int | float) -> list[list[Cell]]:
        """The cells of an arm at a budget, by fold and by draw."""
        found = [cell for cell in self.cells if (cell.arm, cell.budget) == (arm, budget)]
        return [
            [cell for cell in found if cell.fold == fold] for fold in dict.fromkeys(c.fold for c in found)
        ]

    def cell(self, arm: str, budget: int | float, draw: int) -> Cell:
        return next(c for c in self.cells if (c.arm, c.budget, c.draw) == (arm, budget, draw))

    @property
    def order(self) -> tuple[str, ...]:
        """Of ordered classes, their names from the lowest rank to the highest, by which every arm is judged."""
        return next(map(_order, self.config.arms.values()))

    @property
    def masks(self) -> bool:
        """Whether the arms learn from masks and are judged by those they give, and not by labels of whole scans."""
        return _learns_masks(next(iter(self.config.arms.values())))

    def label(self, arm: str) -> str:
        return self.config.arms[arm].label or arm

    @property
    def everything(self) -> tuple[Cell, ...]:
        return self.pretrains + self.cells


def plan(config: ConfigDict, workdir: Path) -> Plan:
    """Checks the study's config and lays out its runs under ``workdir`` (absolute in every run's config).

    Raises:
        InputError: an unknown or missing key, one that the study sets in each run, a comparison with what is no arm, an arm
            that wants a pretraining that is not there, steps that do not match the budgets, arms that label other splits,
            leave out the copies of others or rank the classes otherwise, arms that try other numbers of settings, settings
            that change what an arm learns from, or a published encoder that is not there.
    """
    if "study" not in config and "objective" in config:
        raise InputError("this is the config of one run, not of a study; `vitmed train` runs it")
    checked = build(StudyConfig, config)
    _check_given(checked)
    checked, left_out = published.placed(checked)
    study, workdir = checked.study, Path(workdir).resolve()
    chosen = study.arms or tuple(checked.arms)
    for name in chosen:
        if name not in checked.arms:
            raise InputError(f"config.study.arms has {name!r}; config.arms has {', '.join(checked.arms)}")
    checked = dataclasses.replace(checked, arms={name: checked.arms[name] for name in dict.fromkeys(chosen)})
    _check_comparisons(checked)
    _check_arms(checked)
    _check_tuning(checked)
    folds = list(range(1, checked.data.folds + 1)) or [0]
    pretrains, cells = [], []
    wanted = {arm.init for arm in checked.arms.values()} - {None}
    most = max(study.draws_of.values())
    for fold in folds[: max(study.folds_of(checked.data.folds).values())]:
        for name, own in _pretrainings(checked).items():
            for seed in range(min(study.pretrain_seeds, most)) if name in wanted else ():
                pretrains.append(_pretrain(checked, workdir, name, own, seed, fold))
    # Draw by draw, smallest budget first: a study stopped half-way has whole draws to look at.
    for draw in range(most):
        for at, budget in enumerate(study.budgets):
            if draw >= study.draws_of[budget]:
                continue
            for fold in folds[: study.folds_of(checked.data.folds)[budget]]:
                for name in checked.arms:
                    cells.append(_cell(checked, workdir, name, at, draw, fold))
    return Plan(checked, workdir, tuple(pretrains), tuple(cells), left_out)


def _order(arm: Arm) -> tuple[str, ...]:
    return tuple(arm.config.get("objective", {}).get("order", ()))


def _apart(arm: Arm) -> tuple[str, ...]:
    return tuple(sorted(arm.config.get("data", {}).get("apart", ())))


def _learns_masks(arm: Arm) -> bool:
    return arm.config.get("objective", {}).get("task") == "segmentation"


def sides(checked: StudyConfig, pair: tuple[str, str]) -> list[tuple[str, float | int, str, float | int]]:
    """What an entry of ``config.study.compare`` asks for: (arm, its budget, arm, its budget) each.

    Raises:
        InputError: an arm or budget that is not there, or a budget on one side only.
    """
    study, found = checked.study, []
    for side in pair:
        arm, at, text = side.partition("@")
        if arm not in checked.arms and not (arm == BEST and study.baselines):
            known = ", ".join((*checked.arms, BEST) if study.baselines else checked.arms)
            raise InputError(f"config.study.compare has {side!r}; the arms are {known}")
        budget = next((b for b in study.budgets if text in (str(b), f"{b:g}")), None)
        if at and budget is None:
            raise InputError(
                f"config.study.compare has {side!r}; the budgets are {', '.join(map(str, study.budgets))}"
            )
        found.append((arm, budget))
    (first, one), (second, other) = found
    if (one is None) != (other is None):
        raise InputError(
            f"config.study.compare has {pair}; give both sides a budget (ARM@BUDGET), or neither"
        )
    return [(first, one, second, other)] if one else [(first, b, second, b) for b in study.budgets]


def _check_comparisons(checked: StudyConfig) -> None:
    study, arms = checked.study, checked.arms
    for key, names in (("reference", [study.reference]), ("baselines", study.baselines)):
        for name in filter(None, names):
            if name not in arms:
                raise InputError(f"config.study.{key} is {name!r}; the arms are {', '.join(arms)}")
    for pair in study.compare:
        sides(checked, pair)


def _check_given(checked: StudyConfig) -> None:
    """InputError where a training config sets what the study gives each of its runs."""
    named = [("config.pretrain", checked.pretrain or {})]
    named += [(f"config.pretrains.{name}", own) for name, own in checked.pretrains.items()]
    named += [(f"config.arms.{name}.config", arm.config) for name, arm in checked.arms.items()]
    for key, own in named:
        path = own.get("data", {}).get("path", "")
        if path not in ("", checked.data.path):
            raise InputError(
                f"{key}.data.path is {path!r}, but all runs of a study are of the dataset config.data.path "
                f"({checked.data.path}); leave it out{_ELSEWHERE * (not key.startswith('config.arms'))}"
            )
    for name, arm in checked.arms.items():
        for section, key, plain, instead in _REPLACED:
            value = arm.config.get(section, {}).get(key, plain)
            if value != plain:
                raise InputError(
                    f"config.arms.{name}.config.{section}.{key} is {value!r}, but {instead}; leave it out"
                )
        start = arm.config.get("init_from", "")
        if start and arm.init is not None:
            raise InputError(
                f"config.arms.{name}.config.init_from is {start!r}, but the arm starts from what config.arms.{name}.init "
                f"({arm.init!r}) names; leave out one of the two"
            )


def _check_arms(checked: StudyConfig) -> None:
    splits = {arm.config.get("data", {}).get("split", "train") for arm in checked.arms.values()}
    if len(splits) > 1:
        raise InputError(
            f"config.arms label the splits {', '.join(sorted(splits))}; "
            "all arms must learn from the same examples"
        )
    aparts = {name: _apart(arm) for name, arm in checked.arms.items()}
    if len(set(aparts.values())) > 1:
        told = ", ".join(f"{name} {apart}" for name, apart in aparts.items())
        raise InputError(
            f"config.arms leave out copies of other splits (config.data.apart: {told}), beside which labels are drawn; "
            "give it to each arm alike, so that all learn from the same labels"
        )
    orders = {_order(arm) for arm in checked.arms.values()}
    if len(orders) > 1:
        raise InputError(
            f"config.arms give config.objective.order as {', '.join(map(str, sorted(orders)))}; "
            "all arms must be judged by the same ranks, so give it to each, also where it is not learned by"
        )
    if len({_learns_masks(arm) for arm in checked.arms.values()}) > 1:
        told = ", ".join(
            f"{name} {'masks' if _learns_masks(arm) else 'labels of whole scans'}"
            for name, arm in checked.arms.items()
        )
        raise InputError(
            f"config.arms learn from different things ({told}) and cannot be compared; give all of them "
            "config.objective.task='segmentation', or none"
        )
    pretrainings = _pretrainings(checked)
    for name in (*checked.arms, *checked.pretrains):
        if not re.fullmatch(r"[^\W\d]\w*", name):
            raise InputError(
                f"{name!r} names a folder; use letters, digits and underscores only, a letter first"
            )
    if BEST in checked.arms:
        raise InputError(
            f"config.arms has {BEST!r}, which in config.study.compare is the best of the baselines; give it another name"
        )
    for name, arm in checked.arms.items():
        if arm.init == PRETRAIN and checked.pretrain is None:
            raise InputError(f"config.arms.{name}.init is 'pretrain', but the study has no config.pretrain")
        if arm.init is not None and arm.init not in pretrainings:
            known = ", ".join(pretrainings) or "none"
            raise InputError(f"config.arms.{name}.init is {arm.init!r}; the pretrainings are {known}")
        if arm.steps is not None and len(arm.steps) != len(checked.study.budgets):
            raise InputError(
                f"config.arms.{name}.steps has {len(arm.steps)} entries; config.study.budgets has "
                f"{len(checked.study.budgets)}: give one a budget"
            )
    most = max(checked.data.folds, 1)
    for budget, folds in checked.study.folds_of(checked.data.folds).items():
        if folds > most:
            raise InputError(
                f"config.study.folds runs the budget {budget} on {folds} folds; config.data.folds is "
                f"{checked.data.folds}"
            )


def _check_tuning(checked: StudyConfig) -> None:
    tried = {name: len(arm.trials) for name, arm in checked.arms.items()}
    if len(set(tried.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in tried.items())
        raise InputError(
            f"config.arms.*.grid: the arms try different numbers of settings ({told}); give each the same, since an arm "
            "that was tuned for longer looks better for it"
        )
    for name, arm in checked.arms.items():
        for key in (".".join(path) for path in arm.trials[0]):
            if any(
                f"{key}.".startswith(f"{given}.") or f"{given}.".startswith(f"{key}.") for given in _GIVEN
            ):
                raise InputError(
                    f"config.arms.{name}.grid tries values of {key}; what an arm learns, which scans and labels from, what "
                    "it chooses by and starts from is the same in all its settings: make another arm of it"
                )
    if checked.tune is None and any(arm.grid for arm in checked.arms.values()):
        raise InputError("config.arms.*.grid has settings to try, but config.tune does not say how to choose")
    for name, arm in checked.arms.items():
        if checked.tune and checked.tune.by == "budget" and arm.config.get("guard", {}).get("folds"):
            raise InputError(
                f"config.arms.{name}.config.guard.folds and config.tune both leave parts of the label budget out; "
                "set one of them to nothing (guard.folds=0, or tune.by='val')"
            )
    if checked.study.threshold == "budget" and (checked.tune is None or checked.tune.by != "budget"):
        raise InputError(
            "config.study.threshold is 'budget', which takes the threshold from scans left out of the label budget in "
            "turn; set config.tune with by='budget' and the number of folds"
        )


def _pretrainings(checked: StudyConfig) -> dict[str, dict]:
    return ({PRETRAIN: checked.pretrain} if checked.pretrain is not None else {}) | checked.pretrains


def _name(pretraining: str, seed: int, fold: int) -> str:
    parts = [PRETRAIN] + [pretraining] * (pretraining != PRETRAIN) + [str(seed)] * bool(seed)
    return "-".join(parts + [f"fold{fold}"] * bool(fold))


def _data(checked: StudyConfig, fold: int) -> str:
    return str(Path(_at(checked.data.path, fold)).resolve())


def _at(path: str, fold: int) -> str:
    return path.replace("{fold}", str(fold)) if fold else path


def _pretrain(
    checked: StudyConfig, workdir: Path, pretraining: str, config: dict, seed: int, fold: int
) -> Cell:
    own = ConfigDict(config, allow_dotted_keys=True)
    _set(own, "data", path=_data(checked, fold))
    if own.data.get("mix"):
        mix = {_at(path, fold): weight for path, weight in own.data.mix.items()}
        own.data = ConfigDict(own.data.to_dict() | {"mix": ConfigDict(mix, allow_dotted_keys=True)})
    if seed or fold > 1:
        # Each with a seed of its own: the luck of one is told from that of another.
        _set(own, "train", seed=own.get("train", {}).get("seed", 0) + seed + 1000 * max(fold - 1, 0))
    name = _name(pretraining, seed, fold)
    return Cell(name, workdir / name, own, fold=fold, pretraining=pretraining, source=seed)


def _cell(checked: StudyConfig, workdir: Path, name: str, at: int, draw: int, fold: int) -> Cell:
    study, arm, tune = checked.study, checked.arms[name], checked.tune
    budget, source = study.budgets[at], draw % study.pretrain_seeds
    own = ConfigDict(arm.config, allow_dotted_keys=True)
    _set(own, "data", path=_data(checked, fold), labels=budget, label_seed=draw)
    _set(own, "train", seed=draw + 1000 * max(fold - 1, 0))
    if arm.steps is not None:
        _set(own, "train", steps=arm.steps[at], **({"epochs": None} if "epochs" in own.train else {}))
    start = _name(arm.init, source, fold) if arm.init else ""
    if start:
        with own.ignore_type(), own.unlocked():
            own.init_from = str(workdir / start)
    choosing = name in study.baselines and len(study.baselines) > 1
    splits = dict.fromkeys([study.split] + [own.data.get("val_split", "val")] * choosing)
    title = f"{name}-{budget}-{draw}" + f"-fold{fold}" * bool(fold)
    return Cell(
        title,
        workdir / "cells" / title,
        own,
        name,
        budget,
        draw,
        fold,
        start=start,
        source=source,
        splits=tuple(splits),
        trials=tuple(_trials(own, arm)) if tune else (),
        parts=tune.folds if tune and tune.by == "budget" else 0,
    )


def _trials(config: ConfigDict, arm: Arm) -> Iterator[Trial]:
    for trial in arm.trials:
        own = ConfigDict(config.to_dict(), allow_dotted_keys=True)
        for (*sections, key), value in trial.items():
            node = own
            with own.ignore_type(), own.unlocked():
                for section in sections:
                    if section not in node:
                        node[section] = ConfigDict()
                    node = node[section]
                node[key] = value
        yield Trial({".".join(path): value for path, value in trial.items()}, own)


def _set(config: ConfigDict, section: str, **values) -> None:
    with config.ignore_type(), config.unlocked():
        if section not in config:
            config[section] = ConfigDict()
        for key, value in values.items():
            config[section][key] = value
