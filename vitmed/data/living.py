"""A dataset that lives: scans join it and patients leave it, and nobody else is moved.

Everything that is asked of a scan when a set is written can be had from its record, so a dataset on disk is taken
up as if its scans had just been read, together with new ones or without some.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vitmed.data import pseudonyms, replacing
from vitmed.data.annotations import REGRESSION, TOLD, Annotations, Row
from vitmed.data.assembly import Entry
from vitmed.data.dataset import Dataset
from vitmed.data.prepare import Described, digest, marked, statistics
from vitmed.errors import InputError
from vitmed.progress import Bar
from vitmed.scans.kinds import part_of
from vitmed.scans.recipe import window_of
from vitmed.scans.scan import Refusals


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Kept(Described):
    """A scan that is in a dataset already."""

    dataset: Dataset
    split: str
    index: int
    shape: tuple[int, ...]
    dtype: np.dtype
    mask_bytes: int
    signature: np.ndarray

    @property
    def held(self) -> int:
        """Bytes of memory that ``load`` takes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize + self.mask_bytes

    def load(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The image (*S, C) and the mask (*S) or None."""
        record = self.dataset.record(self.split, self.index)
        return record["image"], record.get("mask")


def open_for_change(path: str | Path) -> Dataset:
    """A dataset that can be taken up again.

    Raises:
        InputError: it is none, or was made before its records told all that is needed.
    """
    former = replacing.former_of(Path(path))
    if former.is_dir() and not Path(path).exists():
        raise InputError(
            f"{path} is not there, but {former} is, from a change that was cut short; rename it back"
        )
    dataset = Dataset.open(path)
    if not {"plan", "structures"} <= dataset.datasheet.keys():
        raise InputError(f"{path} was made by an older vitmed and cannot be changed; ingest its scans again")
    return dataset


def kept(dataset: Dataset | None, progress: bool = False) -> list[Kept]:
    """Every scan of a dataset, read once for its statistics; ``progress`` shows on standard error how many are."""
    if dataset is None:
        return []
    sheet, out = dataset.datasheet, []
    count = sum(map(dataset.size, dataset.splits))
    with Bar("reading the dataset", count, "scans", quiet=not progress) as bar:
        for split in dataset.splits:
            for index, record in enumerate(dataset.records(split)):
                image, scale, offset = record["image"], record["scale"], record["offset"]
                total, square, histogram, signature = statistics(
                    image, scale, offset, window_of(sheet["modality"])
                )
                out.append(
                    Kept(
                        dataset=dataset,
                        split=split,
                        index=index,
                        id=record["id"],
                        modality=sheet["modality"],
                        shape=image.shape,
                        dtype=image.dtype,
                        scale=scale,
                        offset=offset,
                        spacing=record["spacing"],
                        affine=record["affine"],
                        grid=record["grid"],
                        orientation=record["orientation"],
                        digest=digest(image),
                        total=total,
                        square=square,
                        histogram=histogram,
                        signature=signature,
                        read_size=record["read_size"],
                        read_spacing=record["read_spacing"],
                        marked=marked(record.get("mask")),
                        exposed=tuple(filter(None, record["exposed"].split(","))),
                        mask_bytes=record["mask"].size if "mask" in record else 0,
                    )
                )
                bar.advance()
    return out


def entries(dataset: Dataset | None, scans: list) -> list[Entry]:
    """The examples of a dataset as they are; ``scans`` holds what ``kept`` gave, and may hold others."""
    if dataset is None:
        return []
    columns = {
        split: {
            "id": dataset.ids(split),
            "patient": dataset.patients(split) or [""] * dataset.size(split),
            "site": dataset.sites(split),
            **{name: dataset.told(split, name) for name in TOLD},
        }
        for split in dataset.splits
    }
    return [
        Entry(
            **{name: held[m.index] for name, held in columns[m.split].items()},
            split=m.split,
            fixed=m.split,
            drawn_by=columns[m.split]["patient"][m.index] or m.id,
            person=columns[m.split]["patient"][m.index],
            part_of=part_of(m.id),
            meta=m,
        )
        for m in scans
        if isinstance(m, Kept)
    ]


def ids(dataset: Dataset | None) -> set[str]:
    """What a dataset's examples are called."""
    return set() if dataset is None else {i for split in dataset.splits for i in dataset.ids(split)}


def refused(dataset: Dataset | None) -> Refusals:
    """What was refused when the dataset was made."""
    if dataset is None:
        return []
    return [(e["file"], *_parted(e["reason"])) for e in dataset.datasheet["refused_files"]]


def apart_from(refused: Refusals, scans: Iterable[str]) -> Refusals:
    """What was refused, but for what shares a hidden folder with one of the ``scans`` of who was withdrawn.

    Such a folder is called by a person, and what lies in it may be theirs: nothing is kept of it.
    """
    hidden = set().union(*map(pseudonyms.hidden_parts, scans))
    return [fault for fault in refused if hidden.isdisjoint(pseudonyms.hidden_parts(fault[0]))]


def series(dataset: Dataset | None, staying: list[Entry]) -> list[dict]:
    """Why each series of those that stay was chosen, as far as a rule chose them."""
    if dataset is None:
        return []
    names = {e.id for e in staying}
    return [chosen for chosen in dataset.datasheet.get("series", []) if chosen["id"] in names]


def key_of(dataset: Dataset | None) -> str | None:
    """The name of the key that a dataset's pseudonyms were made with, None where it has none."""
    return None if dataset is None else dataset.datasheet["privacy"]["key"]


def mark_of(patient: str) -> str:
    """What a dataset remembers a patient by who was withdrawn: not the pseudonym, under which others may know them."""
    return hashlib.sha256(f"withdrawn {patient}".encode()).hexdigest()[:16]


def withdrawn(dataset: Dataset | None) -> set[str]:
    """The marks of the patients who were taken out of a dataset and must not come back."""
    told = [] if dataset is None else dataset.datasheet["history"]
    return {state["withdrawn"] for state in told if state.get("withdrawn")}


def history(dataset: Dataset | None) -> list[dict]:
    """The states a dataset has been in, the present one last."""
    if dataset is None:
        return []
    sheet = dataset.datasheet
    return [*sheet["history"], {"content_hash": sheet["content_hash"], "examples": sheet["examples"]}]


def annotations(dataset: Dataset | None, told: Annotations, entries: list[Entry]) -> Annotations:
    """Labels by the ids of ``entries``: those that a dataset holds, and what is told of new scans.

    Raises:
        InputError: the new labels are of another task, or of other columns, than those in the dataset, or the
            values of masks mean other structures.
    """
    new = [e for e in entries if e.fixed is None]
    rows = {e.id: told.rows.get(e.meta.id, Row(("",) * len(told.columns))) for e in new}
    if dataset is None:
        return dataclasses.replace(told, rows=rows)
    sheet = dataset.datasheet
    told = dataclasses.replace(told, structures=_structures(dataset, told.structures))
    task, classes = sheet["task"], tuple(sheet["classes"])
    if task is None:
        blank = ("",) * len(told.columns)
        held = {i: Row(blank) for i in ids(dataset)}
        return dataclasses.replace(told, rows={**held, **rows})
    if told.task == REGRESSION != task:
        raise InputError(f"--task is {told.task}, but the labels of {dataset.path} are {task}; leave it out")
    columns = told.columns if task == "multiclass" else classes
    width = 1 if task == "multiclass" else len(classes)
    if told.columns and (len(told.columns) != width or (task != "multiclass" and told.columns != classes)):
        raise InputError(
            f"{dataset.path} has the labels {', '.join(classes)}, those of the new scans are "
            f"{', '.join(told.columns)}; give the same"
        )
    if not told.columns:
        columns = ("label",) if task == "multiclass" else classes
        rows = {i: dataclasses.replace(row, labels=("",) * width) for i, row in rows.items()}
    elif told.names and task == "multiclass":
        rows = {i: dataclasses.replace(row, labels=_named(row.labels, told.names)) for i, row in rows.items()}
    for split in dataset.splits:
        for i, values, weight in zip(dataset.ids(split), *dataset.labels(split), strict=True):
            cells = (
                "" if not w else classes[int(v)] if task == "multiclass" else repr(float(v))
                for v, w in zip(values, weight, strict=True)
            )
            rows[i] = Row(tuple(cells))
    return Annotations(
        columns,
        rows,
        task=task,
        asked=told.asked,
        origin=told.origin,
        notes=told.notes,
        classes=classes if task == "multiclass" else (),
        structures=told.structures,
    )


def structures(dataset: Dataset | None) -> dict[str, tuple[int, ...]]:
    """The values of each structure in the masks of a dataset, by its name."""
    if dataset is None:
        return {}
    return {name: tuple(values) for name, values in dataset.datasheet["structures"].items()}


def _structures(dataset: Dataset, new: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Those of a dataset and of new masks together."""
    old = structures(dataset)
    if not new:
        return old
    if dataset.datasheet["masks"] and not old:
        raise InputError(
            f"{dataset.path} has masks whose values nobody named, and the new ones are of {', '.join(new)}; ingest "
            "them apart, or all again"
        )
    taken = {value: name for name, values in old.items() if len(values) == 1 for value in values}
    for name, values in new.items():
        other = taken.get(values[0], name) if len(values) == 1 else name
        if old.get(name, values) != values or other != name:
            raise InputError(
                f"the masks of {dataset.path} have {_told(old)}, the new ones {_told(new)}; bring them to the same values"
            )
    return {**old, **new}


def _told(structures: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} = {' and '.join(map(str, values))}" for name, values in structures.items())


def _named(labels: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(names[int(v)] if v.isdigit() and int(v) < len(names) else v for v in labels)


def _parted(reason: str) -> tuple[str, str]:
    head, _, tail = reason.partition(": ")
    return head, tail
