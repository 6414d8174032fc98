"""What is known of scans beside their pixels: label, patient, site, split and mask."""

import dataclasses
import re
from pathlib import Path

import numpy as np

from vitmed.errors import InputError
from vitmed.scans import medmnist
from vitmed.scans.layout import Mask, Told
from vitmed.scans.scan import Source

TOLD = ("study", "series", "view", "timepoint")  # columns that travel with the example as they are told
DATE = re.compile(
    r"(19|20)\d\d([-/.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])|\d{1,2}[-/.]\d{1,2}[-/.](\d\d){1,2}"
)
MANY = 20  # classes that are numbers, beyond which they are likely measurements
REGRESSION = "regression"


@dataclasses.dataclass(frozen=True)
class Row:
    """What is told of one scan; "" and None mean that nothing is."""

    labels: tuple[str, ...] = ()  # as written, one a label column
    patient: str = ""
    site: str = ""
    split: str | None = None
    mask: Mask | None = None
    modality: str | None = None
    study: str = ""
    series: str = ""
    view: str = ""
    timepoint: str = ""


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Rows by scan id.

    Attributes:
        columns: names of the label columns; () for a set without labels.
        rows: scan id to row; scans without one are unlabelled.
        names: what the classes (or columns) are called where the values are indices, or None.
        task: told by the source, or None to infer it from the values.
        asked: whether the person asked for labels, who then must get a usable set of them.
        origin: the file (or rule) the labels come from, for messages.
        notes: what a person should hear.
        classes: class names that keep their places; others come after them.
        structures: the values that each structure has in the masks, by its name, as far as somebody named them.
    """

    columns: tuple[str, ...] = ()
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] | None = None
    task: str | None = None
    asked: bool = False
    origin: str = ""
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    structures: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels of n examples as arrays.

    Attributes:
        task: ``multiclass multilabel regression`` or None for a set without labels.
        classes: class names (multiclass) or column names.
        label: (n, K) float32; the class index for multiclass.
        weight: (n, K) float32, 0 where the label is missing.
    """

    task: str | None
    classes: list[str]
    label: np.ndarray
    weight: np.ndarray


def from_layout(told: Told) -> Annotations:
    """What a layout tells of its scans: no labels, but masks, patients and the names of structures.

    Raises:
        InputError: a timepoint that is a date.
    """
    for scan, timepoint in told.timepoints.items():
        if DATE.fullmatch(timepoint):
            raise InputError(
                f"the session of {scan} is called by a date; dates identify people: call sessions by the days "
                "since the first, or 0, 1, 2"
            )
    scans = {*told.masks, *told.patients, *told.timepoints, *told.views, *told.modalities}
    rows = {
        scan: Row(
            patient=told.patients.get(scan, ""),
            mask=told.masks.get(scan),
            modality=told.modalities.get(scan),
            view=told.views.get(scan, ""),
            timepoint=told.timepoints.get(scan, ""),
        )
        for scan in sorted(scans)
    }
    return Annotations(rows=rows, notes=told.notes, structures=told.structures)


def from_folders(root: Path, sources: list[Source]) -> Annotations:
    """The class of a scan is the first folder of its path under the source: ``malignant/12.png``."""
    rows = {s.id: Row(labels=(s.id.split("/")[0] if "/" in s.id else "",)) for s in sources}
    return Annotations(("label",), rows, task="multiclass", asked=True, origin=f"the folders of {root}")


def from_npz(path: Path, sources: list[Source], found: dict[str, np.ndarray]) -> Annotations:
    """The labels (NaN: missing) and splits of a MedMNIST ``.npz``, with class names where the set is a known one.

    Args:
        sources, found: its scans and, by split, their labels (n, K) or (n,), as ``vitmed.scans.arrays.unpack`` has them.
    """
    known = medmnist.known(path.stem)
    width = {1 if v.ndim == 1 else v.shape[1] for v in found.values()}
    if len(width) > 1:
        raise InputError(f"{path} has labels of {sorted(width)} columns in its splits; give all the same")
    columns = width.pop() if width else 0
    rows = {}
    for source in sources:
        split, index = source.item
        labels = found.get(split)
        values = () if labels is None else np.atleast_1d(labels[index])
        rows[source.id] = Row(labels=tuple(map(_written, values)) or ("",) * columns, split=split)
    names = known.classes if known else None
    if columns > 1:
        names = names if names and len(names) == columns else None
        columns = names or tuple(f"label {i}" for i in range(columns))
        return Annotations(columns, rows, names, "multilabel", origin=str(path))
    return Annotations(("label",) * columns, rows, names, origin=str(path))


def with_patients(annotations: Annotations, sources: list[Source], pattern: str) -> Annotations:
    """Patients from a regular expression searched in each scan's path: its group (or the whole match).

    Raises:
        InputError: not a regular expression, or one that matches no scan.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--patient-pattern {pattern!r} is not a regular expression: {error}") from None
    rows = dict(annotations.rows)
    matched = 0
    for source in sources:
        match = expression.search(source.id)
        row = rows.get(source.id, Row(labels=("",) * len(annotations.columns)))
        if match:
            matched += 1
            if not row.patient:
                patient = match.group(1) if expression.groups else match.group(0)
                rows[source.id] = dataclasses.replace(row, patient=patient or "")
    if sources and not matched:
        raise InputError(f"--patient-pattern {pattern!r} matches no scan's path, such as {sources[0].id!r}")
    notes = annotations.notes
    if matched < len(sources):
        notes += (
            f"--patient-pattern matches {matched} of {len(sources)} scans; of the rest their own headers say whose they are, "
            "or nobody.",
        )
    return dataclasses.replace(annotations, rows=rows, notes=notes)


def as_regression(annotations: Annotations) -> Annotations:
    """The same labels as values to predict, also where their numbers would be classes.

    Raises:
        InputError: there are no labels.
    """
    if not annotations.columns:
        raise InputError(f"--task {REGRESSION} is for labels; give --labels too")
    return dataclasses.replace(annotations, task=REGRESSION)


def encode(annotations: Annotations, ids: list[str]) -> Labels:
    """Labels of the scans ``ids`` as arrays, the task inferred from what is written.

    One column of words or whole numbers is multi-class (classes in alphabetical, or numerical, order);
    several columns of 0 and 1 are multi-label; other numbers are regression. Empty is missing.

    Raises:
        InputError: several columns of words, a word where the task takes numbers, or labels asked for that hold fewer than
            two classes.
    """
    columns = annotations.columns
    empty = ("",) * len(columns)
    table = [annotations.rows[i].labels if i in annotations.rows else empty for i in ids]
    table = [tuple(map(_as_whole, row)) for row in table]
    values = {cell for row in table for cell in row} - {""}
    if not columns or not values:
        if annotations.asked:
            raise InputError(f"{annotations.origin} gives no label to any scan that could be read")
        return Labels(None, [], np.zeros((len(ids), 1), np.float32), np.zeros((len(ids), 1), np.float32))
    task = annotations.task or _task(columns, values, table, annotations.origin)
    weight = np.array([[cell != "" for cell in row] for row in table], np.float32)
    if task == "multiclass":
        whole = all(_whole(v) for v in values)
        order = sorted(values, key=float) if whole else sorted(values)
        order = [*annotations.classes, *(v for v in order if v not in annotations.classes)]
        names = annotations.names
        if annotations.asked and len(order) < 2:
            raise InputError(
                f"the labels from {annotations.origin} are of one class only, {order[0]!r}; "
                "a classifier needs two: "
                "add the other class, or leave the labels out"
            )
        if names and whole and all(0 <= int(v) < len(names) for v in order):
            classes, index = list(names), {v: int(v) for v in order}
        else:
            classes, index = order, {v: i for i, v in enumerate(order)}
        label = np.array([[index.get(cell, 0) for cell in row] for row in table], np.float32)
    else:
        word = next((v for v in sorted(values) if not _number(v)), None)
        if word is not None:
            raise InputError(
                f"{annotations.origin} gives the label {word!r}, which is no number; {task} takes numbers, and empty cells "
                "where one is missing"
            )
        classes = list(columns)
        label = np.array([[float(cell) if cell else 0.0 for cell in row] for row in table], np.float32)
    return Labels(task, classes, label, weight)


def note(labels: Labels) -> str:
    """What a person should hear of the labels: "" unless numbers that may be measurements are classes."""
    numbers = sum(map(_number, labels.classes)) if labels.task == "multiclass" else 0
    if numbers <= MANY:
        return ""
    return (
        f"{numbers} of {len(labels.classes)} classes are numbers, each a class of its own; if these are measurements, such as "
        "an age, ingest all again with --task regression."
    )


def _refuse_codes(columns, table, origin) -> None:
    """Refuses columns of 0 and 1 with another whole number in some: a code for "unknown", which is no amount."""
    for k, name in enumerate(columns):
        found = {row[k] for row in table} - {""}
        others = sorted(found - {"0", "1"})
        if {"0", "1"} <= found and others and all(map(_whole, found)):
            raise InputError(
                f"{origin} has {others[0]} beside 0 and 1 in the label column {name}; leave those cells empty where it stands "
                "for what is not known, or say that the columns are values to predict with --task regression"
            )


def _task(columns, values, table, origin) -> str:
    numbers = all(_number(v) for v in values)
    if len(columns) == 1:
        return "regression" if numbers and not all(_whole(v) for v in values) else "multiclass"
    if numbers:
        found = {float(v) for v in values}
        if found <= {-1.0, 0.0, 1.0} and -1.0 in found:
            raise InputError(
                f"{origin} has -1 beside 0 and 1 in {len(columns)} label columns, as CheXpert marks what is uncertain; "
                "write 0 or 1 there, or leave those cells empty"
            )
        if found <= {0.0, 1.0}:
            return "multilabel"
        _refuse_codes(columns, table, origin)
        return "regression"
    word = next(v for v in sorted(values) if not _number(v))
    raise InputError(
        f"{origin} has the label columns {', '.join(columns)}, with words such as {word!r} in them; "
        "say which to learn with --label-column, or give numbers"
    )


def _written(value: np.generic) -> str:
    """A label of an array as a table has it; NaN is missing."""
    number = float(value)
    if np.isnan(number):
        return ""
    return str(int(value)) if number.is_integer() else str(number)


def _as_whole(text: str) -> str:
    """``1.0``, as pandas writes whole numbers of a column with gaps, as ``1``."""
    return re.sub(r"^([-+]?\d+)\.0+$", r"\1", text)


def _number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _whole(text: str) -> bool:
    return _number(text) and float(text).is_integer()
