"""Scans that are prepared and named become a dataset: judged as a set, split, written in the order of their ids."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from vitmed import words
from vitmed.data import annotations as known
from vitmed.data import chunks, datasheet, duplicates, pseudonyms, splits
from vitmed.data.annotations import TOLD, Annotations, Labels
from vitmed.data.joined import Joined
from vitmed.data.prepare import Described, Plan, digest
from vitmed.data.records import identity
from vitmed.data.scan_writers import writer_of
from vitmed.pool import cores
from vitmed.progress import Bar
from vitmed.scans.intensity import widen
from vitmed.scans.layout import UNMARKED
from vitmed.scans.scan import Refusals

HELD = 2**29  # bytes of scans that those who write them may hold together


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One example that a set is to hold, as the set calls it.

    Attributes:
        split: the split that its source gives, or None.
        fixed: the split that it has already and keeps, or None for a new one.
        drawn_by: the name that its patient is drawn by when splits are.
        person: what its header calls its patient, "" unknown or of no use: a table may have another name for the same
            person, and whoever shares either of the two comes to one split.
        part_of: the file or series of which it is one of several scans, "" where it is the only one.
        meta: what is known of the scan; ``load()`` gives its pixels (*S, C) and its mask (*S) or None.
    """

    id: str
    patient: str
    site: str
    study: str
    series: str
    view: str
    timepoint: str
    split: str | None
    fixed: str | None
    drawn_by: str
    person: str
    part_of: str
    meta: Described


def assemble(
    partial: Path,
    entries: list[Entry],
    told: Annotations,
    *,
    name: str,
    plan: Plan,
    reading: dict,
    rule: str | None,
    seed: int,
    dedupe: bool,
    too_few: bool,
    refused: Refusals,
    notes: list[str],
    simulated: bool,
    key: str | None,
    series: list[dict],
    history: list[dict],
    progress: bool,
    chunk: tuple[int, ...] | str,
    workers: int | None = None,
) -> dict:
    """Writes shards and TFDS's metadata into ``partial``; returns the datasheet.

    Args:
        entries: what the set is to hold, in any order.
        told: labels by the ids of ``entries``, and the names of structures.
        reading: what was decided about reading the files, as ``How.told`` has it; {} where that is not known.
        too_few: whether the set had too few patients for ``rule`` until now.
        key: the name of the key of pseudonyms, None where there are none.
        series: why series were chosen, as the datasheet lists it.
        chunk: how large images are stored, as ``chunks.shape_of`` has it.
        workers: threads that write chunks; None for one a core.
    """
    entries = sorted(entries, key=lambda e: e.id)
    kept, ids = [e.meta for e in entries], [e.id for e in entries]
    labels = known.encode(told, ids)
    patients = [e.patient for e in entries]
    digests = [m.digest for m in kept]
    cluster = duplicates.clusters(digests, (m.signature for m in kept), kept[0].shape[:-1], partial, progress)
    own = _units(entries)
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
        too_few=too_few,
        persons=[e.person for e in entries],
    )
    dtype = np.result_type(*{m.dtype for m in kept})
    masks = any(m.mask_bytes for m in kept)
    shape = kept[0].shape
    chunk = chunks.shape_of(shape[:-1], shape[-1], dtype, chunk)
    with Bar("writing", len(kept), "scans", quiet=not progress) as bar:
        writer = writer_of(
            partial,
            shape,
            dtype,
            labels.label.shape[1],
            masks,
            chunk,
            _side_by_side(kept, workers),
            bar.advance,
        )
        for split in splits.NAMES:
            for i, entry in enumerate(entries):
                if parts.split[i] == split:
                    pixels = functools.partial(_pixels, entry.meta, dtype, masks)
                    same = entry.meta.dtype == dtype
                    image = entry.meta.digest if same else digest(pixels()["image"])
                    writer.add(split, _told(entry, labels, i, dtype), pixels, image)
        content_hash = writer.close()
    notes = [*notes, *parts.notes]
    missing = int((labels.weight == 0).all(axis=1).sum())
    if said := known.note(labels):
        notes.append(said)
    if labels.task and missing:
        notes.append(f"{words.plural(missing, 'scan')} without a label: kept, as unlabelled.")
    hidden = sum(bool(pseudonyms.hidden_parts(i)) for i in ids)
    if hidden:
        notes.append(
            f"{words.plural(hidden, 'id holds a pseudonym', 'ids hold pseudonyms')} in place of parts that showed who the patient is."
        )
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
        plan=dataclasses.asdict(plan) | reading,
        series=series,
        history=history,
        refused=sorted(refused),
        notes=notes,
        simulated=simulated,
        structures={name: list(values) for name, values in told.structures.items()},
        chunk=chunk,
        content_hash=content_hash,
    )


def _side_by_side(metas: list[Described], workers: int | None) -> int:
    """How many scans are written at a time: one a worker, as far as memory allows."""
    most = max(m.held for m in metas)
    workers = workers or cores()
    return max(1, min(workers, HELD // most)) if most else workers


def _units(entries: list[Entry]) -> list[str]:
    """Whose a scan is where no patient is known, by name: copies, and scans of one file or series, are of one.

    Otherwise a copy, or the next frame of a cine, could lie on the other side of a split.
    """
    joined = Joined(len(entries))
    first: dict[bytes | str, int] = {}
    for i, entry in enumerate(entries):
        for mark in filter(None, (entry.meta.digest, entry.part_of)):
            joined.join(first.setdefault(mark, i), i)
    heads = [entries[joined.of(i)] for i in range(len(entries))]
    return [head.part_of or head.meta.id for head in heads]


def _strata(labels: Labels) -> list[str]:
    """What the splits are made alike in: the class, or the set of findings; nothing for numbers."""
    if labels.task not in ("multiclass", "multilabel"):
        return [""] * len(labels.label)
    pairs = zip(labels.label, labels.weight, strict=True)
    return [str(row.astype(int).tolist()) if weight.any() else "" for row, weight in pairs]


def _told(entry: Entry, labels: Labels, i: int, dtype: np.dtype) -> dict:
    """What the record of a scan holds beside its pixels."""
    meta = entry.meta
    return {
        # Where the set is of 16 bits, ``_pixels`` widens an image of 8: its levels are 257 times as large then.
        "scale": meta.scale if meta.dtype == dtype else meta.scale / np.float32(257),
        "offset": meta.offset,
        "spacing": meta.spacing,
        "affine": meta.affine,
        "grid": meta.grid,
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


def _pixels(meta: Described, dtype: np.dtype, masks: bool) -> dict[str, np.ndarray]:
    """``image``, and ``mask`` where the set has masks."""
    image, mask = meta.load()
    held = {"image": image if image.dtype == dtype else widen(image)}
    if masks:
        held["mask"] = np.full(meta.shape[:-1], UNMARKED, np.uint8) if mask is None else mask
    return held
