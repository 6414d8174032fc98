"""``predictions.csv``: one row an example, all that a later comparison needs, readable by any spreadsheet.

Columns: ``id``, ``patient`` and ``site`` (empty where unknown); ``label`` with the class's name
(multiclass) or one ``label:NAME`` a column; then ``probability:NAME`` for every class or column, or
``value:NAME`` for regression. A missing label is empty. Probabilities keep all their digits: rounding
would make ties.

Of masks there is one row an example and structure: ``id``, ``patient``, ``site``, ``structure``, ``dice``, ``nsd``,
``hd95``, ``predicted_voxels``, ``true_voxels``; empty where not defined (``vitmed.evaluate.masks``), HD95 ``inf`` where one
of the masks is empty, and no numbers at all for an example without a true mask.
"""

import csv
import dataclasses
import io
from pathlib import Path

import numpy as np

from vitmed import durable
from vitmed.errors import InputError
from vitmed.evaluate.masks import QUANTITIES

Array = np.ndarray


_STRUCTURE_COLUMNS = [
    "id",
    "patient",
    "site",
    "structure",
    *QUANTITIES[:3],
    "predicted_voxels",
    "true_voxels",
]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of a split beside its labels.

    Attributes:
        task: "multiclass", "multilabel", "regression" or "segmentation".
        classes: names of the classes, columns or structures.
        ids: (n,) names of the examples.
        patients: (n,) names, "" where unknown; None where no patient is known.
        sites: likewise.
        score: (n, K) probabilities, or values for regression; (n, 4 K) for masks, as ``masks.judge`` gives them.
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
    if p.task == "segmentation":
        return durable.write_text(path, _structures_text(p))
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
            values = zip(p.label[i].astype(np.float32), known, strict=True)
            # As few digits as tell a float32 from its neighbours.
            shown = [np.format_float_positional(x, trim="-") if k else "" for x, k in values]
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
        if header == _STRUCTURE_COLUMNS:
            return _structures_read(rows)
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


def _structures_text(p: Predictions) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_STRUCTURE_COLUMNS)
    scores = np.asarray(p.score, np.float64).reshape(len(p.ids), len(QUANTITIES), len(p.classes))
    for i, name in enumerate(p.ids):
        patient, site = (column[i] if column else "" for column in (p.patients, p.sites))
        for k, structure in enumerate(p.classes):
            cells = [repr(float(x)) for x in scores[i, :3, k]] + [
                f"{scores[i, 3, k]:.0f}",
                f"{p.label[i, k]:.0f}",
            ]
            known = p.label_weight[i, k] > 0
            shown = [cell if known and cell != "nan" else "" for cell in cells]
            table.writerow([name, patient, site, structure, *shown])
    return text.getvalue()


def _structures_read(rows: list[list[str]]) -> Predictions:
    classes = list(dict.fromkeys(row[3] for row in rows))
    first = rows[:: len(classes)]
    if [row[3] for row in rows] != classes * len(first):
        raise ValueError("not every example has a row for every structure")
    cells = np.array([[float(x) if x else np.nan for x in row[4:]] for row in rows]).reshape(
        len(first), len(classes), len(QUANTITIES) + 1
    )
    score = np.moveaxis(cells[..., : len(QUANTITIES)], 2, 1).reshape(len(first), -1)
    known = np.isfinite(cells[..., -1])
    ids, patients, sites = ([row[i] for row in first] for i in range(3))
    told = [column if any(column) else None for column in (patients, sites)]
    label = np.where(known, cells[..., -1], 0.0)
    return Predictions("segmentation", classes, ids, *told, score, label, known.astype(np.float32))
