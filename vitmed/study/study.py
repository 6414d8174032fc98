"""``vitmed study``: lay out the runs, do what is not done yet, make the table.

A cell is trained, then evaluated once on the split that the study reports; its evaluation is what says that
it is done. A study that was stopped anywhere goes on with the same command.
"""

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vitmed import durable
from vitmed.errors import InputError, Preempted
from vitmed.runs.lock import locked
from vitmed.study import protocol, table, tune, workers
from vitmed.study.plan import Cell, Plan, plan
from vitmed.study.progress import StudyProgress
from vitmed.study.unchanged import check_unchanged


def check_run(config: ConfigDict) -> None:
    """InputError where a training would refuse its config."""
    from vitmed.job.config import check  # late: it loads JAX

    check(config)


def rehearse(pretrains: Sequence[Cell], cells: Sequence[Cell]) -> None:
    """InputError where a training would refuse its data, its model or the run that it starts from."""
    from vitmed.study.rehearsal import rehearse  # late: it loads JAX

    rehearse(pretrains, cells)


def train_run(config: ConfigDict, run: Path) -> dict:
    from vitmed.train import train  # in the worker alone: the parent needs no accelerator

    return train(config, run, quiet=True)


def evaluate_run(run: Path, split: str, checkpoint: str) -> dict:
    from vitmed.evaluate.evaluate import evaluate

    return evaluate(run, split=split, which=checkpoint)


def metric_names(data: str, split: str, order: tuple[str, ...] = (), masks: bool = False) -> list[str]:
    """Names of the metrics that the labels of a split allow a study, with classes of this order from the lowest rank.

    Args:
        masks: whether its masks are judged, and not labels of whole scans.

    Raises:
        InputError: no such dataset, no such split, or no labels (or masks) in it.
    """
    import numpy as np

    from vitmed.data import budget
    from vitmed.data.structures import structures_of
    from vitmed.evaluate.masks import QUANTITIES
    from vitmed.evaluate.measures import Judged, estimates, measures

    dataset = _opened(data)
    if not dataset.has_split(split):
        raise InputError(f"dataset {data} has no split {split!r}; it has {', '.join(dataset.splits)}")
    sheet, rows = dataset.datasheet, budget.known(dataset, split, masks)
    patients = np.arange(len(rows))
    # Whether a metric can be computed depends on the labels; on the scores only where they are all alike.
    if masks:
        held = budget.values_of(dataset, split, masks)[1][rows]
        said = np.concatenate([np.where(held > 0, 0.5, np.nan)] * (len(QUANTITIES) - 1) + [held], axis=1)
        names = [name for name, _ in structures_of(sheet)]
        judged = Judged("segmentation", names, said, held, np.ones_like(held, bool), patients)
    else:
        label, weight = dataset.labels(split)
        said = np.random.Generator(np.random.Philox(key=0)).random((len(rows), len(sheet["classes"])))
        ranks = [sheet["classes"].index(name) for name in order if name in sheet["classes"]]
        judged = Judged(
            sheet["task"], sheet["classes"], said, label[rows], weight[rows] > 0, patients, order=ranks
        )
    listed = measures(judged)[0]
    value = estimates(listed, np.ones((1, len(rows))))
    names = [measure.name for measure in listed if np.isfinite(value[measure.name][0])]
    return [
        name for name in names if not masks or name.partition("/")[0] != "hd95"
    ]  # config.study.metrics refuses it


def label_count(
    data: str,
    split: str,
    labels: int | float,
    draw: int,
    parts: int = 0,
    masks: bool = False,
    apart: tuple[str, ...] = (),
) -> int:
    """How many examples a budget labels.

    Args:
        parts: into how many it will be parted.
        masks: whether it pays for masks, and not for labels of whole scans.
        apart: splits whose copies are not learned from, and so not labelled.

    Raises:
        InputError: the budget is too small for every class to be seen (in each part, if any), or larger than the split.
    """
    from vitmed.data import budget

    chosen = budget.labelled(_opened(data), split, labels, draw, masks, _copied(data, split, apart))
    if parts:
        budget.fold(_opened(data), split, chosen, (0, parts), draw, masks)
    return len(chosen)


@functools.cache
def _opened(data: str):
    from vitmed.data.dataset import Dataset

    return Dataset.open(data)


@functools.cache
def _copied(data: str, split: str, apart: tuple[str, ...]):
    from vitmed.data.copies import copies

    return copies(_opened(data), split, _opened(data), apart)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a study asks of the rooms below it. The functions run in other processes: importable by name."""

    train: Callable[[ConfigDict, Path], dict] = train_run
    evaluate: Callable[[Path, str, str], dict] = evaluate_run
    label_count: Callable[[str, str, int | float, int, int, bool, tuple[str, ...]], int] = label_count
    metric_names: Callable[[str, str, tuple[str, ...], bool], list[str]] = metric_names
    left_out: Callable[[Path, str], tune.LeftOut] = tune.left_out
    protocol: Callable[[Plan, bool], dict] = protocol.check
    check: Callable[[ConfigDict], None] = check_run
    rehearse: Callable[[Sequence[Cell], Sequence[Cell]], None] = rehearse


def study(config: ConfigDict, workdir: Path, jobs: int = 1, quiet: bool = False, work: Work = Work()) -> dict:
    """Runs the study of ``config`` in ``workdir`` with ``jobs`` processes; goes on from what is there.

    Returns:
        ``table``: path of the CSV; ``rows``: its rows as dicts; ``comparisons``: one dict a comparison,
        ``sentence`` among its keys; ``opened``: how often the split was opened, at most, in any cell.

    Raises:
        InputError: a wrong config, a ``workdir`` made with another config or dataset or in use, a budget too small, a split
            whose labels lack a metric, a model that does not fit the scans or what it starts from
            (``vitmed.study.rehearsal``), or data that the protocol does not allow (``vitmed.study.protocol``).
        Preempted: told to stop; the runs have saved their state.
    """
    if jobs < 1:
        raise InputError(f"--jobs is {jobs}; at least one process is needed")
    planned = plan(config, workdir)
    with _locked(planned.workdir), _preemptible():
        # Configs, metrics, budgets, models and data are tried before any hour is spent: what cannot be had ends it here.
        for cell in planned.everything:
            best = cell.config.get("checkpoint", {}).get("best")
            if cell.arm and planned.config.study.checkpoint == "best" and not best:
                raise InputError(
                    f"config.study.checkpoint is 'best', but config.arms.{cell.arm} says by no config.checkpoint.best "
                    "which that is; give it, such as 'val/loss', or take 'last'"
                )
            for trained in (cell.config, *(trial.config for trial in cell.trials)):
                try:
                    work.check(trained)
                except InputError as fault:
                    raise InputError(f"{cell.name}: {fault}") from None
        _check_metrics(planned, work)
        one = next(iter(planned.config.arms))
        counts = {
            (c.budget, c.draw, c.fold): _count(planned, c, c.parts, work)
            for c in planned.cells
            if c.arm == one
        }
        _check_guards(planned, work)
        _rehearse(planned, work)
        facts = work.protocol(planned, quiet)
        check_unchanged(planned, facts["contents"])
        _run(planned, jobs, quiet, work)
        return table.write(planned, counts, facts, quiet)


def _check_metrics(planned: Plan, work: Work) -> None:
    """InputError where the labels that cells are judged by lack a metric, or those of validation what choices are made by."""
    section, asked = planned.config.study, {}
    for cell in planned.cells:
        data = cell.config.data
        asked[data.path, section.split] = section.metrics
        if len(cell.splits) > 1 or (len(cell.trials) > 1 and not cell.parts):
            asked.setdefault((data.path, data.get("val_split", "val")), section.metrics[:1])
    for (path, split), metrics in asked.items():
        known = work.metric_names(path, split, planned.order, planned.masks)
        for metric in metrics:
            if metric not in known:
                alike = f"{metric.partition('/')[0]}/"  # its columns, where one of them is asked for
                names = [n for n in known if "/" not in n or ("/" in metric and n.startswith(alike))]
                raise InputError(
                    f"config.study.metrics has {metric!r}; the labels of the {split} split of {path} allow "
                    f"{', '.join(names)}"
                )


def _count(planned: Plan, cell: Cell, parts: int, work: Work) -> int:
    """How many examples the budget of a cell labels, where it can be parted in so many."""
    data = cell.config.data
    split, apart = data.get("split", "train"), tuple(data.get("apart", ()))
    return work.label_count(data.path, split, cell.budget, cell.draw, parts, planned.masks, apart)


def _check_guards(planned: Plan, work: Work) -> None:
    """InputError where a guard's parts of a label budget could not each show every class."""
    for cell in planned.cells:
        folds = cell.config.get("guard", {}).get("folds", 0)
        if not folds:
            continue
        try:
            _count(planned, cell, folds, work)
        except InputError as fault:
            raise InputError(
                f"config.arms.{cell.arm}.config.guard.folds is {folds}, too many for config.study.budgets {cell.budget}: "
                f"{fault}"
            ) from None


def _rehearse(planned: Plan, work: Work) -> None:
    """InputError where the first cell that an arm has to do, or the pretraining before it, would refuse to begin."""
    first: dict[str, Cell] = {}
    for cell in planned.cells:
        if not is_done(cell):
            first.setdefault(cell.arm, cell)
    starts = {cell.start for cell in first.values()}
    work.rehearse([cell for cell in planned.pretrains if cell.name in starts], list(first.values()))


def _run(planned: Plan, jobs: int, quiet: bool, work: Work) -> None:
    section = planned.config.study
    to_do = [cell for cell in planned.cells if not is_done(cell)]
    needed = {cell.start for cell in to_do}
    first = [c for c in planned.pretrains if c.name in needed and not _result(planned, c).exists()]
    everything = first + to_do
    if not everything:
        return
    # Runs from scratch do not wait for a pretraining: they fill the cores that it leaves. Where there are none, and
    # one pretraining, it has all cores to itself.
    groups = [(everything, jobs)]
    if len(first) == 1 and all(cell.start for cell in to_do):
        groups = [(first, 1), (to_do, jobs)]
    cache = planned.workdir / ".compiled"
    waits = {cell.name for cell in first}
    with StudyProgress(everything, jobs, quiet, planned.workdir / "speeds.json") as progress:
        progress.announce(len(planned.everything))
        for group, width in groups:
            cells = {cell.name: cell for cell in group}
            tasks = [
                workers.Task(
                    cell.name,
                    do,
                    (cell, section.metrics[0], section.checkpoint, work),
                    after=cell.start if cell.start in waits else "",
                )
                for cell in group
            ]
            ended = workers.run(tasks, width, cache, lambda at: progress.tick([t.name for t in at.values()]))
            with contextlib.closing(ended):
                for task, result in ended:
                    if not cells[task.name].arm:
                        durable.write_json(_result(planned, cells[task.name]), {"format": 1, **result})
                    waits.discard(task.name)
                    progress.done(task.name, _note(result, section.metrics[0]))


def do(cell: Cell, metric: str, checkpoint: str, work: Work) -> dict:
    """Trains one cell from where it stands and evaluates it, unless it is a pretraining. In a worker."""
    result = work.train(tune.choose(cell, metric, checkpoint, work), cell.run)
    for split in cell.splits:
        if not _evaluated(cell, split):
            told = work.evaluate(cell.run, split, checkpoint)
            result = told if split == cell.splits[0] else result
    return result


def is_done(cell: Cell) -> bool:
    """Whether the cell's evaluations are there, numbers and predictions both, and what parts of its budget told."""
    return all(_evaluated(cell, split) for split in cell.splits) and (not cell.parts or cell.tuning.exists())


def _evaluated(cell: Cell, split: str) -> bool:
    folder = cell.run / "evaluations" / split
    return (folder / "metrics.json").exists() and (folder / "predictions.csv").exists()


def _result(planned: Plan, cell: Cell) -> Path:
    return planned.workdir / f"{cell.name}.json"


def _note(result: dict, metric: str) -> str:
    value: Any = result.get("metrics", {}).get(metric, result.get("metrics", {}).get("loss"))
    name = metric if metric in result.get("metrics", {}) else "loss"
    value = value["value"] if isinstance(value, dict) else value
    return f"{name} {value:.3f}" if isinstance(value, float) else "done"


@contextlib.contextmanager
def _locked(workdir: Path):
    """Two studies in one folder would train the same run twice over each other."""
    for name, what in (("datasheet.json", "dataset"), ("config.json", "run")):
        if (workdir / name).exists():
            raise InputError(f"--workdir {workdir} is a {what}; give a folder, new or of this study")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"--workdir {workdir} is a file; give a folder, new or of this study") from None
    with locked(workdir, "vitmed study"):
        yield


@contextlib.contextmanager
def _preemptible():
    """SIGTERM, which clusters send before they take a machine back, ends the study as ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise Preempted("told to stop; the same command goes on from what was saved")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
