"""Ingest: scans in, one dataset out, whole or not at all.

Scans are prepared one by one (``prepare``) by worker processes, wait in ``DATASET.partial/``, are judged as a
set, split by patient, written in the order of their ids, and appear as ``DATASET`` by one rename. A fault of
a file is refused and counted; a fault of the set ends it. The bytes do not depend on the number of workers.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from vitmed.data import annotations as known
from vitmed.data import datasheet, splits, spool
from vitmed.data.annotations import Annotations, Labels, Row
from vitmed.data.prepare import UNMARKED, Plan, Task
from vitmed.data.records import Writer, features, identity
from vitmed.data.spool import Stored
from vitmed.errors import InputError, MachineError
from vitmed.progress import Bar
from vitmed.scans import arrays, medmnist
from vitmed.scans.find import find
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
    frames: str | int | None = None,
    include: tuple[str, ...] = (),
    series: str | Path | None = None,
) -> dict:
    """Makes the dataset ``out`` from ``source``.

    Args:
        source: a folder of scans, a zip of one, a manifest CSV with a column ``path``, a MedMNIST ``.npz``,
            or one scan.
        out: the folder to make; it must not exist.
        labels: a CSV of labels by ``path`` or ``id``.
        label_from: ``"folder"``: the class is the first folder of a scan's path.
        modality: of all scans, in any usual name; None to believe the files.
        spacing: millimetres to resample to, array order.
        size: voxels of every example, array order.
        patient_pattern: regular expression that finds the patient in a scan's path.
        split: ``80/10/10`` or ``train``, overruling what the source says.
        seed: draws the patients of each split.
        workers: processes; None for one a core.
        progress: whether to show progress on standard error.
        frames, include, series: as ``vitmed.scans.how.How`` has them.

    Returns:
        ``dataset examples patients refused notes``, as ``vitmed ingest --json`` prints them.

    Raises:
        InputError: a fault of the set; nothing is left behind.
        MachineError: the disk is full or refuses, or a worker died; likewise.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise InputError(f"{out} exists already; give --out a new path, or remove it first")
    if split is not None:
        splits.rule(split)
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 was expected")
    plan = Plan(
        None if modality is None else canonical_modality(modality),
        _positive(spacing, "spacing"),
        _positive(size, "size"),
    )
    how = How(frames, tuple(include), None if series is None else str(series))
    with _partial(out) as partial:
        how = how.unpacking(partial / "unpacked", workers)
        sources, refused, told, plan = _look(source, labels, label_from, plan, how)
        if patient_pattern is not None:
            told = known.with_patients(told, sources, patient_pattern)
        tasks = [_task(s, told.rows.get(s.id)) for s in sources]
        spooled = partial / "spool"
        spooled.mkdir()
        kept = []
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
        if not kept:
            raise InputError(_nothing(source, refused))
        kept.sort(key=lambda m: m.id)
        sheet = _write(partial, source, kept, refused, told, split, seed, progress)
        shutil.rmtree(spooled)
        shutil.rmtree(how.unpack)
        if series is not None:
            why = {s.id: s.chosen for s in sources if s.chosen}
            sheet["series"] = [{"id": m.id, "chosen": why[m.id]} for m in kept if m.id in why]
        (partial / datasheet.FILE).write_text(json.dumps(sheet, indent=2) + "\n")
    return {
        "dataset": str(out),
        **{key: sheet[key] for key in ("examples", "patients", "refused", "notes")},
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
            rows[scan] = Row(mine.labels, mine.patient, mine.site, row.split, mine.mask, mine.modality)
    return Annotations(told.columns, rows, told.names, told.task, told.asked, told.origin, told.notes)


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
    """Keeps the number of channels that most scans have; of equally many, the smaller."""
    counts = Counter(m.shape[-1] for m in kept)
    if len(counts) < 2:
        return kept, refused
    most = min(counts, key=lambda c: (-counts[c], c))
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


def _write(
    partial: Path,
    source: Path,
    kept: list[Stored],
    refused: Refusals,
    told: Annotations,
    rule: str | None,
    seed: int,
    progress: bool,
) -> dict:
    """Writes shards and TFDS's metadata into ``partial``; returns the datasheet."""
    ids = [m.id for m in kept]
    rows = [told.rows.get(i, Row()) for i in ids]
    labels = known.encode(told, ids)
    patients = [row.patient or m.patient for row, m in zip(rows, kept, strict=True)]
    # Where no patient is known, copies count as one person's, so that none lies on both sides of a split.
    first = {m.digest: m.id for m in reversed(kept)}
    # Likewise the frames and stacks of one file or series, which differ after the "#".
    own, given = (
        [first[m.digest].rpartition("#")[0] or first[m.digest] for m in kept],
        [row.split for row in rows],
    )
    parts = splits.make(own, patients, _strata(labels), given, rule, seed)
    dtype = np.result_type(*{m.dtype for m in kept})
    masks = any(m.mask_bytes for m in kept)
    shape = kept[0].shape
    writer = Writer(partial, features(shape[:-1], shape[-1], dtype, labels.label.shape[1], masks))
    with Bar("writing", len(kept), "scans", quiet=not progress) as bar:
        for name in splits.NAMES:
            for i, meta in enumerate(kept):
                if parts.split[i] == name:
                    writer.add(name, _example(meta, rows[i], patients[i], labels, i, dtype, masks))
                    bar.advance()
    notes = [*told.notes, *parts.notes]
    missing = int((labels.weight == 0).all(axis=1).sum())
    if labels.task and missing:
        notes.append(f"{missing} scan{'s' * (missing > 1)} without a label: kept, as unlabelled.")
    sheet = datasheet.make(
        name=source.resolve().name.removesuffix(source.suffix),
        modality=kept[0].modality,
        dtype=dtype,
        metas=kept,
        labels=labels,
        splits=parts,
        seed=seed,
        patients=patients,
        refused=sorted(refused),
        notes=notes,
        simulated=((source if source.is_dir() else source.parent) / "phantoms.json").is_file(),
        content_hash=writer.close(),
    )
    return sheet


def _strata(labels: Labels) -> list[str]:
    """What the splits are made alike in: the class, or the set of findings; nothing for numbers."""
    if labels.task not in ("multiclass", "multilabel"):
        return [""] * len(labels.label)
    pairs = zip(labels.label, labels.weight, strict=True)
    return [str(row.astype(int).tolist()) if weight.any() else "" for row, weight in pairs]


def _example(
    meta: Stored, row: Row, patient: str, labels: Labels, i: int, dtype: np.dtype, masks: bool
) -> dict:
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
        "example": identity(meta.id),
        "id": meta.id,
        "patient": patient,
        "site": row.site or meta.site,
        "orientation": meta.orientation,
    }
    if masks:
        example["mask"] = np.full(meta.shape[:-1], UNMARKED, np.uint8) if mask is None else mask
    return example


@contextlib.contextmanager
def _partial(out: Path):
    """``OUT.partial/`` to work in, which becomes ``out`` at the end and is gone after any fault.

    A folder left by a killed ingest is cleared; one that another ingest holds is not touched.
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
            os.rename(partial, out)
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
