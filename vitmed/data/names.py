"""What things are called inside a dataset, where nothing may tell who a patient is.

Whoever has the scans keeps the key of pseudonyms: a patient is a keyed hash in the dataset, and what a header or a
path says of the person stays outside.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from vitmed.data import pseudonyms
from vitmed.data.annotations import Annotations, Row
from vitmed.scans.kinds import kind_of
from vitmed.scans.scan import Refusals
from vitmed.scans.shown import shows


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
        if not self._asked or not any(shows(part, values) for part in path.split("/")):
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


class Neighbours:
    """What the headers of a set say of the people that folders are called by: a scan of somebody else may lie there too."""

    def __init__(self):
        self._values: dict[str, set[str]] = {}

    def add(self, path: str, values: Iterable[str]) -> None:
        """Notes what a scan's header says, as far as a folder in its path shows it."""
        values = [value for value in values if value]
        for part in path.split("/") if values else ():
            found = {value for value in values if shows(part, (value,))}
            if found:
                self._values.setdefault(part, set()).update(found)

    def of(self, path: str) -> set[str]:
        """What the folders of a path show of anybody."""
        if not self._values:
            return set()
        return set().union(*(self._values.get(part, ()) for part in path.split("/")))


def discreet(
    refused: Refusals,
    files: dict,
    named_from: Path,
    told: Annotations,
    names: Names,
    neighbours: Neighbours | None = None,
) -> Refusals:
    """What was refused and why, without what a DICOM header says of the person; nothing of an unreadable one."""
    if not refused:
        return []
    from vitmed.scans.dicom_header import is_dicom, said  # and pydicom with it

    out = []
    for file, reason, detail in refused:
        row = told.rows.get(file, Row())
        values = {row.patient} - {""}
        values |= neighbours.of(file) if neighbours else set()
        packed = ".zip" in file.lower() or named_from.is_file()
        if file in files:
            asked = sorted(map(str, files[file]))
        else:  # a member of an archive that was not unpacked cannot be asked, nor a locked folder
            asked = None if packed else _files_of(file, named_from)
        if asked is None:
            out.append((names.nothing_of(file), reason, ""))
            continue
        for path in asked:
            regular = os.path.isfile(path)  # to open a pipe is to wait for ever
            if kind_of(path) == "dicom" or (regular and is_dicom(path)):
                found = said(path).values if regular else None
                if found is None:
                    out.append((names.nothing_of(file), reason, ""))
                    break
                values.update(found)
        else:
            out.append((names.public(file, sorted(values)), reason, "" if shows(detail, values) else detail))
    return out


def _files_of(name: str, root: Path) -> list[str] | None:
    """The files that tell of what was refused by a name: a file, or all in the folder that a series is called by.

    None of a folder that may not be looked into.
    """
    whole = name.rpartition("#")[0]  # a word follows where one series or file holds several scans
    for called in (name, whole):
        place = root if called == root.resolve().name else root / called
        if called and os.path.isdir(place):
            try:
                return sorted(entry.path for entry in os.scandir(place) if entry.is_file())
            except PermissionError:
                return None
        if called and os.path.lexists(place):
            return [str(place)]
    return [str(root / name)]
