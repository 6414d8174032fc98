"""Ingest: scans in, one dataset out, whole or not at all.

Whoever has the scans keeps the key of pseudonyms: a patient is a keyed hash in the dataset, and what a header or
a path says of the person stays outside. Appending writes the whole set anew beside the old one and changes
places with it, so that a set is never half of each.

Scans are prepared one by one (``prepare``) by worker processes, wait in ``DATASET.partial/``, are judged as a
set, split by patient, written in the order of their ids, and appear as ``DATASET`` by one rename. A fault of
a file is refused and counted; a fault of the set ends it. The bytes do not depend on the number of workers.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vitmed.data import annotations as known
from vitmed.data import datasheet, duplicates, living, pseudonyms, splits, spool
from vitmed.data.annotations import TOLD, Annotations, Labels, Row
from vitmed.data.living import Entry
from vitmed.data.prepare import UNMARKED, Plan, Task
from vitmed.data.records import Writer, features, identity
from vitmed.data.spool import Stored
from vitmed.errors import InputError, MachineError
from vitmed.progress import Bar
from vitmed.scans import arrays, medmnist
from vitmed.scans.find import find, kind_of
from vitmed.scans.how import How
from vitmed.scans.intensity import widen
from vitmed.scans.recipe import modality as canonical_modality
from vitmed.scans.scan import Source

Refusals = list[tuple[str, str, str]]  # file, reason, detail


def ingest(
    source: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    label_from: str | None = None,
    modality: str | None = None,
    spacing: tuple[float, ...] | None = None,
    size: tuple[int, ...] | None = None,
    patient_pattern: str | None = None,
    split: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    dedupe: bool = False,
    append: bool = False,
    key: str | Path | None = None,
    frames: str | int | None = None,
    include: tuple[str, ...] = (),
    series: str | Path | None = None,
) -> dict:
    """Makes the dataset ``out`` from ``source``.

    Args:
        source: a folder of scans, a zip of one, a manifest CSV with a column ``path``, a MedMNIST ``.npz``,
            or one scan.
        out: the folder to make; it must not exist, unless ``append``.
        labels: a CSV of labels by ``path`` or ``id``.
        label_from: ``"folder"``: the class is the first folder of a scan's path.
        modality: of all scans, in any usual name; None to believe the files.
        spacing: millimetres to resample to, array order.
        size: voxels of every example, array order.
        patient_pattern: regular expression that finds the patient in a scan's path.
        split: a rule of ``vitmed.data.splits``, overruling what the source says.
        seed: draws the patients of each split.
        workers: processes; None for one a core.
        progress: whether to show progress on standard error.
        dedupe: bring scans that are copies or near-duplicates of one another to one split.
        append: add to the dataset ``out``; no patient in it changes its split, and what is in it is passed over.
        key: the file of the key of pseudonyms; None for ``pseudonyms.default_path()``. Made on first use.
        frames, include, series: as ``vitmed.scans.how.How`` has them.

    Returns:
        ``dataset examples patients refused notes``, as ``vitmed ingest --json`` prints them, ``key`` (its path, or
        None where none was needed) and ``key_made`` (whether it was made now).

    Raises:
        InputError: a fault of the set; nothing is left behind.
        MachineError: the disk is full or refuses, or a worker died; likewise.
    """
    source, out = Path(source), Path(out)
    if not append and out.exists():
        raise InputError(f"{out} exists already; give --out a new path, --append, or remove it first")
    if split is not None:
        splits.parse(split)
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 was expected")
    plan = Plan(
        None if modality is None else canonical_modality(modality),
        _positive(spacing, "spacing"),
        _positive(size, "size"),
    )
    old = None
    if append:
        old = living.open_for_change(out)
        living.same_rule(old, split, seed, dedupe)
        split, seed, dedupe = living.rule_of(old)
        plan = living.same_plan(old, plan)
    simulated = ((source if source.is_dir() else source.parent) / "phantoms.json").is_file()
    if old is not None and simulated != old.datasheet["simulated"]:
        raise InputError(
            f"of {out} and {source} one holds simulated scans and the other real ones; keep them apart"
        )
    names = Names(key, asked=not simulated, made_with=living.key_of(old))
    how = How(frames, tuple(include), None if series is None else str(series))
    with partial_of(out, replace=append) as partial:
        how = how.unpacking(partial / "unpacked", workers)
        sources, refused, told, plan = _look(source, labels, label_from, plan, how)
        if patient_pattern is not None:
            told = known.with_patients(told, sources, patient_pattern)
        there = living.ids(old)
        passed = [s.id for s in sources if s.id in there]
        tasks = [_task(s, told.rows.get(s.id)) for s in sources if s.id not in there]
        spooled = partial / "spool"
        spooled.mkdir()
        kept = living.kept(old)
        # Closed before anything is cleared away, so that no worker still writes there.
        with (
            Bar("reading", len(tasks), "scans", quiet=not progress or not tasks) as bar,
            contextlib.closing(spool.run(tasks, plan, spooled, workers)) as outcomes,
        ):
            for outcome in outcomes:
                if isinstance(outcome, Stored):
                    _same_set(outcome, kept, plan)
                    kept.append(outcome)
                else:
                    refused.append(outcome)
                bar.advance()
        kept, refused = _one_kind_of_channels(kept, refused)
        fresh = [m for m in kept if isinstance(m, Stored)]
        if not fresh:
            if passed:
                raise InputError(
                    f"all {len(passed)} scans of {source} are in {out} already; nothing to append"
                )
            raise InputError(_nothing(source, refused))
        entries = [_entry(m, told.rows.get(m.id, Row()), names) for m in fresh]
        again = [e for e in entries if e.id in there]
        new = [e for e in entries if e.id not in there]
        if not new:
            raise InputError(f"all scans of {source} are in {out} already; nothing to append")
        entries = living.entries(old, kept) + new
        notes = list(told.notes)
        if passed or again:
            notes.append(f"{len(passed) + len(again)} scans were in the dataset already and are passed over.")
        split = _hidden_site(split, entries, names)
        files = {s.id: s.files for s in sources}
        sheet = write(
            partial,
            entries,
            living.annotations(old, told, entries),
            name=old.datasheet["name"] if old else _set_name(source, fresh, names),
            plan=plan,
            rule=split,
            seed=seed,
            dedupe=dedupe,
            refused=[*{*_discreet(refused, files, source, told, names), *living.refused(old)}],
            notes=notes,
            simulated=simulated,
            key=living.key_of(old) if names.key is None else names.key.name,
            history=living.history(old),
            progress=progress,
        )
        shutil.rmtree(spooled)
        shutil.rmtree(how.unpack)
        if series is not None:
            why = {s.id: s.chosen for s in sources if s.chosen}
            sheet["series"] = [{"id": e.id, "chosen": why[e.meta.id]} for e in new if e.meta.id in why]
        (partial / datasheet.FILE).write_text(json.dumps(sheet, indent=2) + "\n")
    return {
        "dataset": str(out),
        **{name: sheet[name] for name in ("examples", "patients", "refused", "notes")},
        "key": None if names.key is None else str(names.key.path),
        "key_made": names.key is not None and names.key.made,
    }


def _look(
    source: Path, labels: str | Path | None, label_from: str | None, plan: Plan, how: How
) -> tuple[list[Source], Refusals, Annotations, Plan]:
    """What there is, what is refused at first sight, and what is told of it."""
    if label_from not in (None, "folder"):
        raise InputError(f"--label-from {label_from!r} is not known; folder is the one way there is")
    if labels is not None and label_from is not None:
        raise InputError(f"labels are asked from {labels} and from folders; give --labels or --label-from")
    if label_from is not None and source.is_file() and source.suffix.lower() != ".zip":
        raise InputError(f"{source} is a file and has no class folders for --label-from; give their parent")
    if source.suffix.lower() == ".npz" and source.is_file():
        sources, refused = arrays.find(str(source)), []
        told = known.from_npz(source, sources)
        name = medmnist.known(source.stem)
        if plan.modality is None and name is not None:
            plan = Plan(name.modality, plan.spacing, plan.size)
    elif source.suffix.lower() == ".csv" and source.is_file():
        sources, refused = find(source.parent, known.paths_in(source), how)
        told = known.from_table(source, source.parent, sources, {r[0] for r in refused})
    else:
        sources, refused = find(source, how=how)
        told = Annotations()
        table = source / "labels.csv"
        if labels is None and label_from is None and table.is_file():
            told = Annotations(notes=(f"{table} was not used; if it holds the labels, give --labels.",))
    if labels is not None:
        root = source if source.is_dir() else source.parent
        own = told.rows
        told = known.from_table(Path(labels), root, sources, {r[0] for r in refused})
        told = _keep_splits(told, own)
    elif label_from is not None:
        told = known.from_folders(source, sources)
    masks = {os.path.realpath(row.mask) for row in told.rows.values() if row.mask}
    if masks:  # a mask that lies among the scans is not one of them
        sources = [s for s in sources if not masks.intersection(map(os.path.realpath, s.files))]
    return sources, list(refused), told, plan


def _keep_splits(told: Annotations, own: dict[str, Row]) -> Annotations:
    """A label table says nothing of splits: those of the source (an npz) stay."""
    rows = dict(told.rows)
    for scan, row in own.items():
        mine = rows.get(scan, Row(labels=("",) * len(told.columns)))
        if mine.split is None:
            rows[scan] = dataclasses.replace(mine, split=row.split)
    return dataclasses.replace(told, rows=rows)


def _task(source: Source, row: Row | None) -> Task:
    return Task(source) if row is None else Task(source, row.mask, row.modality)


def _same_set(new: Stored, kept: list[Stored], plan: Plan) -> None:
    """Ends ingest as soon as two scans cannot be of one set."""
    if not kept:
        return
    first = kept[0]
    if new.modality != first.modality:
        raise InputError(
            f"{first.id} is {first.modality} and {new.id} is {new.modality}; a dataset has one modality: "
            f"name it with --modality, and scans whose header says otherwise are left out"
        )
    like = next((k for k in kept if k.shape[-1] == new.shape[-1]), None)
    if plan.size is None and like is not None and like.shape != new.shape:
        a, b = (" x ".join(map(str, m.shape[:-1])) for m in (like, new))
        raise InputError(
            f"images differ in size: {like.id} is {a}, {new.id} is {b}; give --size, such as "
            f"--size {','.join(map(str, like.shape[:-1]))}"
        )


def _one_kind_of_channels(kept: list[Stored], refused: Refusals) -> tuple[list[Stored], Refusals]:
    """Keeps the number of channels that the set has, or else most scans have; of equally many, the smaller."""
    counts = Counter(m.shape[-1] for m in kept)
    if len(counts) < 2:
        return kept, refused
    most = min(counts, key=lambda c: (-counts[c], c))
    if isinstance(kept[0], living.Kept):
        most = kept[0].shape[-1]
    others = [
        (m.id, "other channels than the rest", f"{m.shape[-1]}, most scans have {most}")
        for m in kept
        if m.shape[-1] != most
    ]
    return [m for m in kept if m.shape[-1] == most], refused + others


def _nothing(source: Path, refused: Refusals) -> str:
    if not refused:
        return f"{source} holds no scan: no DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, BMP or npy file in it"
    file, reason, detail = min(refused)
    why = f"{reason} ({detail})" if detail else reason
    return f"{source} holds no scan that can be used: {len(refused)} refused, the first is {file}: {why}"


class Names:
    """What things are called inside the dataset; opens the key when the first pseudonym is needed.

    Attributes:
        key: the key, or None as long as none was needed.
    """

    def __init__(self, path: str | Path | None, asked: bool = True, made_with: str | None = None):
        self._path, self._made_with = path, made_with
        self._asked = asked  # simulated patients have no name to hide
        self.key: pseudonyms.Key | None = None

    def hide(self, kind: str, text: str) -> str:
        """The pseudonym of ``text``; "" stays "".

        Raises:
            InputError: the key is not the one that the dataset was made with.
        """
        return self._opened().hide(kind, text) if text and self._asked else text

    def public(self, path: str, values: Iterable[str]) -> str:
        """A path without what shows who the patient is."""
        if not self._asked or not any(pseudonyms.shows(part, values) for part in path.split("/")):
            return path
        return pseudonyms.public(path, values, self._opened())

    def nothing_of(self, path: str) -> str:
        """A path of which nothing is known but that it may identify."""
        return pseudonyms.hidden(path, self._opened()) if self._asked else path

    def _opened(self) -> pseudonyms.Key:
        if self.key is None:
            self.key = pseudonyms.open_key(self._path, make=self._made_with is None)
            pseudonyms.same_key(self.key, self._made_with)
        return self.key


def _entry(meta: Stored, row: Row, names: Names) -> Entry:
    patient = row.patient or meta.patient
    values = (*meta.telling, patient) if patient else meta.telling
    name = names.public(meta.id, values)
    return Entry(
        id=name,
        patient=names.hide("patient", patient),
        # What a person writes into a table is meant to be read; what a header says is not.
        site=row.site or names.hide("site", meta.site),
        study=names.hide("study", row.study),
        series=names.hide("series", row.series),
        view=row.view,
        timepoint=row.timepoint,
        split=row.split,
        drawn_by=patient or meta.id,
        meta=meta,
        fixed=None,
    )


def _hidden_site(rule: str | None, entries: list[Entry], names: Names) -> str | None:
    """``site:NAME`` of a name that headers give, by its pseudonym: the rule is written into the datasheet."""
    site = splits.parse(rule).site if rule else ""
    if site and all(e.site != site for e in entries):
        hidden = names.hide("site", site)
        if any(e.site == hidden for e in entries):
            return f"site:{hidden}"
    return rule


def _set_name(source: Path, fresh: list[Stored], names: Names) -> str:
    name = source.resolve().name.removesuffix(source.suffix)
    telling = {value for m in fresh for value in m.telling}
    return names.public(name, telling) if telling else name


def _discreet(refused: Refusals, files: dict, source: Path, told: Annotations, names: Names) -> Refusals:
    """What was refused and why, without what a DICOM header says of the person; nothing of an unreadable one."""
    if not refused:
        return []
    from vitmed.scans import deidentify
    from vitmed.scans.dicom_header import is_dicom

    root = source if source.is_dir() else source.parent
    out = []
    for file, reason, detail in refused:
        path = str(files[file][0] if file in files else root / file)
        row = told.rows.get(file, Row())
        values = (row.patient,) if row.patient else ()
        if file not in files and ".zip" in file.lower():  # a member that was not unpacked cannot be asked
            out.append((names.nothing_of(file), reason, ""))
            continue
        regular = os.path.isfile(path)  # to open a pipe is to wait for ever
        if kind_of(path) == "dicom" or (regular and is_dicom(path)):
            found = deidentify.look(path).values if regular else None
            if found is None:
                out.append((names.nothing_of(file), reason, ""))
                continue
            values += found
        out.append((names.public(file, values), reason, "" if pseudonyms.shows(detail, values) else detail))
    return out


def write(
    partial: Path,
    entries: list[Entry],
    told: Annotations,
    *,
    name: str,
    plan: Plan,
    rule: str | None,
    seed: int,
    dedupe: bool,
    refused: Refusals,
    notes: list[str],
    simulated: bool,
    key: str | None,
    history: list[dict],
    progress: bool,
) -> dict:
    """Writes shards and TFDS's metadata into ``partial``; returns the datasheet.

    Args:
        entries: what the set is to hold, in any order.
        told: labels by the ids of ``entries``.
        key: the name of the key of pseudonyms, None where there are none.
    """
    entries = sorted(entries, key=lambda e: e.id)
    kept, ids = [e.meta for e in entries], [e.id for e in entries]
    labels = known.encode(told, ids)
    patients = [e.patient for e in entries]
    digests = [m.digest for m in kept]
    cluster = duplicates.clusters(digests, [m.signature for m in kept], kept[0].shape[:-1])
    # Where no patient is known, copies count as one person's, so that none lies on both sides of a split.
    # Likewise the frames and stacks of one file or series, which differ after the "#".
    first = {m.digest: e for e, m in reversed(list(zip(entries, kept, strict=True)))}
    own = [first[d].meta.id.rpartition("#")[0] or first[d].meta.id for d in digests]
    parts = splits.make(
        own,
        patients,
        _strata(labels),
        [e.split for e in entries],
        rule,
        seed,
        sites=[e.site for e in entries],
        clusters=cluster if dedupe else None,
        fixed=[e.fixed for e in entries],
        drawn_by=[e.drawn_by if e.patient else f"\0{o}" for e, o in zip(entries, own, strict=True)],
    )
    dtype = np.result_type(*{m.dtype for m in kept})
    masks = any(m.mask_bytes for m in kept)
    shape = kept[0].shape
    writer = Writer(partial, features(shape[:-1], shape[-1], dtype, labels.label.shape[1], masks))
    with Bar("writing", len(kept), "scans", quiet=not progress) as bar:
        for split in splits.NAMES:
            for i, entry in enumerate(entries):
                if parts.split[i] == split:
                    writer.add(split, _example(entry, labels, i, dtype, masks))
                    bar.advance()
    notes = [*notes, *parts.notes]
    missing = int((labels.weight == 0).all(axis=1).sum())
    if labels.task and missing:
        notes.append(f"{missing} scan{'s' * (missing > 1)} without a label: kept, as unlabelled.")
    hidden = sum(pseudonyms.is_hidden(i) for i in ids)
    if hidden:
        notes.append(f"{hidden} ids hold pseudonyms in place of parts that showed who the patient is.")
    return datasheet.make(
        name=name,
        modality=kept[0].modality,
        dtype=dtype,
        metas=kept,
        labels=labels,
        splits=parts,
        seed=seed,
        dedupe=dedupe,
        ids=ids,
        patients=patients,
        sites=[e.site for e in entries],
        cluster=cluster,
        privacy={
            "pseudonyms": "HMAC-SHA256" if key is not None else None,
            "key": key,
            "hidden_ids": hidden,
        },
        plan=dataclasses.asdict(plan),
        history=history,
        refused=sorted(refused),
        notes=notes,
        simulated=simulated,
        content_hash=writer.close(),
    )


def _strata(labels: Labels) -> list[str]:
    """What the splits are made alike in: the class, or the set of findings; nothing for numbers."""
    if labels.task not in ("multiclass", "multilabel"):
        return [""] * len(labels.label)
    pairs = zip(labels.label, labels.weight, strict=True)
    return [str(row.astype(int).tolist()) if weight.any() else "" for row, weight in pairs]


def _example(entry: Entry, labels: Labels, i: int, dtype: np.dtype, masks: bool) -> dict:
    meta = entry.meta
    image, mask = meta.load()
    scale = meta.scale
    if image.dtype != dtype:
        image, scale = widen(image), scale / np.float32(257)
    example = {
        "image": image,
        "scale": scale,
        "offset": meta.offset,
        "spacing": meta.spacing,
        "affine": meta.affine,
        "label": labels.label[i],
        "label_weight": labels.weight[i],
        "example": identity(entry.id),
        "id": entry.id,
        "patient": entry.patient,
        "site": entry.site,
        **{name: getattr(entry, name) for name in TOLD},
        "read_size": meta.read_size,
        "read_spacing": meta.read_spacing,
        "exposed": ",".join(meta.exposed),
        "orientation": meta.orientation,
    }
    if masks:
        example["mask"] = np.full(meta.shape[:-1], UNMARKED, np.uint8) if mask is None else mask
    return example


@contextlib.contextmanager
def partial_of(out: Path, replace: bool = False):
    """``OUT.partial/`` to work in, which becomes ``out`` at the end and is gone after any fault.

    A folder left by a killed ingest is cleared; one that another ingest holds is not touched.

    Args:
        replace: ``out`` is there, and gives way at the end.
    """
    partial = out.with_name(out.name + ".partial")
    made = [p for p in (out.parent, *out.parent.parents) if not p.exists()]
    lock = None
    try:
        with _disk(partial):
            partial.mkdir(parents=True, exist_ok=True)
            lock = os.open(partial / ".lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                made = []
                os.close(lock)
                lock = None
                raise InputError(
                    f"{out} is being made by another ingest; wait for it or give another"
                ) from None
            for stale in partial.iterdir():
                if stale.name != ".lock":
                    shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
            yield partial
            (partial / ".lock").unlink()
            if replace:
                _give_way(out)
            os.rename(partial, out)
        if replace:
            shutil.rmtree(living.former_of(out))
    except BaseException:
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _give_way(out: Path) -> None:
    """Moves a dataset aside; if nothing takes its place, it is found as ``OUT.former``, whole."""
    shutil.rmtree(living.former_of(out), ignore_errors=True)
    os.rename(out, living.former_of(out))


@contextlib.contextmanager
def _disk(folder: Path):
    """The operating system's complaints about writing, said plainly."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MachineError(
                f"no space left on the disk of {folder}; free some and run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            where = error.filename2 or error.filename or folder
            raise InputError(f"{where} is in the way ({error.strerror}); give --out a new path") from error
        raise


def _positive(values: tuple | None, name: str) -> tuple | None:
    if values is not None and (len(values) not in (2, 3) or not all(v > 0 for v in values)):
        raise InputError(f"--{name} {','.join(map(str, values))} is not 2 or 3 positive numbers")
    return None if values is None else tuple(values)
