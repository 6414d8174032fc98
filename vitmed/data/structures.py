"""What the values of masks are called, one meaning a value throughout a set."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vitmed.errors import InputError
from vitmed.scans.layout import UNMARKED, Told
from vitmed.scans.scan import Refusals
from vitmed.scans.shown import shows

Structures = dict[str, tuple[int, ...]]


def numbered(told: Told, held: Structures) -> tuple[Told, Refusals]:
    """Gives each structure that DICOM segmentations name a value: those ``held`` keep theirs, new ones follow.

    A segmentation with a structure called by what its header says of a person is refused.

    Args:
        held: the structures of the set that the scans are appended to.

    Raises:
        InputError: more structures than a mask has values, or one that is several in the set so far.
    """
    if not told.segments:
        return told, []
    from vitmed.scans import deidentify, dicom_header

    telling = {
        s.file for s in told.segments if _tells(s.names, deidentify.person(dicom_header.header(s.file)))
    }
    refused = [
        (s.called, "segment called by a person's name or number", "rename it")
        for s in told.segments
        if s.file in telling
    ]
    values: Structures = dict(held)
    taken = {v for many in (*held.values(), *told.structures.values()) for v in many}
    for name in sorted({n for s in told.segments if s.file not in telling for n in s.names}):
        if name not in values:
            values[name] = (max(taken, default=0) + 1,)
            taken.update(values[name])
        elif len(values[name]) > 1:
            raise InputError(
                f"the segment {name} has one value, but {name} is {values[name]} in the set so far"
            )
    if max(taken, default=0) >= UNMARKED:
        raise InputError(
            f"the segmentations name {len(values)} structures; a mask has room for {UNMARKED - 1}"
        )
    pairs = tuple((name, many[0]) for name, many in sorted(values.items()) if len(many) == 1)
    masks = {}
    for scan, mask in told.masks.items():
        files = tuple(f for f in mask.files if f not in telling)
        if files:
            masks[scan] = dataclasses.replace(mask, files=files, values=pairs) if mask.segments else mask
    own = {n: v for n, v in values.items() if any(n in s.names for s in told.segments)}
    return dataclasses.replace(told, masks=masks, structures={**told.structures, **own}), refused


def structures_of(sheet: dict) -> list[tuple[str, tuple[int, ...]]]:
    """(name, values) of every structure in the masks of a set, in the order of their values.

    A value that masks hold and nobody named is a structure of its own, called by its number. The k-th of the list is
    class k of a segmentation, from 1; 0 is the background.

    Args:
        sheet: the set's datasheet.
    """
    named = {name: tuple(values) for name, values in (sheet.get("structures") or {}).items()}
    held = (sheet.get("marked") or {}).get("structures", {})
    others = {name: (int(name),) for name in held if name not in named}
    return sorted((named | others).items(), key=lambda item: (item[1], item[0]))


def class_table(structures: Sequence[tuple[str, tuple[int, ...]]]) -> np.ndarray:
    """The class of each value of a mask, (256,) uint8: of the k-th structure k, from 1; of 0 the background, 0.

    UNMARKED stays what it is, and so does a value that is no structure's, for nobody said what it is.

    Raises:
        InputError: a voxel would be of two classes, because two structures share a value.
    """
    table = np.full(256, UNMARKED, np.uint8)
    table[0] = 0
    names = ("the background", *(name for name, _ in structures))
    for k, (name, values) in enumerate(structures, start=1):
        for value in values:
            if table[value] != UNMARKED:
                raise InputError(
                    f"the structures {names[table[value]]} and {name} of the masks share the value {value}, but a "
                    "segmentation has one class a voxel; ingest the masks again with structures that do not overlap"
                )
            table[value] = k
    return table


def _tells(names: tuple[str, ...], values: tuple[str, ...]) -> bool:
    return any(shows(name, values) for name in names)
