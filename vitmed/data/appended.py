"""Which of the scans that are to be appended are in a dataset already: known by their pixels as well as by name.

By name alone another scan of the same name would be passed over and lost; by pixels alone two patients with blank pictures
would be one.
"""

import dataclasses
from collections import defaultdict

import numpy as np

from vitmed.data.assembly import Entry
from vitmed.data.dataset import Dataset
from vitmed.data.prepare import Described, digest
from vitmed.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Appended:
    """What of the scans that are to be appended is in a dataset.

    Attributes:
        new: those that are not.
        moved: (id here, id in the dataset) of those that are there, and are named from another folder.
        copies: of ``new``, those whose pixels are those of a scan of the dataset.
    """

    new: list[Entry]
    moved: list[tuple[str, str]]
    copies: list[Entry]


def appended(dataset: Dataset | None, there: list[Entry], found: list[Entry]) -> Appended:
    """Which of the scans ``found`` are in a dataset, that holds the examples ``there``, already.

    A scan is there if its id and its pixels are, unless they are known to be of two patients. What a scan is called
    depends on the folder that names begin from, which a manifest that grows moves up: so a scan is there, too, if its
    pixels are and one of the two ids is the end of the other. One scan of the dataset is only one of those found.

    Raises:
        InputError: a scan has the id of one in the dataset, and other pixels or another patient.
    """
    if dataset is None:
        return Appended(found, [], [])
    by_id = {e.id: e for e in there}
    dtype = there[0].meta.dtype
    others: list[tuple[Entry, bytes]] = []
    matched: set[str] = set()
    for entry in found:
        pixels = _stored_as(entry.meta, dtype)
        # An id shows less than the scan's path where a part of it tells of a person, which a later scan may reveal.
        held = by_id.get(entry.id) or by_id.get(entry.meta.id)
        if held is None:
            others.append((entry, pixels))
        elif held.meta.digest == pixels and _one_person(held, entry):
            matched.add(held.id)
        else:
            raise InputError(
                f"{held.id} is in {dataset.path} already, with other pixels or another patient; if this is another scan, "
                "append it by a manifest that lies in a folder further up, so that its name tells them apart, and if its "
                "file was changed, ingest all scans again"
            )
    free: dict[tuple[bytes, str], list[Entry]] = defaultdict(list)
    for e in there:
        if e.id not in matched:
            free[e.meta.digest, _last(e.id)].append(e)
    new, moved = [], []
    for entry, pixels in others:
        alike = free[pixels, _last(entry.id)]
        at = next((k for k, e in enumerate(alike) if _from_another_folder(e, entry)), None)
        if at is None:
            new.append((entry, pixels))
        else:
            moved.append((entry.id, alike.pop(at).id))
    digests = {e.meta.digest for e in there}
    return Appended([e for e, _ in new], moved, [e for e, pixels in new if pixels in digests])


def _stored_as(meta: Described, dtype: np.dtype) -> bytes:
    """The digest of a scan's pixels as a dataset of ``dtype`` stores them."""
    return meta.digest if meta.dtype == dtype else digest(meta.load()[0], wide=True)


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _from_another_folder(one: Entry, other: Entry) -> bool:
    ends = one.id.endswith(f"/{other.id}") or other.id.endswith(f"/{one.id}")
    return ends and _one_person(one, other)


def _one_person(one: Entry, other: Entry) -> bool:
    return one.patient == other.patient or not (one.patient and other.patient)
