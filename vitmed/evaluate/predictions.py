"""``predictions.csv``: one row an example, all that a later comparison needs, readable by any spreadsheet.

Columns: ``id``, ``patient`` and ``site`` (empty where unknown); ``label`` with the class's name
(multiclass) or one ``label:NAME`` a column; then ``probability:NAME`` for every class or column, or
``value:NAME`` for regression. A missing label is empty. Probabilities keep all their digits: rounding
would make ties.
"""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np

from vitmed import durable
from vitmed.errors import InputError

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of a split beside its labels.

    Attributes:
        task: "multiclass", "multilabel" or "regression".
        classes: names of the classes or columns.
        ids: (n,) names of the examples.
        patients: (n,) names, "" where unknown; None where no patient is known.
        sites: likewise.
        score: (n, K) probabilities, or values for regression.
        label: (n, 1) class indices or (n, K); label_weight: the same shape, 0 where missing.
    """

    task: str
    classes: list[str]
    ids: list[str]
    patients: list[str] | None
    sites: list[str] | None
    score: Array
    label: Array
    label_weight: Array


def write(path: Path, predictions: Predictions) -> None:
    """Writes ``predictions`` to ``path`` in one step."""
    p = predictions
    one = p.task == "multiclass"
    kind = "value" if p.task == "regression" else "probability"
    labels = ["label"] if one else [f"label:{name}" for name in p.classes]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "patient", "site", *labels, *(f"{kind}:{name}" for name in p.classes)])
    for i, name in enumerate(p.ids):
        known = p.label_weight[i] > 0
        if one:
            shown = [p.classes[int(p.label[i, 0])] if known[0] else ""]
        else:
            shown = [f"{x:g}" if k else "" for x, k in zip(p.label[i], known, strict=True)]
        patient, site = (column[i] if column else "" for column in (p.patients, p.sites))
        table.writerow([name, patient, site, *shown, *(repr(float(x)) for x in p.score[i])])
    durable.write_text(path, text.getvalue())


def read(path: Path) -> Predictions:
    """The predictions in ``path``.

    Raises:
        InputError: no such file, or not one that ``write`` made.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        scores = [i for i, name in enumerate(header) if name.startswith(("probability:", "value:"))]
        labels = range(3, scores[0])
        classes = [header[i].partition(":")[2] for i in scores]
        one = header[3 : scores[0]] == ["label"]
        task = "multiclass" if one else "regression" if header[-1].startswith("value:") else "multilabel"
        weight = np.array([[row[i] != "" for i in labels] for row in rows], np.float32)
        number = classes.index if one else float
        label = np.array([[number(row[i]) if row[i] else 0 for i in labels] for row in rows], np.float64)
        score = np.array([[float(row[i]) for i in scores] for row in rows])
        ids, patients, sites = ([row[i] for row in rows] for i in range(3))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run `vitmed evaluate` on its run") from None
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{path} is not a table of predictions ({error}); run `vitmed evaluate` again"
        ) from None
    known = [column if any(column) else None for column in (patients, sites)]
    return Predictions(task, classes, ids, *known, score, label, weight)
