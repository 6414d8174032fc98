"""Ingest: scans in, one dataset out, whole or not at all.

Scans are prepared one by one (``prepare``) by worker processes of this machine (``spool``) or of a cluster (``beam``),
wait in ``DATASET.partial/``, are assembled to a set (``assembly``), and appear as ``DATASET`` by one rename
(``replacing``). A fault of a file is refused and counted; a fault of the set ends it; after an interruption the same
command goes on from what was read (``resume``). The bytes depend neither on the driver, nor on the number of workers,
nor on interruptions.
"""

import contextlib
import dataclasses
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from vitmed import words
from vitmed.data import annotations as known
from vitmed.data import as_before, chunks, datasheet, fingerprint, living, resume, splits, spool
from vitmed.data.annotations import Annotations, Row
from vitmed.data.appended import appended
from vitmed.data.assembly import Entry, assemble
from vitmed.data.look import look
from vitmed.data.names import Names, Neighbours, discreet
from vitmed.data.prepare import Plan, Task
from vitmed.data.replacing import partial_of
from vitmed.data.spool import Stored
from vitmed.errors import InputError
from vitmed.progress import Bar
from vitmed.scans.how import How
from vitmed.scans.recipe import modality as canonical_modality
from vitmed.scans.scan import Refusals, Source


def ingest(
    source: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    label_from: str | None = None,
    label_columns: tuple[str, ...] = (),
    task: str | None = None,
    modality: str | None = None,
    spacing: tuple[float, ...] | str | None = None,
    size: tuple[int, ...] | str | None = None,
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
    bids_suffix: tuple[str, ...] = (),
    chunk: tuple[int, ...] | str | None = None,
    beam: str | None = None,
    beam_options: tuple[str, ...] = (),
) -> dict:
    """Makes the dataset ``out`` from ``source``.

    Args:
        source: a folder of scans, a zip of one, a manifest CSV with a column ``path`` (of scans anywhere, see
            ``vitmed.data.tables.paths_in``), a MedMNIST ``.npz``, or one scan.
        out: the folder to make; it must not exist, unless ``append``.
        labels: a CSV or TSV of labels by ``path`` or ``id``, or by ``participant_id`` for a BIDS folder.
        label_from: ``"folder"``: the class is the first folder of a scan's path.
        label_columns: those of the table that are labels; () for all that can be.
        task: ``"regression"``: the labels are numbers to predict, whole ones too; None as ``annotations.encode`` has it.
        modality: of all scans, in any usual name; None to believe the files.
        spacing: millimetres to resample to, array order; ``"auto"`` as ``vitmed.data.fingerprint`` has it.
        size: voxels of every example, array order, or ``"auto"``.
        patient_pattern: regular expression that finds the patient in a scan's path.
        split: a rule of ``vitmed.data.splits``, overruling what the source says.
        seed: draws the patients of each split.
        workers: processes that read, and threads that write chunks; None for one a core.
        progress: whether to show progress on standard error.
        dedupe: bring scans that are copies or near-duplicates of one another to one split.
        append: add to the dataset ``out``; no patient in it changes its split, and what is in it is passed over
            (``vitmed.data.appended``). How it was read, prepared and split holds on, and anything else is refused.
        key: the file of the key of pseudonyms; None for ``pseudonyms.default_path()``. Made on first use.
        frames, include, bids_suffix: as ``vitmed.scans.how.How`` has them.
        series: the file of a rule that says which series of a study to take (``vitmed.scans.choice``).
        chunk: voxels of the chunks that images are stored in, array order, ``"auto"`` or ``"none"``, as
            ``vitmed.data.chunks.shape_of`` has them; None is ``"auto"``, or what the dataset appended to has.
        beam, beam_options: a runner of Apache Beam whose workers read, and its options, as
            ``vitmed.data.beam.Runner`` has them; None for processes of this machine.

    Returns:
        ``dataset examples patients refused notes``, as ``vitmed ingest --json`` prints them, ``read_before`` (how many
        scans an interrupted ingest had read), ``key`` (its path, or None where none was needed) and ``key_made``
        (whether it was made now).

    Raises:
        InputError: a fault of the set; nothing is left behind.
        MachineError: the disk is full or refuses, or a worker died. What was read waits in ``OUT.partial`` for the same
            call, as it does after a KeyboardInterrupt (or SIGTERM, which becomes one) and after a SIGKILL.
    """
    source, out = Path(source), Path(out)
    if not append and out.exists():
        raise InputError(f"{out} exists already; give --out a new path, --append, or remove it first")
    if split is not None:
        splits.parse(split)
    if task not in (None, known.REGRESSION):
        raise InputError(f"--task {task!r} is not known; {known.REGRESSION} is the one there is to ask for")
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; at least 1 was expected")
    driver = _driver(beam, beam_options, workers)
    plan = Plan(
        None if modality is None else canonical_modality(modality),
        None if spacing == fingerprint.AUTO else _positive(spacing, "spacing"),
        None if size == fingerprint.AUTO else _positive(size, "size"),
    )
    chunk = _chunk(chunk)
    how = How(frames, tuple(include), _series(series), tuple(bids_suffix), quiet=not progress)
    simulated = ((source if source.is_dir() else source.parent) / "phantoms.json").is_file()
    old = living.open_for_change(out) if append else None
    names = Names(key, asked=not simulated, made_with=living.key_of(old))
    too_few = False
    if old is not None:
        split = _hidden_site(split, [as_before.rule_of(old)[0] or ""], names)
        as_before.same_rule(old, split, seed, dedupe)
        rule, seed, dedupe, too_few = as_before.rule_of(old)
        too_few, split = too_few and split is None, rule  # who asks for a split gets it, of however few
        plan = as_before.same_plan(old, plan)
        how = as_before.same_reading(old, how)
        chunk = as_before.same_chunk(old, chunk)
    if old is not None and simulated != old.datasheet["simulated"]:
        raise InputError(
            f"of {out} and {source} one holds simulated scans and the other real ones; keep them apart"
        )
    with partial_of(out, replace=append, keep=resume.FOLDER, worth=resume.holds) as partial:
        how = how.unpacking(partial / "unpacked", workers)
        sources, refused, told, plan, named_from = look(
            source, labels, label_from, label_columns, plan, how, living.structures(old)
        )
        if old is None:  # a set keeps what was chosen for it
            auto = (spacing == fingerprint.AUTO, size == fingerprint.AUTO)
            plan = fingerprint.resolved(plan, sources, *auto, progress)
        if task is not None:
            told = known.as_regression(told)
        if patient_pattern is not None:
            told = known.with_patients(told, sources, patient_pattern)
        # What is called as a scan of the dataset is read as well: only its pixels tell whether it is that scan.
        tasks = [_task(s, told.rows.get(s.id)) for s in sources]
        spool_folder = partial / resume.FOLDER
        spooled = resume.begin(spool_folder, plan, how)
        before, tasks = spool.found(spooled.parent, tasks, progress)
        if before and progress:
            print(
                f"going on: {words.plural(len(before), 'scan was', 'scans were')} read before",
                file=sys.stderr,
            )
        kept = living.kept(old, progress)
        for outcome in before:
            _same_set(outcome, kept, plan, sources, progress)
            kept.append(outcome)
        # Closed before anything is cleared away, so that no worker still writes there.
        with (
            Bar("reading", len(tasks), "scans", quiet=not progress or not tasks) as bar,
            contextlib.closing(driver(tasks, plan, spooled, workers)) as outcomes,
        ):
            for outcome in outcomes:
                if isinstance(outcome, Stored):
                    _same_set(outcome, kept, plan, sources, progress)
                    kept.append(outcome)
                else:
                    refused.append(outcome)
                bar.advance()
        kept, refused = _one_kind_of_channels(kept, refused)
        fresh = [m for m in kept if isinstance(m, Stored)]
        if not fresh:
            files = {s.id: {s.files[0], s.named_by or s.files[0]} for s in sources}
            first = discreet(sorted(refused)[:1], files, named_from, told, names)
            raise InputError(_nothing(source, len(refused), first))
        # What the readers noted is let go: of many scans it is as much as all that is known of them.
        del tasks
        sources = [dataclasses.replace(s, parts=()) for s in sources]
        by_id = {s.id: s for s in sources}
        shared, left_open = _shared_headers(fresh, told)
        neighbours = Neighbours()
        for m in fresh:
            neighbours.add(m.id, (*m.telling, m.patient, told.rows.get(m.id, Row()).patient))
        entries = [
            _entry(m, by_id[m.id], told.rows.get(m.id, Row()), shared, names, neighbours) for m in fresh
        ]
        there = living.entries(old, kept)
        compared = appended(old, there, entries)
        passed = len(entries) - len(compared.new)
        gone = living.withdrawn(old)
        new = [e for e in compared.new if living.mark_of(e.patient) not in gone]
        away = {e.id for e in compared.new} - {e.id for e in new}
        back = len(away)
        if not new:
            withdrawn = f", or of patients who were withdrawn ({back})" if back else ""
            raise InputError(f"all scans of {source} are in {out} already{withdrawn}; nothing to append")
        entries = there + new
        mixed = fingerprint.uneven(np.array([m.spacing for m in kept])) if plan.spacing is None else ""
        notes = [*told.notes, *left_open, *filter(None, [plan.why if old is None else "", mixed])]
        if passed:
            notes.append(
                f"{words.plural(passed, 'scan was', 'scans were')} in the dataset already and passed over."
            )
        if compared.moved:
            here, held = compared.moved[0]
            notes.append(
                f"Of these, {len(compared.moved)} are known by their pixels and named from another folder now: {here} is "
                f"{held} in the dataset."
            )
        if copies := [e.id for e in compared.copies if living.mark_of(e.patient) not in gone]:
            notes.append(
                f"{len(copies)} of the new scans {'has' if len(copies) == 1 else 'have'} the pixels of a scan that was in the "
                f"dataset under another name, and {'is' if len(copies) == 1 else 'are'} taken again, such as {copies[0]}."
            )
        if back:
            notes.append(
                f"{words.plural(back, 'scan')} of patients who were withdrawn from the dataset stay{'s' * (back == 1)} out."
            )
        split = _hidden_site(split, [f"site:{e.site}" for e in entries], names)
        files = {s.id: {s.files[0], s.named_by or s.files[0]} for s in sources}
        refused = [*{*discreet(refused, files, named_from, told, names, neighbours), *living.refused(old)}]
        chosen = [{"id": e.id, "chosen": by_id[e.meta.id].chosen} for e in new if by_id[e.meta.id].chosen]
        sheet = assemble(
            partial,
            entries,
            living.annotations(old, told, entries),
            name=old.datasheet["name"] if old else _called(source, fresh, names),
            plan=plan,
            reading=how.told() if old is None or as_before.reading_of(old) else {},
            rule=split,
            seed=seed,
            dedupe=dedupe,
            too_few=too_few,
            refused=living.apart_from(refused, away),
            notes=notes,
            simulated=simulated,
            key=living.key_of(old) if names.key is None else names.key.name,
            series=living.series(old, entries) + chosen,
            history=living.history(old),
            progress=progress,
            chunk=chunk or chunks.AUTO,
            workers=workers,
        )
        shutil.rmtree(spool_folder)
        shutil.rmtree(how.unpack)
        (partial / datasheet.FILE).write_text(json.dumps(sheet, indent=2) + "\n")
    return {
        "dataset": str(out),
        **{name: sheet[name] for name in ("examples", "patients", "refused", "notes")},
        "read_before": len(before),
        "key": None if names.key is None else str(names.key.path),
        "key_made": names.key is not None and names.key.made,
    }


def _driver(beam: str | None, options: tuple[str, ...], workers: int | None):
    """What prepares the tasks: a function like ``spool.run``."""
    if beam is None:
        if options:
            raise InputError(f"--beam-option {options[0]} is for a runner; name it with --beam")
        return spool.run
    if workers is not None:
        raise InputError(
            "--workers is for the processes of this machine; with --beam, the runner's own options say how many "
            "workers there are, such as --beam-option direct_num_workers=2"
        )
    from vitmed.data.beam import Runner

    return Runner(beam, options)


def _series(path: str | Path | None) -> str | None:
    if path is None:
        return None
    from vitmed.scans import choice  # and pydicom with it

    return choice.read(path)


def _task(source: Source, row: Row | None) -> Task:
    return Task(source) if row is None else Task(source, row.mask, row.modality)


def _same_set(new: Stored, kept: list[Stored], plan: Plan, sources: list[Source], progress: bool) -> None:
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
        if isinstance(like, living.Kept):
            raise InputError(
                f"the scans of the dataset are {a}, {new.id} is {b}; ingest all of them again with --size"
            )
        raise InputError(
            f"images differ in size: {like.id} is {a}, {new.id} is {b}; {fingerprint.advice(sources, plan, progress)}"
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


def _nothing(source: Path, refused: int, first: Refusals) -> str:
    if source.name.upper() == "DICOMDIR":
        return f"{source} is a table of contents of DICOM files; give the folder that it lies in"
    if not first:
        return f"{source} holds no scan: no DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, BMP or npy file in it"
    ((file, reason, detail),) = first
    why = f"{reason} ({detail})" if detail else reason
    return f"{source} holds no scan that can be used: {refused} refused, the first is {file}: {why}"


def _shared_headers(fresh: list[Stored], told: Annotations) -> tuple[set[str], tuple[str, ...]]:
    """Patients of headers who are several people by what was told of their scans, and a note of whom that leaves open.

    An anonymised set often has one patient in all headers.
    """
    called: dict[str, set[str]] = {}
    for m in fresh:
        called.setdefault(m.patient, set()).add(told.rows.get(m.id, Row()).patient)
    shared = {header for header, people in called.items() if header and len(people - {""}) > 1}
    left = sum(m.patient in shared and not told.rows.get(m.id, Row()).patient for m in fresh)
    if not left:
        return shared, ()
    what = words.plural(left, "scan has", "scans have")
    return shared, (
        f"{what} no patient but the one in the header, which several people share: they count as one person's.",
    )


def _entry(
    meta: Stored, source: Source, row: Row, shared: set[str], names: Names, neighbours: Neighbours
) -> Entry:
    """What the set is to know of a scan; the patients of ``shared`` headers tell no people apart."""
    patient = row.patient or meta.patient
    values = (*meta.telling, patient) if patient else meta.telling
    if others := neighbours.of(meta.id) - set(values):
        values = (*values, *sorted(others))
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
        person="" if meta.patient in shared else names.hide("patient", meta.patient),
        part_of=source.part_of,
        meta=meta,
        fixed=None,
    )


def _hidden_site(rule: str | None, there: list[str], names: Names) -> str | None:
    """``site:NAME`` of a name that headers give, by its pseudonym: the rule is written into the datasheet.

    Args:
        there: ``site:`` and the name of what there is, as it is written.
    """
    site = splits.parse(rule).site if rule else ""
    if site and rule not in there:
        hidden = f"site:{names.hide('site', site)}"
        if hidden in there:
            return hidden
    return rule


def _called(source: Path, fresh: list[Stored], names: Names) -> str:
    name = source.resolve().name.removesuffix(source.suffix)
    telling = {value for m in fresh for value in m.telling}
    return names.public(name, telling) if telling else name


def _positive(values: tuple | None, name: str) -> tuple | None:
    if values is not None and (len(values) not in (2, 3) or not all(v > 0 for v in values)):
        raise InputError(f"--{name} {','.join(map(str, values))} is not 2 or 3 positive numbers")
    return None if values is None else tuple(values)


def _chunk(asked: tuple[int, ...] | str | None) -> tuple[int, ...] | str | None:
    if asked is None or asked in (chunks.AUTO, chunks.NONE):
        return asked
    if isinstance(asked, str):
        raise InputError(f"--chunk {asked!r} is not known; give voxels such as 32,32,32, auto or none")
    return _positive(asked, "chunk")
