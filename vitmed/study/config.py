"""The sections of a study's config, checked key by key."""

import dataclasses
import itertools
import math
from typing import Any, Literal

BEST = "best"  # in config.study.compare: the best of the baselines at that budget


@dataclasses.dataclass(frozen=True)
class DataSection:
    """Keys of ``config.data``.

    Attributes:
        path: of the dataset; of several folds with ``{fold}`` in it, such as ``data/busi-{fold}``, which a pretraining's
            ``data.mix`` may have too.
        folds: N, where ``vitmed ingest --split fold:K/N`` made one dataset for each K from 1 to N; 0 is one dataset.
    """

    path: str
    folds: int = 0

    def __post_init__(self):
        if self.folds and self.folds < 3:
            raise ValueError(
                f"folds is {self.folds}; `vitmed ingest --split fold:K/N` makes at least 3, 0 is none"
            )
        if bool(self.folds) != ("{fold}" in self.path):
            raise ValueError(
                f"path is {self.path!r} and config.data.folds {self.folds}; with folds the path has {{fold}} in it, "
                "such as data/busi-{fold}, and without it has not"
            )


@dataclasses.dataclass(frozen=True)
class StudySection:
    """Keys of ``config.study``.

    Attributes:
        name: what tables call it.
        budgets: an int is a count of examples, a float at most 1 a fraction of them.
        draws: of which labels and of the seed; one number for all budgets, or one a budget.
        folds: how many of ``config.data.folds`` each budget is run on, likewise; None is all of them.
        pretrain_seeds: how often each pretraining is made; draw d starts from the (d mod that)-th.
        metrics: the first is the one that the findings speak of and that choices are made by. HD95 is none of them: each
            arm's mean would leave out what that arm missed.
        reference: the arm that every other is compared with, reference minus arm; or
        baselines: arms whose best, chosen on validation at each budget, every other arm is compared with, arm minus it.
        published: a run that ``vitmed convert`` made, whose encoder the arms with the ``init`` of this name start from;
            they are left out where it is empty.
        compare: more comparisons, each (first, second): first minus second. A side is ``ARM`` (at every budget) or
            ``ARM@BUDGET``; ``best`` stands for the best baseline.
        margin: by how much the first may be worse and still count as not worse (non-inferior); 0 asks for none.
        threshold: where a probability becomes a yes: chosen on ``val``, whose labels are then counted, within the label
            ``budget`` by cross-validation (``config.tune``), or at ``half``.
        arms: which arms to run, in the table's order; all of ``config.arms`` if empty.
        split: what is reported; ``val`` while models are still being chosen.
        checkpoint: of each run.
    """

    name: str
    budgets: tuple[int | float, ...]
    draws: int | tuple[int, ...]
    metrics: tuple[str, ...]
    reference: str = ""
    baselines: tuple[str, ...] = ()
    compare: tuple[tuple[str, str], ...] = ()
    margin: float = 0.0
    threshold: Literal["val", "budget", "half"] = "val"
    folds: int | tuple[int, ...] | None = None
    pretrain_seeds: int = 1
    published: str = ""
    arms: tuple[str, ...] = ()
    split: Literal["test", "val"] = "test"
    checkpoint: Literal["last", "best"] = "last"

    def __post_init__(self):
        if not self.budgets or len(set(self.budgets)) != len(self.budgets) or min(self.budgets) <= 0:
            raise ValueError(f"budgets is {self.budgets}; give different positive counts or fractions")
        if any(isinstance(b, float) and b > 1 for b in self.budgets):
            raise ValueError(
                f"budgets is {self.budgets}; a fraction is at most 1.0, a count is a whole number"
            )
        for key in ("draws", "folds"):
            given = getattr(self, key)
            if isinstance(given, tuple) and len(given) != len(self.budgets):
                raise ValueError(
                    f"{key} is {given}; give one number, or one for each of the {len(self.budgets)} budgets"
                )
            if given is not None and min(given if isinstance(given, tuple) else (given,)) < 1:
                raise ValueError(f"{key} is {given}; at least one is needed")
        if not self.metrics:
            raise ValueError("metrics is empty; name at least one, such as 'auroc'")
        if any(metric.partition("/")[0] == "hd95" for metric in self.metrics):
            raise ValueError(
                f"metrics is {self.metrics}; HD95 is infinite where a structure is missed, and its mean is over the other "
                "scans, which are others in each arm: an arm would gain by missing what is hard to outline. Take 'dice' or "
                "'nsd', which are 0 there"
            )
        if bool(self.reference) == bool(self.baselines):
            raise ValueError(
                f"reference is {self.reference!r} and config.study.baselines {self.baselines}; give one of the two: the "
                "arm to compare with, or the baselines whose best that is"
            )
        if self.margin < 0:
            raise ValueError(f"margin is {self.margin}; a positive number was expected, or 0 for none")
        if self.pretrain_seeds < 1:
            raise ValueError(f"pretrain_seeds is {self.pretrain_seeds}; at least one is needed")
        for draws in self.draws_of.values():
            if draws > self.pretrain_seeds and draws % self.pretrain_seeds:
                raise ValueError(
                    f"draws is {self.draws}, not a multiple of config.study.pretrain_seeds ({self.pretrain_seeds}); "
                    "every pretraining must count alike"
                )

    @property
    def draws_of(self) -> dict[int | float, int]:
        """How often each budget is drawn."""
        return self._each(self.draws)

    def folds_of(self, folds: int) -> dict[int | float, int]:
        """How many of ``folds`` folds each budget is run on; 1 where there are none."""
        return self._each(max(folds, 1) if self.folds is None else self.folds)

    def _each(self, value: int | tuple[int, ...]) -> dict[int | float, int]:
        return dict(zip(self.budgets, value if isinstance(value, tuple) else (value,) * len(self.budgets)))


@dataclasses.dataclass(frozen=True)
class TuneSection:
    """Keys of ``config.tune``: how each cell chooses among the trials of its arm's ``grid``.

    Attributes:
        by: cross-validated within the label ``budget``, or on ``val``, whose labels are then counted.
        folds: parts of the label budget that are left out in turn, where ``by`` is ``budget``.
    """

    by: Literal["budget", "val"] = "budget"
    folds: int = 3

    def __post_init__(self):
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}; 2 or more were expected")


@dataclasses.dataclass(frozen=True)
class Arm:
    """Keys of ``config.arms.NAME``: one way to a model.

    Attributes:
        config: a training config.
        init: the pretraining to start from: ``pretrain``, a name in ``config.pretrains``, or ``published``
            (``vitmed.study.published``); None is none.
        steps: ``train.steps``, one a budget; None leaves the config's own.
        label: how tables and figures call it; the arm's name if empty.
        grid: sections of the training config, and in place of each value a tuple of values to try; what it learns, which
            scans and labels from, what it chooses by and starts from is not among them.
    """

    config: dict[str, Any]
    init: str | None = None
    steps: tuple[int, ...] | None = None
    label: str = ""
    grid: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for key, values in _leaves(self.grid):
            if not isinstance(values, (list, tuple)) or not len(values):
                raise ValueError(f"grid.{'.'.join(key)} is {values!r}; a tuple of values to try was expected")

    @property
    def trials(self) -> list[dict[tuple[str, ...], Any]]:
        """Each setting that the grid has, {path of a key: value}; one empty one without a grid."""
        leaves = list(_leaves(self.grid))
        return [
            {key: value for (key, _), value in zip(leaves, chosen)}
            for chosen in itertools.product(*(values for _, values in leaves))
        ]


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A whole study's config: what every file in ``configs/study/`` returns.

    Attributes:
        pretrain: a training config, the pretraining called ``pretrain``.
        pretrains: more of them by name.
    """

    data: DataSection
    study: StudySection
    arms: dict[str, Arm]
    pretrain: dict[str, Any] | None = None
    pretrains: dict[str, dict] = dataclasses.field(default_factory=dict)
    tune: TuneSection | None = None

    @property
    def tried(self) -> int:
        """How many settings each arm tries."""
        return math.prod(len(values) for _, values in _leaves(next(iter(self.arms.values())).grid))


def _leaves(grid: dict[str, Any], above: tuple[str, ...] = ()):
    for key, value in grid.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value
