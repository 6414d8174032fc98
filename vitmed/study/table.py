"""The study's one table: every arm at every budget with its interval, and differences, in words too.

Means are over draws and folds; intervals over draws, pretrainings and test patients together
(``vitmed.evaluate.compare``).
"""

import shlex
import sys
from typing import Any

import numpy as np

from vitmed import durable
from vitmed.errors import InputError
from vitmed.evaluate import compare, predictions
from vitmed.evaluate.predictions import Predictions
from vitmed.progress import Bar
from vitmed.runs.direction import lower_is_better
from vitmed.study import compared, files, notes, tune
from vitmed.study.plan import Cell, Plan

Counts = dict[tuple[int | float, int, int], int]


def write(planned: Plan, counts: Counts, facts: dict[str, Any], quiet: bool = False) -> dict[str, Any]:
    """Makes ``table.csv``, ``.md`` and ``.json``, ``comparisons.csv`` and ``cells.csv`` in the study's folder.

    Args:
        counts: how many examples each (budget, draw, fold) labelled.
        facts: of ``vitmed.study.protocol.check``.

    Returns:
        ``table`` (path of the CSV), ``rows`` (as in the CSV), ``comparisons``, ``opened``.

    Raises:
        InputError: the cells were not evaluated on the same examples, or lack a metric of the config.
    """
    table = make(planned, counts, facts, quiet)
    rows = files.flat_rows(table)
    folder = planned.workdir
    durable.write_text(folder / "table.csv", files.csv_text(rows))
    durable.write_text(folder / "cells.csv", files.csv_text(files.cell_rows(table)))
    durable.write_text(folder / "comparisons.csv", files.csv_text(files.comparison_rows(table)))
    durable.write_text(folder / "table.md", files.markdown(table))
    durable.write_json(folder / "table.json", table)
    return {
        "table": str(folder / "table.csv"),
        "rows": rows,
        "comparisons": table["comparisons"],
        "opened": table["opened"],
    }


def make(planned: Plan, counts: Counts, facts: dict[str, Any], quiet: bool = False) -> dict[str, Any]:
    """The table as ``table.json`` has it; arguments and errors as in ``write``."""
    study = planned.config.study
    results = {
        cell.name: durable.read_json(_folder(planned, cell) / "metrics.json") for cell in planned.cells
    }
    for cell in planned.cells:
        for metric in study.metrics:
            if metric not in results[cell.name]["metrics"]:
                known = ", ".join(results[cell.name]["metrics"])
                raise InputError(
                    f"config.study.metrics has {metric!r}, which {cell.name} lacks; it has {known}"
                )
    sampled = _sampled(planned, results, quiet)
    overlap = 1 / (planned.config.data.folds - 2) if planned.config.data.folds else 0.0
    beside = notes.beside(planned, facts, results)
    rows = [
        _row(planned, budget, arm, counts, sampled, overlap, beside["labels"])
        for budget in study.budgets
        for arm in planned.config.arms
    ]
    by_key = {(row["budget"], row["arm"]): row for row in rows}
    baselines = best_baselines(planned)
    pairs = compared.pairs(planned, {budget: found["arm"] for budget, found in baselines.items()})
    comparisons = []
    for metric in study.metrics:
        made = []
        for pair in pairs:
            sides = (
                sampled[pair.first, pair.first_budget, metric],
                sampled[pair.second, pair.second_budget, metric],
            )
            shared = min(map(len, sides))
            paired = pair.first_budget == pair.second_budget
            found = compare.difference(*(side[:shared] for side in sides), paired=paired, overlap=overlap)
            made.append(compared.compare(planned, pair, metric, found, shared, by_key))
        comparisons += compared.conclude(made)
    sheet = durable.read_json(planned.cells[0].run / "dataset.json")
    opened = {cell.name: results[cell.name]["opened"] for cell in planned.cells}
    first = {cell.fold: results[cell.name] for cell in reversed(planned.cells)}
    patients = [found["patients"] for found in first.values()]
    table = {
        "format": 1,
        "study": study.name,
        "split": study.split,
        "checkpoint": study.checkpoint,
        "command": shlex.join(sys.orig_argv),
        "budgets": list(study.budgets),
        "metrics": list(study.metrics),
        "reference": study.reference,
        "baselines": {str(budget): found for budget, found in baselines.items()},
        "margin": study.margin,
        "tried": planned.config.tried,
        "beside": beside,
        "higher_is_better": {m: not lower_is_better(m) for m in study.metrics},
        "draws": list(study.draws_of.values()),
        "folds": list(study.folds_of(planned.config.data.folds).values()),
        "pretrain_seeds": study.pretrain_seeds,
        "examples": sum(found["examples"] for found in first.values()),
        "patients": None if None in patients else sum(patients),
        "opened": max(opened.values()),
        "dataset": {"path": planned.cells[0].config.data.path}
        | {k: sheet[k] for k in ("name", "content_hash", "simulated")},
        "pretrainings": [cell.name for cell in planned.pretrains if cell.source == 0 and cell.fold < 2],
        "rows": rows,
        "comparisons": comparisons,
        "cells": [_cell(planned, cell, counts, results[cell.name], sampled) for cell in planned.cells],
    }
    table["minus"] = files.minus(table)
    for row in rows:
        row["standing"] = files.standing(table, row)
    return table | {"notes": notes.notes(planned, table, facts, opened, results)}


def best_baselines(planned: Plan) -> dict[int | float, dict[str, Any]]:
    """The best baseline of each budget by the mean of the first metric on validation, over its draws and folds.

    Returns:
        {budget: ``arm`` and ``validation`` {arm: mean}}, the latter empty where there is one baseline only.
    """
    study = planned.config.study
    metric, found = study.metrics[0], {}
    sign = -1 if lower_is_better(metric) else 1
    for budget in study.budgets if study.baselines else ():
        means = {}
        for arm in study.baselines if len(study.baselines) > 1 else ():
            values = []
            for cell in (cell for fold in planned.of(arm, budget) for cell in fold):
                file = cell.run / "evaluations" / cell.splits[-1] / "metrics.json"
                values.append(durable.read_json(file)["metrics"][metric]["value"])
            if None in values:
                raise InputError(
                    f"{metric} of {arm} is not defined on validation, by which the best of config.study.baselines is "
                    "chosen; name one baseline, or another first metric"
                )
            means[arm] = float(np.mean(values))
        best = max(study.baselines, key=lambda arm: sign * means.get(arm, 0.0))
        found[budget] = {"arm": best, "label": planned.label(best), "validation": means}
    return found


def _sampled(planned: Plan, results: dict[str, dict], quiet: bool) -> dict[tuple, list[compare.Sampled]]:
    """Every metric of every arm at every budget, one a fold."""
    study, made, truth = planned.config.study, {}, {}
    arms = [(arm, budget) for budget in study.budgets for arm in planned.config.arms]
    with Bar("table", len(arms), "rows", quiet=quiet) as bar:
        for arm, budget in arms:
            for cells in planned.of(arm, budget):
                read = [predictions.read(_folder(planned, cell) / "predictions.csv") for cell in cells]
                first = truth.setdefault(cells[0].fold, (cells[0], read[0]))
                for cell, other in zip(cells, read):
                    _check_same(*first, cell, other)
                p = first[1]
                for metric in study.metrics:
                    one = compare.sample(
                        metric,
                        [other.score for other in read],
                        p.label,
                        p.patients,
                        task=p.task,
                        classes=p.classes,
                        label_weight=p.label_weight,
                        order=[p.classes.index(name) for name in planned.order],
                        thresholds=[_threshold(study.threshold, cell, results) for cell in cells],
                        sources=[c.source for c in cells]
                        if cells[0].start and study.pretrain_seeds > 1
                        else None,
                        seed=cells[0].fold,
                    )
                    made.setdefault((arm, budget, metric), []).append(one)
            bar.advance()
    return made


def _threshold(by: str, cell: Cell, results: dict[str, dict]) -> dict[str, float] | None:
    if by == "half":
        return None
    return results[cell.name]["threshold"] if by == "val" else tune.told(cell)["threshold"]


def _row(planned, budget, arm, counts, sampled, overlap, beside) -> dict[str, Any]:
    study, cells = planned.config.study, [cell for fold in planned.of(arm, budget) for cell in fold]
    labels = [counts[budget, cell.draw, cell.fold] for cell in cells]
    metrics = {}
    for metric in study.metrics:
        found = sampled[arm, budget, metric]
        value = compare.mean(found, overlap)
        metrics[metric] = {name: value[name] for name in ("value", "low", "high")} | {
            "per_draw": [_number(point) for fold in found for point in fold.points]
        }
    return {
        "budget": budget,
        "labels": round(sum(labels) / len(labels)),
        "labels_beside": beside,
        "labels_per_draw": labels,
        "draws": study.draws_of[budget],
        "folds": study.folds_of(planned.config.data.folds)[budget],
        "arm": arm,
        "label": planned.label(arm),
        "tried": planned.config.tried,
        "settings": tune.settings(cells),
        "examples": value["examples"],
        "patients": value["patients"],
        "metrics": metrics,
    }


def _cell(planned, cell: Cell, counts: Counts, result: dict[str, Any], sampled) -> dict[str, Any]:
    guard = (result["guard"] if "guard" in result else _decided(cell)) or {}
    fold = [cells[0].fold for cells in planned.of(cell.arm, cell.budget)].index(cell.fold)
    return {
        "run": cell.run.relative_to(planned.workdir).as_posix(),
        "arm": cell.arm,
        "budget": cell.budget,
        "draw": cell.draw,
        "fold": cell.fold,
        "pretraining": cell.start,
        "settings": "; ".join(tune.settings([cell])),
        "guard": guard.get("chosen", ""),
        "labels": counts[cell.budget, cell.draw, cell.fold],
        "opened": result["opened"],
        "metrics": {
            metric: _number(sampled[cell.arm, cell.budget, metric][fold].points[cell.draw])
            for metric in planned.config.study.metrics
        },
    }


def _decided(cell: Cell) -> dict[str, Any] | None:
    """What the guard of a cell wrote, for an evaluation that is older than what evaluations tell of it."""
    from vitmed.evaluate import guard  # late: it loads JAX

    return guard.told(cell.run)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _check_same(first: Cell, truth: Predictions, cell: Cell, other: Predictions) -> None:
    """InputError where a cell was evaluated on other examples: the dataset changed in between."""
    same = (truth.ids, truth.classes, truth.patients) == (other.ids, other.classes, other.patients)
    if not same or not np.array_equal(truth.label, other.label):
        raise InputError(
            f"{cell.name} was evaluated on other examples than {first.name}: "
            "the dataset was changed in between; run the study anew in another --workdir"
        )


def _folder(planned: Plan, cell: Cell):
    return cell.run / "evaluations" / planned.config.study.split
