"""What a study runs: one pretraining, then a cell for every arm, label budget and draw.

An arm is one way to a model (pretrained, from scratch, a CNN); a budget is how many labels it may use; a draw
is which ones. Draw ``d`` labels the same examples in every arm (``data.label_seed = d``), so arms are
compared pair by pair. Every cell is an ordinary training run with an ordinary config.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from vitmed import durable
from vitmed.config import build, flat
from vitmed.errors import InputError


@dataclasses.dataclass(frozen=True)
class DataSection:
    path: str


@dataclasses.dataclass(frozen=True)
class StudySection:
    name: str
    budgets: tuple[int | float, ...]  # an int is a count of examples, a float at most 1 a fraction of them
    draws: (
        int | tuple[int, ...]
    )  # of which labels and of the seed; one number for all budgets, or one a budget
    metrics: tuple[str, ...]  # the first is the one that the findings speak of
    reference: str  # the arm that every other is compared with
    arms: tuple[str, ...] = ()  # which arms to run, in the table's order; all of config.arms if empty
    split: Literal["test", "val"] = "test"  # "val" while models are still being chosen
    checkpoint: Literal["last", "best"] = "last"

    def __post_init__(self):
        if not self.budgets or len(set(self.budgets)) != len(self.budgets) or min(self.budgets) <= 0:
            raise ValueError(f"budgets is {self.budgets}; give different positive counts or fractions")
        if any(isinstance(b, float) and b > 1 for b in self.budgets):
            raise ValueError(
                f"budgets is {self.budgets}; a fraction is at most 1.0, a count is a whole number"
            )
        if not isinstance(self.draws, int) and len(self.draws) != len(self.budgets):
            raise ValueError(
                f"draws is {self.draws}; give one number, or one for each of the {len(self.budgets)} budgets"
            )
        if min(self.draws_of.values()) < 1:
            raise ValueError(f"draws is {self.draws}; at least one is needed")
        if not self.metrics:
            raise ValueError("metrics is empty; name at least one, such as 'auroc'")

    @property
    def draws_of(self) -> dict[int | float, int]:
        """How often each budget is drawn."""
        draws = (self.draws,) * len(self.budgets) if isinstance(self.draws, int) else self.draws
        return dict(zip(self.budgets, draws))


@dataclasses.dataclass(frozen=True)
class Arm:
    config: dict[str, Any]  # a training config
    init: Literal["pretrain"] | None = None
    steps: tuple[int, ...] | None = None  # train.steps, one a budget; None leaves the config's own
    label: str = ""  # how tables and figures call it; the arm's name if empty


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    data: DataSection
    study: StudySection
    arms: dict[str, Arm]
    pretrain: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of the study. ``arm`` is "" for the pretraining, which is not evaluated."""

    name: str
    run: Path
    config: ConfigDict
    arm: str = ""
    budget: int | float = 1.0
    draw: int = 0

    @property
    def images(self) -> int:
        """How many images it trains on in all: the measure of its work. 0 where steps are not given."""
        section = self.config.get("train", {})
        return (section.get("steps") or 0) * (section.get("batch_size") or 0)


@dataclasses.dataclass(frozen=True)
class Plan:
    config: StudyConfig
    workdir: Path
    pretrain: Cell | None
    cells: tuple[Cell, ...]

    def cell(self, arm: str, budget: int | float, draw: int) -> Cell:
        return next(c for c in self.cells if (c.arm, c.budget, c.draw) == (arm, budget, draw))

    @property
    def order(self) -> tuple[str, ...]:
        """Of ordered classes, their names from the lowest rank to the highest, by which every arm is judged."""
        return next(map(_order, self.config.arms.values()))

    def label(self, arm: str) -> str:
        return self.config.arms[arm].label or arm


def plan(config: ConfigDict, workdir: Path) -> Plan:
    """Checks the study's config and lays out its runs under ``workdir`` (absolute in every run's config).

    Raises:
        InputError: an unknown or missing key, a reference that is no arm, an arm that wants a pretraining
            that is not there, steps that do not match the budgets, or arms that label other splits or rank the
            classes otherwise.
    """
    checked = build(StudyConfig, config)
    study, workdir = checked.study, Path(workdir).resolve()
    chosen = study.arms or tuple(checked.arms)
    for name in chosen:
        if name not in checked.arms:
            raise InputError(f"config.study.arms has {name!r}; config.arms has {', '.join(checked.arms)}")
    checked = dataclasses.replace(checked, arms={name: checked.arms[name] for name in dict.fromkeys(chosen)})
    if study.reference not in checked.arms:
        raise InputError(
            f"config.study.reference is {study.reference!r}; the arms are {', '.join(checked.arms)}"
        )
    splits = {arm.config.get("data", {}).get("split", "train") for arm in checked.arms.values()}
    if len(splits) > 1:
        raise InputError(
            f"config.arms label the splits {', '.join(sorted(splits))}; "
            "all arms must learn from the same examples"
        )
    orders = {_order(arm) for arm in checked.arms.values()}
    if len(orders) > 1:
        raise InputError(
            f"config.arms give config.objective.order as {', '.join(map(str, sorted(orders)))}; "
            "all arms must be judged by the same ranks, so give it to each, also where it is not learned by"
        )
    for name, arm in checked.arms.items():
        if not re.fullmatch(r"\w+", name):
            raise InputError(f"config.arms.{name} names a folder; use letters, digits and underscores only")
        if arm.init and checked.pretrain is None:
            raise InputError(f"config.arms.{name}.init is 'pretrain', but the study has no config.pretrain")
        if arm.steps is not None and len(arm.steps) != len(study.budgets):
            raise InputError(
                f"config.arms.{name}.steps has {len(arm.steps)} entries; config.study.budgets has "
                f"{len(study.budgets)}: give one a budget"
            )
    data = str(Path(checked.data.path).resolve())
    pretrain = None
    if checked.pretrain is not None and any(arm.init for arm in checked.arms.values()):
        own = ConfigDict(checked.pretrain)
        _set(own, "data", path=data)
        pretrain = Cell("pretrain", workdir / "pretrain", own)
    cells = []
    # Draw by draw, smallest budget first: a study stopped half-way has whole draws to look at.
    for draw in range(max(study.draws_of.values())):
        for at, budget in enumerate(study.budgets):
            if draw >= study.draws_of[budget]:
                continue
            for name, arm in checked.arms.items():
                own = ConfigDict(arm.config)
                _set(own, "data", path=data, labels=budget, label_seed=draw)
                _set(own, "train", seed=draw)
                if arm.steps is not None:
                    _set(
                        own,
                        "train",
                        steps=arm.steps[at],
                        **({"epochs": None} if "epochs" in own.train else {}),
                    )
                if arm.init:
                    with own.ignore_type(), own.unlocked():
                        own.init_from = str(workdir / "pretrain")
                title = f"{name}-{budget}-{draw}"
                cells.append(Cell(title, workdir / "cells" / title, own, name, budget, draw))
    return Plan(checked, workdir, pretrain, tuple(cells))


def _order(arm: Arm) -> tuple[str, ...]:
    return tuple(arm.config.get("objective", {}).get("order", ()))


def check_unchanged(plan: Plan) -> None:
    """Refuses a folder whose runs were made with other configs; new budgets, draws and arms may be added.

    Raises:
        InputError: naming the keys that differ, with both values.
    """
    file = plan.workdir / "plan.json"
    now = {
        cell.name: _plain(cell.config) for cell in ((plan.pretrain,) if plan.pretrain else ()) + plan.cells
    }
    now["study"] = {"split": plan.config.study.split, "checkpoint": plan.config.study.checkpoint}
    before = durable.read_json(file)["runs"] if file.exists() else {}
    differ: dict[str, str] = {}  # by key, since one changed key of an arm shows in all its cells
    for name in before.keys() & now.keys():
        for key in sorted(before[name].keys() | now[name].keys()):
            was, is_now = before[name].get(key), now[name].get(key)
            if was != is_now:
                differ.setdefault(f"{name.split('-')[0]}: {key}", f"was {was!r}, now {is_now!r}")
    if differ:
        told = "; ".join(f"{key} {both}" for key, both in sorted(differ.items()))
        raise InputError(
            f"{plan.workdir} holds a study made with another config ({told}); use another --workdir"
        )
    plan.workdir.mkdir(parents=True, exist_ok=True)
    durable.write_json(file, {"format": 1, "runs": before | now})


def _set(config: ConfigDict, section: str, **values) -> None:
    with config.ignore_type(), config.unlocked():
        if section not in config:
            config[section] = ConfigDict()
        for key, value in values.items():
            config[section][key] = value


def _plain(config: ConfigDict) -> dict:
    """Flat, as JSON gives it back, and without the parent run: moving a study does not change it."""
    values = json.loads(json.dumps(flat(config)))
    return {key: value for key, value in values.items() if key not in ("init_from", "data.path")}
