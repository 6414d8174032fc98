"""The study's one table: every arm at every budget with its interval, and paired differences, in words too.

Means are over draws; intervals over draws and test patients together (``vitmed.evaluate.compare``).
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vitmed import durable
from vitmed.errors import InputError
from vitmed.evaluate import predictions
from vitmed.evaluate.compare import over_draws, paired_difference
from vitmed.evaluate.predictions import Predictions
from vitmed.progress import Bar
from vitmed.report import words
from vitmed.study import files
from vitmed.study.plan import Cell, Plan

LOWER_IS_BETTER = ("ece", "mae", "rmse", "rank_mae")


def write(planned: Plan, counts: dict[tuple[int | float, int], int], quiet: bool = False) -> dict[str, Any]:
    """Makes ``table.csv``, ``.md`` and ``.json`` and ``cells.csv`` in the study's folder.

    Args:
        counts: how many examples each (budget, draw) labelled.

    Returns:
        ``table`` (path of the CSV), ``rows`` (as in the CSV), ``comparisons``, ``opened``.

    Raises:
        InputError: the cells were not evaluated on the same examples, or lack a metric of the config.
    """
    table = make(planned, counts, quiet)
    rows = files.flat_rows(table)
    folder = planned.workdir
    durable.write_text(folder / "table.csv", files.csv_text(rows))
    durable.write_text(folder / "cells.csv", files.csv_text(files.cell_rows(table)))
    durable.write_text(folder / "table.md", files.markdown(table))
    durable.write_json(folder / "table.json", table)
    return {
        "table": str(folder / "table.csv"),
        "rows": rows,
        "comparisons": table["comparisons"],
        "opened": table["opened"],
    }


def make(planned: Plan, counts: dict[tuple[int | float, int], int], quiet: bool = False) -> dict[str, Any]:
    """The table as ``table.json`` has it; arguments and errors as in ``write``."""
    study, arms = planned.config.study, list(planned.config.arms)
    results = {
        cell.name: durable.read_json(_folder(planned, cell) / "metrics.json") for cell in planned.cells
    }
    read = {cell.name: predictions.read(_folder(planned, cell) / "predictions.csv") for cell in planned.cells}
    truth = _same_truth(planned, read)
    order = [truth.classes.index(name) for name in planned.order]
    patients = results[planned.cells[0].name]["patients"]
    facts = {
        "draws": list(study.draws_of.values()),
        "examples": results[planned.cells[0].name]["examples"],
        "patients": patients,
    }

    def given(arm, budget):
        cells = [planned.cell(arm, budget, draw) for draw in range(study.draws_of[budget])]
        return [read[c.name].score for c in cells], [results[c.name]["threshold"] for c in cells]

    rows, comparisons = [], []
    common = dict(task=truth.task, classes=truth.classes, label_weight=truth.label_weight, order=order)
    with Bar("table", len(study.budgets) * len(arms), "rows", quiet=quiet) as bar:
        for budget in study.budgets:
            draws = study.draws_of[budget]
            labels = [counts[budget, draw] for draw in range(draws)]
            for arm in arms:
                scores, thresholds = given(arm, budget)
                base, base_thresholds = given(study.reference, budget)
                row = {
                    "budget": budget,
                    "labels": round(sum(labels) / len(labels)),
                    "labels_per_draw": labels,
                    "draws": draws,
                    "arm": arm,
                    "label": planned.label(arm),
                    "metrics": {},
                }
                for metric in study.metrics:
                    found = over_draws(
                        metric, scores, truth.label, truth.patients, thresholds=thresholds, **common
                    )
                    row["metrics"][metric] = {name: found[name] for name in ("value", "low", "high")} | {
                        "per_draw": [
                            _value(results, planned.cell(arm, budget, d), metric) for d in range(draws)
                        ]
                    }
                    if arm == study.reference:
                        continue
                    found = paired_difference(
                        metric,
                        base,
                        scores,
                        truth.label,
                        truth.patients,
                        thresholds_a=base_thresholds,
                        thresholds_b=thresholds,
                        **common,
                    )
                    comparisons.append(_compared(planned, row, metric, found, facts | {"draws": draws}))
                rows.append(row)
                bar.advance()
    sheet = durable.read_json(planned.cells[0].run / "dataset.json")
    opened = {cell.name: results[cell.name]["opened"] for cell in planned.cells}
    return {
        "format": 1,
        "study": study.name,
        "split": study.split,
        "checkpoint": study.checkpoint,
        "command": shlex.join(sys.orig_argv),
        "budgets": list(study.budgets),
        "metrics": list(study.metrics),
        "reference": study.reference,
        "higher_is_better": {m: _higher(m) for m in study.metrics},
        **facts,
        "opened": max(opened.values()),
        "dataset": {"path": planned.config.data.path}
        | {k: sheet[k] for k in ("name", "content_hash", "simulated")},
        "rows": rows,
        "comparisons": comparisons,
        "cells": [
            {
                "run": cell.run.relative_to(planned.workdir).as_posix(),
                "arm": cell.arm,
                "budget": cell.budget,
                "draw": cell.draw,
                "labels": counts[cell.budget, cell.draw],
                "opened": opened[cell.name],
                "metrics": {m: _value(results, cell, m) for m in study.metrics},
            }
            for cell in planned.cells
        ],
        "notes": _notes(planned, rows, facts, opened, results[planned.cells[0].name]),
    }


def sentence(compared: dict[str, Any], facts: dict[str, Any]) -> str:
    """A comparison in plain words: how large, how sure, whether it is real, and on how much it rests."""
    start = (
        f"With {words.budget(compared['budget'])} ({words.plural(compared['labels'], 'scan')}), "
        f"{compared['reference_label']} minus {compared['label']}"
    )
    if compared["difference"] is None:
        return f"{start} cannot be computed in {words.metric(compared['metric'])} on these scans."
    size = (
        f"{start} is {words.number(compared['difference'], sign=True)} {words.metric(compared['metric'])} "
        f"{words.interval(compared['low'], compared['high'], sign=True)}"
    )
    if facts["draws"] == 1:
        size += ": one draw does not tell what another would give, so whether it is real is not shown"
    elif compared["favours"] is None:
        size += ": the difference is not shown to be real, its 95% interval includes 0"
    else:
        better = (
            compared["reference_label"] if compared["favours"] == compared["reference"] else compared["label"]
        )
        size += f": a real difference for {better}, the 95% interval excludes 0"
    rests = f"{words.plural(facts['draws'], 'draw')}, {words.plural(facts['examples'], 'image')}"
    if facts["patients"] is None:
        return f"{size} ({rests}; by image, since patients are not known, so it is probably too narrow)."
    return f"{size} ({rests} of {words.plural(facts['patients'], 'patient')})."


def _compared(planned: Plan, row: dict, metric: str, found: dict, facts: dict) -> dict[str, Any]:
    reference = planned.config.study.reference
    low, high = found["low"], found["high"]
    favours = None
    if found["value"] is not None and facts["draws"] > 1 and (low > 0 or high < 0):
        favours = reference if (low > 0) == _higher(metric) else row["arm"]
    compared = {
        "budget": row["budget"],
        "labels": row["labels"],
        "arm": row["arm"],
        "label": row["label"],
        "reference": reference,
        "reference_label": planned.label(reference),
        "metric": metric,
        "difference": found["value"],
        "low": low,
        "high": high,
        "real": favours is not None,
        "favours": favours,
    }
    return compared | {"sentence": sentence(compared, facts)}


def _notes(planned: Plan, rows: list[dict], facts: dict, opened: dict[str, int], first: dict) -> list[str]:
    study = planned.config.study
    again = [name for name, times in opened.items() if times > 1]
    notes = [
        f"The {study.split} split was opened once in every cell, after all else about it was fixed."
        if not again
        else f"The {study.split} split was opened more than once in {words.listed(again)}."
    ]
    if study.split != "test":
        notes.append(
            "These numbers are of a split that choices are made on: they are for choosing, not for reporting."
        )
    if facts["patients"] is None:
        notes.append("Patients are not known: intervals are by image and probably too narrow.")
    single = [budget for budget, draws in study.draws_of.items() if draws == 1]
    if single:
        where = (
            ""
            if len(single) == len(study.budgets)
            else f" with {words.listed([words.budget(b) for b in single])}"
        )
        notes.append(
            f"There is one draw{where}: intervals do not hold the luck of which scans were labelled, nor of the seed."
        )
    if planned.pretrain is not None:
        seed = planned.pretrain.config.get("train", {}).get("seed", 0)
        notes.append(
            f"All draws start from one pretraining (seed {seed}): intervals do not hold its own luck."
        )
    for budget in study.budgets:
        labels = next(r["labels_per_draw"] for r in rows if r["budget"] == budget)
        if min(labels) != max(labels):
            notes.append(
                f"{words.capital(words.budget(budget))}: whole patients are labelled, "
                f"{min(labels)} to {max(labels)} scans a draw."
            )
        elif isinstance(budget, float) and budget >= 1 and len(labels) > 1:
            notes.append("With all labels the draws differ in their seed alone.")
    return notes + [
        words.capital(note) + "." for note in first.get("notes", []) if not note.startswith("no patient")
    ]


def _same_truth(planned: Plan, read: dict[str, Predictions]) -> Predictions:
    """The labels and patients that all cells share.

    Raises:
        InputError: two cells were evaluated on other examples; the dataset changed in between.
    """
    first = read[planned.cells[0].name]
    for name, other in read.items():
        same = (first.ids, first.classes, first.patients) == (other.ids, other.classes, other.patients)
        if not same or not np.array_equal(first.label, other.label):
            raise InputError(
                f"{name} was evaluated on other examples than {planned.cells[0].name}: "
                "the dataset was changed in between; run the study anew in another --workdir"
            )
    return first


def _value(results: dict[str, dict], cell: Cell, metric: str) -> float | None:
    found = results[cell.name]["metrics"]
    if metric not in found:
        raise InputError(
            f"config.study.metrics has {metric!r}, which {cell.name} lacks; it has {', '.join(found)}"
        )
    return found[metric]["value"]


def _folder(planned: Plan, cell: Cell) -> Path:
    return cell.run / "evaluations" / planned.config.study.split


def _higher(metric: str) -> bool:
    return metric.partition("/")[0] not in LOWER_IS_BETTER
