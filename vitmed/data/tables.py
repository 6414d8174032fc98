"""A person's table of scans, CSV or TSV: which row is whose, what its columns mean, and what is wrong with it."""

import csv
import os
import re
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath

from vitmed import words
from vitmed.data.annotations import DATE, TOLD, Annotations, Row
from vitmed.errors import InputError
from vitmed.scans.layout import Mask
from vitmed.scans.recipe import modality as canonical_modality
from vitmed.scans.scan import Source

SUBJECT = "participant_id"  # the column by which BIDS tells whose a row is
NOT_LABELS = ("path", "id", SUBJECT, "patient", "site", "split", "mask", "modality", *TOLD)
# What a column of patients' ids is often called, without case and punctuation.
_PEOPLE = set("patient patients patientid patientids subject subjectid person personid pid mrn".split())
_PEOPLE |= {"participant", "participantid", "medicalrecordnumber"}
_MISSING = {"nan", "n/a", "#n/a", "<na>"}  # as pandas and BIDS write it, in any case
_MISSING_EXACTLY = {"NA", "NULL", "null"}  # as R and databases do; "na" may be a word
_SPLITS = {name: "val" for name in ("val", "valid", "validation")}
_SPLITS |= {"train": "train", "training": "train", "test": "test"}


def from_table(
    path: Path,
    root: Path,
    sources: list[Source],
    refused: set[str],
    *,
    base: Path | None = None,
    paths: list[Path] | None = None,
    learn: tuple[str, ...] = (),
    subjects: dict[str, str] | None = None,
) -> Annotations:
    """Reads a CSV (or TSV) of a ``path`` or ``id`` column, optional ``patient site split mask modality
    study series view timepoint``, and labels.

    Every other column is a label; where one is called ``label``, it is the only one. A table of BIDS' participants
    has ``participant_id`` instead, and each row of it goes to all scans of that subject.

    Args:
        path: the CSV.
        root: the folder that paths in it are relative to. Of a mask nothing but its values is kept, so it may lie
            anywhere.
        sources: what is there.
        refused: names of files that are there but were refused, whose rows are no fault.
        base, paths: the folder that the names of scans are relative to, where it is not ``root``, and the path in each
            row, as ``paths_in`` gives both.
        learn: the columns that are labels; () for all that can be.
        subjects: whose each scan is, in a BIDS folder.

    Raises:
        InputError: unreadable, without ``path`` and ``id``, a scan that is not there or is named twice, or no such
            column as ``learn`` names.
    """
    header, lines = _read_csv(path)
    key = next((name for name in ("path", "id", SUBJECT) if name in header), None)
    if key is None and len(header) == 1 and (apart := next((c for c in ";\t|" if c in header[0]), "")):
        raise InputError(
            f"{path} has its columns parted by {apart!r}; save it with commas between them (CSV)"
        )
    if key is None or (key == SUBJECT and not subjects):
        raise InputError(f"{path} has the columns {', '.join(header)}; a column path (or id) is needed")
    columns = tuple(name for name in header if name not in NOT_LABELS)
    _refuse_other_spellings(path, header, columns, learn)
    notes = []
    if key == SUBJECT:
        lines = _by_scan(lines, subjects, path, notes)
    if paths is not None:
        lines = [{**line, "path": os.path.relpath(p, base)} for line, p in zip(lines, paths, strict=True)]
    if learn:
        absent = [name for name in learn if name not in columns]
        if absent:
            raise InputError(
                f"--label-column {absent[0]}: {path} has the columns {', '.join(columns) or 'none'} for labels"
            )
        columns = learn
    elif "label" in columns and len(columns) > 1:
        others = ", ".join(name for name in columns if name != "label")
        notes.append(f"Labels are the column label of {path.name}; not used: {others}.")
        columns = ("label",)
    where, unclear = _lookup(sources, base or root)
    left_out = _LeftOut(refused, base or root)
    rows: dict[str, Row] = {}
    missing = []
    for number, line in _each(enumerate(lines, 2), key, sources):
        name = _normal(line[key])
        scan = where.get(name)
        if scan is None:
            if name in unclear:
                raise InputError(
                    f"{path} names {line[key]} in line {number}, which may be any of {_some(unclear[name])}; write more of "
                    "its path"
                )
            if name not in left_out:
                missing.append(line[key])
            continue
        if scan in rows:
            raise InputError(f"{path} names {line[key]} ({scan}) twice, again in line {number}; keep one row")
        mask = line.get("mask", "")
        if mask and not (root / mask).is_file():
            raise InputError(
                f"{path} names in line {number} the mask {mask}, which is no file: it must be absolute, or relative to {root}"
            )
        rows[scan] = Row(
            labels=tuple(line[c] for c in columns),
            patient=line.get("patient", ""),
            site=line.get("site", ""),
            split=_split(line.get("split", ""), path, number) if "split" in header else None,
            mask=Mask((str(root / mask),)) if mask else None,
            modality=canonical_modality(line["modality"]) if line.get("modality") else None,
            **{name: _told(name, line.get(name, ""), path, number) for name in TOLD},
        )
    if missing:
        raise InputError(
            f"{path} names {_scans(missing)} not found under {root}, first {missing[0]!r}; "
            f"the column {key} must give paths relative to it"
        )
    return Annotations(columns, rows, asked=bool(columns), origin=str(path), notes=tuple(notes))


def _refuse_other_spellings(
    path: Path, header: list[str], columns: tuple[str, ...], learn: tuple[str, ...]
) -> None:
    """Refuses columns that are all but called as one that means something, which would be learned from as labels.

    Raises:
        InputError: such a column, unless ``learn`` says what the labels are and patients are told.
    """
    for name in columns:
        meant = next(
            (known for known in (*NOT_LABELS, "label") if name != known and name.casefold() == known), None
        )
        if meant is not None:
            raise InputError(f"{path} has the column {name}; write {meant}, in small letters")
        people = re.sub(r"[\W_]+", "", name).casefold() in _PEOPLE
        if people and not (learn and name not in learn and "patient" in header):
            raise InputError(
                f"{path} has the column {name}, which reads as whose a scan is; call it patient, and it is hidden by a "
                "keyed hash and nobody is split in two. If it is a label: rename it"
            )


def _by_scan(
    lines: list[dict[str, str]], subjects: dict[str, str], path: Path, notes: list[str]
) -> list[dict[str, str]]:
    """Each row of a table of participants once for each scan of its subject; subjects without a scan are noted."""
    scans: dict[str, list[str]] = defaultdict(list)
    for scan, subject in subjects.items():
        scans[subject].append(scan)
    held = Counter(f"sub-{line[SUBJECT].removeprefix('sub-')}" for line in lines)
    twice = [subject for subject, n in held.items() if n > 1]
    if twice:
        raise InputError(f"{path} names {twice[0]} twice; keep one row")
    found = [subject for subject in held if subject in scans]
    if not found:
        raise InputError(f"{path} names no subject that has a scan, such as {min(scans)}")
    if len(found) < len(held):
        notes.append(
            f"{len(held) - len(found)} of {len(held)} participants of {path.name} have no scan here."
        )
    return [
        {**line, SUBJECT: scan}
        for line in lines
        for scan in scans.get(f"sub-{line[SUBJECT].removeprefix('sub-')}", ())
    ]


def paths_in(path: Path) -> tuple[list[Path], Path]:
    """What the ``path`` column of a manifest names, and the folder that scans are named from.

    Paths are relative to the manifest's own folder, or absolute. Scans are named from that folder if all of them lie
    in it, and else from the innermost one that holds them all: a name enters the dataset, and must not say where on
    this machine its scan lay. Links to folders are followed where scans have a folder in common only so.

    Raises:
        InputError: it has none, names what is not there, or scans that have no folder in common.
    """
    header, lines = _read_csv(path)
    if "path" not in header:
        raise InputError(f"{path} has the columns {', '.join(header)}; a manifest needs a column path")
    home = os.path.abspath(path.parent)
    paths = [Path(os.path.normpath(os.path.join(home, line["path"]))) for line in lines]
    missing = [str(p) for p in paths if not p.exists()]
    if missing:
        raise InputError(
            f"{path} names {_scans(missing)} not found, first {missing[0]}; "
            f"the column path must give paths relative to {path.parent}, or absolute ones"
        )
    if all(p.is_relative_to(home) for p in paths):
        return paths, Path(home)
    # The last part of a path is kept as it is: a store of files behind links may call them by their checksums.
    followed = [Path(os.path.realpath(p.parent), p.name) for p in paths]
    for named in (paths, followed):
        base = Path(os.path.commonpath([p.parent for p in named]))
        if base != Path(base.anchor):
            return named, base
    folders = [str(p.parent) for p in followed]
    raise InputError(
        f"{path} names scans that have no folder in common, such as {min(folders)} and {max(folders)}; ingest those of "
        "each place by a manifest of their own, the second with --append"
    )


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = path.suffix.lower() == ".tsv"
            reader = csv.reader(file, delimiter="\t" if table else ",")
            header = [name.strip() for name in next(reader, [])]
            lines = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{path} has {len(cells)} cells in line {reader.line_num}, but {len(header)} columns"
                    )
                lines.append({name: _cell(cell) for name, cell in zip(header, cells, strict=True)})
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; a CSV with a column path or id was expected") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} is not a readable CSV ({error})") from None
    twice = [name for name, n in Counter(header).items() if n > 1]
    if not header or twice or not lines:
        found = f"the column {twice[0]!r} twice" if twice else "no rows" if header else "nothing"
        raise InputError(f"{path} holds {found}; a CSV with a header and one row a scan was expected")
    return header, lines


def _cell(text: str) -> str:
    text = text.strip()
    return "" if text.lower() in _MISSING or text in _MISSING_EXACTLY else text


def _split(text: str, path: Path, number: int) -> str:
    split = _SPLITS.get(text.lower())
    if split is None:
        raise InputError(f"{path} gives the split {text!r} in line {number}; train, val or test was expected")
    return split


def _told(name: str, text: str, path: Path, number: int) -> str:
    if name == "timepoint" and DATE.fullmatch(text.split("T")[0].split(" ")[0]):
        raise InputError(
            f"{path} gives a date as timepoint in line {number}; dates identify people: "
            "give the days since the first scan, or 0, 1, 2"
        )
    return text


def _each(lines, key: str, sources: list[Source]):
    """Rows that name a file or series of several scans, once for each of these; the others as they are."""
    several: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        if source.part_of:
            several[_normal(source.part_of)].append(source.id)
    for number, line in lines:
        for scan in several.get(_normal(line[key]), [line[key]]):
            yield number, {**line, key: scan}


def _lookup(sources: list[Source], root: Path) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Every name a table may call a scan by: its id, any of its files, its path without suffix, its stem.

    Then those that several scans could be called by.
    """
    exact: dict[str, str] = {}
    loose: dict[str, set[str]] = {}
    for source in sources:
        exact[_normal(source.id)] = source.id
        for file in source.files:
            if source.item is None:
                exact.setdefault(_normal(os.path.relpath(file, root)), source.id)
                exact.setdefault(_normal(file), source.id)
        bare = _normal(source.id).removesuffix(".gz")
        bare = os.path.splitext(bare)[0]
        for name in (bare, bare.rsplit("/", 1)[-1]):
            loose.setdefault(name, set()).add(source.id)
    for name, scans in loose.items():
        if len(scans) == 1:
            exact.setdefault(name, next(iter(scans)))
    return exact, {name: scans for name, scans in loose.items() if name not in exact}


class _LeftOut:
    """What was refused, by every name a table may call it by: as scans are called, a folder that it lies in, or a file of it.

    Args:
        refused: the names it has.
        root: the folder that they are relative to.
    """

    def __init__(self, refused: set[str], root: Path):
        # A word follows where one file or series holds several scans.
        self._whole = {_normal(name.partition("#")[0]) for name in refused}
        self._called = {_normal(name) for name in refused} | self._whole
        self._root = root
        for name in self._whole:
            bare = os.path.splitext(name.removesuffix(".gz"))[0]
            self._called |= {bare, bare.rsplit("/", 1)[-1], *map(str, PurePosixPath(name).parents)}

    def __contains__(self, name: str) -> bool:
        if os.path.isabs(name):
            name = _normal(os.path.relpath(name, self._root))
        return name in self._called or any(str(f) in self._whole for f in PurePosixPath(name).parents)


def _normal(name: str) -> str:
    return os.path.normpath(name.replace("\\", "/")).replace(os.sep, "/") if name else name


def _some(names: set[str]) -> str:
    held = sorted(names)
    return ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")


def _scans(names: list[str]) -> str:
    return words.plural(len(names), "scan")
