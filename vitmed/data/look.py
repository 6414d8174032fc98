"""What there is to ingest, and what is told of it: by tables, by folders, by a layout that it follows."""

import dataclasses
import os
from pathlib import Path

from vitmed.data import annotations as known
from vitmed.data import tables
from vitmed.data.annotations import Annotations, Row
from vitmed.data.prepare import Plan
from vitmed.data.structures import Structures, numbered
from vitmed.errors import InputError
from vitmed.scans import arrays, medmnist
from vitmed.scans.find import survey
from vitmed.scans.how import How
from vitmed.scans.scan import Refusals, Source


def look(
    source: Path,
    labels: str | Path | None,
    label_from: str | None,
    learn: tuple[str, ...],
    plan: Plan,
    how: How,
    held: Structures,
) -> tuple[list[Source], Refusals, Annotations, Plan, Path]:
    """What there is, what is refused at first sight, what is told of it, and the folder (or zip) it is named from.

    Args:
        learn: the columns of a table that are labels; () for all that can be.
        held: the structures of the set that the scans are appended to, {} for a new one.
    """
    if label_from not in (None, "folder"):
        raise InputError(f"--label-from {label_from!r} is not known; folder is the one way there is")
    if labels is not None and label_from is not None:
        raise InputError(f"labels are asked from {labels} and from folders; give --labels or --label-from")
    if label_from is not None and source.is_file() and source.suffix.lower() != ".zip":
        raise InputError(f"{source} is a file and has no class folders for --label-from; give their parent")
    subjects: dict[str, str] = {}
    named_from = source if source.is_dir() or source.suffix.lower() == ".zip" else source.parent
    if learn and labels is None and not (source.suffix.lower() == ".csv" and source.is_file()):
        raise InputError(f"--label-column {','.join(learn)} is for a table of labels; give --labels too")
    if source.suffix.lower() == ".npz" and source.is_file():
        (sources, values), refused = arrays.unpack(str(source), Path(how.unpack) / source.stem, how.quiet), []
        told = known.from_npz(source, sources, values)
        name = medmnist.known(source.stem)
        if plan.modality is None and name is not None:
            plan = dataclasses.replace(plan, modality=name.modality)
    elif source.suffix.lower() == ".csv" and source.is_file():
        paths, named_from = tables.paths_in(source)
        found = survey(named_from, paths, how)
        beside, bad = numbered(found.told, held)
        sources, refused = found.sources, found.refused + bad
        told = tables.from_table(
            source, source.parent, sources, {r[0] for r in refused}, base=named_from, paths=paths, learn=learn
        )
        told = _with_rest(told, known.from_layout(beside))
    else:
        found = survey(source, how=how)
        beside, bad = numbered(found.told, held)
        sources, refused = found.sources, found.refused + bad
        told = known.from_layout(beside)
        subjects = {s.id: found.told.patients[s.id] for s in sources if s.id in found.told.patients}
        table = source / "labels.csv"
        if labels is None and label_from is None and table.is_file():
            note = f"{table.name} in the source was not used; if it holds the labels, give --labels."
            told = dataclasses.replace(told, notes=(*told.notes, note))
        if label_from is not None and found.told.layout:
            raise InputError(
                f"{source} is a {found.told.layout}, whose folders are no classes; give --labels, or leave out "
                "--label-from"
            )
    if labels is not None:
        root = source if source.is_dir() else source.parent
        table = tables.from_table(
            Path(labels), root, sources, {r[0] for r in refused}, learn=learn, subjects=subjects
        )
        told = _with_rest(table, told)
    elif label_from is not None:
        told = _with_rest(known.from_folders(source, sources), told)
    masks = {os.path.realpath(f) for row in told.rows.values() if row.mask for f in row.mask.files}
    if masks:  # a mask that lies among the scans is not one of them
        sources = [s for s in sources if not masks.intersection(map(os.path.realpath, s.files))]
        rows = [told.rows[s.id] for s in sources if s.id in told.rows]
        laid = {os.path.realpath(f) for row in rows if row.mask for f in row.mask.files}
        refused = [one for one in refused if os.path.realpath(named_from / one[0]) not in laid]
    return sources, list(refused), told, plan, named_from


def _with_rest(told: Annotations, source: Annotations) -> Annotations:
    """What a person tells, and of what they leave open what the source itself tells, save its labels."""
    rows = dict(told.rows)
    for scan, row in source.rows.items():
        mine = rows.get(scan, Row(labels=("",) * len(told.columns)))
        open_ = {f.name: getattr(row, f.name) for f in dataclasses.fields(Row) if not getattr(mine, f.name)}
        rows[scan] = dataclasses.replace(mine, **{k: v for k, v in open_.items() if k != "labels"})
    return dataclasses.replace(
        told, rows=rows, notes=(*source.notes, *told.notes), structures=source.structures
    )
