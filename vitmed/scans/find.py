"""Which scans a path holds: a folder walked, a zip archive, or one file."""

import dataclasses
import functools
import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from vitmed.errors import InputError, MachineError
from vitmed.pool import pool
from vitmed.progress import Bar
from vitmed.scans import siblings
from vitmed.scans.how import How
from vitmed.scans.kinds import in_file, is_beside, kind_of
from vitmed.scans.layout import Names, Survey, Told
from vitmed.scans.scan import Refusals, Refused, Source

_MANY = 4000  # DICOM headers that are read faster by worker processes, which take a second to start
_LONG = 1000  # files that take long enough to be counted on standard error while they are looked into

Found = tuple[list[Source], Refusals]


def find(root: Path, only: list[Path] | None = None, how: How | None = None) -> Found:
    """The sources of ``survey``, and what is refused already as (file, reason, detail)."""
    held = survey(root, only, how)
    return held.sources, held.refused


def survey(root: Path, only: list[Path] | None = None, how: How | None = None) -> Survey:
    """Every scan under ``root``, DICOM files gathered into volumes, sorted by id, and what is told of them.

    A folder laid out as nnU-Net or BIDS has it is taken as such, also inside ``root``. Hidden files, and tables and
    notes by their suffix, are passed over. A file without a known suffix is looked into for DICOM.

    Args:
        root: a folder, a zip archive, or one file.
        only: look only at these files and folders of it (a manifest's).
        how: what a person decided.

    Raises:
        InputError: no such path, or several layouts in one folder.
        MachineError: a worker process died.
    """
    how = how or How()
    if not root.exists():
        raise InputError(f"{root} does not exist; give a folder of scans, a manifest CSV or an npz file")
    base = root if root.is_dir() else root.parent
    refused: Refusals = []
    names = _names(only or [root], base, refused)
    names = _unpacked(names, how, root, refused)
    laid = _laid_out(names, root, how) if only is None else Survey([], [])
    refused += laid.refused
    told = laid.told
    taken: Names = {}
    if only is None and not told.layout:
        beside, unpaired, taken = siblings.match(names)
        refused += unpaired
        told = dataclasses.replace(told, masks=beside.masks, notes=(*told.notes, *beside.notes))
    sources: list[Source] = list(laid.sources)
    dicom: list[str] = []
    with _counting("looking through", names, how) as bar:
        for path, name in sorted(names.items()):
            kind = kind_of(path)
            if kind == "dicom" or (kind is None and _is_dicom(path)):
                dicom.append(path)
            elif kind is not None:
                try:
                    sources += in_file(path, name, kind, how)
                except Refused as fault:
                    refused.append((name, fault.reason, fault.detail))
            elif not is_beside(path):
                refused.append((name, *_unknown(path)))
            bar.advance()
    segs: list = []
    if dicom:
        series, bad, segs = _series(dicom, names, how, root.resolve().name.removesuffix(".zip"))
        sources += series
        refused += bad
    if how.series is not None:
        from vitmed.scans import choice

        sources, others = choice.choose(sources, how.series)
        refused += others
    for scan in {s.part_of for s in sources} & told.masks.keys() if taken else ():
        detail = f"{scan} holds them; name the mask of each in a manifest"
        refused += [(taken[file], "mask of several scans", detail) for file in told.masks[scan].files]
    sources, refused = _named_once(sorted(sources, key=lambda s: s.id), refused)
    if segs:
        from vitmed.scans import dicom_seg

        masks, named, others = dicom_seg.match(segs, sources, names)
        refused = sorted(refused + others)
        told = dataclasses.replace(told, masks={**told.masks, **masks}, segments=tuple(named))
    return Survey(sources, refused, told)


def _laid_out(names: dict[str, str], root: Path, how: How) -> Survey:
    """What a convention says of the files that follow it, which are taken out of ``names``.

    Raises:
        InputError: two folders that follow one, or a choice of contrasts where there is none.
    """
    folders = []
    marks = {os.path.basename(name) for name in names.values()}
    parents = {os.path.basename(os.path.dirname(name)) for name in names.values()}
    if "labelsTr" in parents or not marks.isdisjoint(("dataset.json", "dataset_description.json")):
        from vitmed.scans import bids, nnunet

        folders = [(folder, nnunet) for folder in nnunet.recognise(names)]
        folders += [(folder, bids) for folder in bids.recognise(names)]
    asked = how.suffixes and not how.elsewhere
    if asked and all(layout.__name__ != "vitmed.scans.bids" for _, layout in folders):
        raise InputError(
            f"--bids-suffix is for BIDS folders, and {root} is none: no dataset_description.json"
        )
    if not folders:
        if any(mark.startswith("sub-") for mark in marks):
            from vitmed.scans import bids

            if bids.undescribed(names):
                return Survey([], [], Told(notes=(bids.UNDESCRIBED,)))
        return Survey([], [])
    if len(folders) > 1:
        (one, _), (two, _) = folders[:2]
        raise InputError(
            f"{root} holds {len(folders)} datasets with a layout of their own, {one} and {two} among them; ingest "
            "them one by one"
        )
    ((folder, layout),) = folders
    under = "" if folder == "." else f"{folder}/"
    inside = {path: name for path, name in names.items() if name.startswith(under)}
    for path in inside:
        del names[path]
    return layout.survey(inside, folder, how)


def _names(tops: list[Path], base: Path, refused: list) -> dict[str, str]:
    """Every file under ``tops`` that is not hidden, with its name: its path from ``base``, printable."""
    found: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()

    def locked(error: OSError) -> None:
        refused.append((_name(str(error.filename), base), "cannot be opened", error.strerror or ""))

    for top in tops:
        if not top.is_dir():
            found[str(top)] = _name(str(top), base)
            continue
        for folder, folders, files in os.walk(top, onerror=locked, followlinks=True):
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in seen and folder != str(top):
                refused.append((_name(folder, base), "link to a folder that is looked through already", ""))
                folders[:] = []
                continue
            seen.add((here.st_dev, here.st_ino))
            folders[:] = sorted(f for f in folders if not f.startswith(".") and not _unfinished(folder, f))
            for file in files:
                path = os.path.join(folder, file)
                if not file.startswith("."):
                    if os.path.isfile(path):
                        found[path] = _name(path, base)
                    else:
                        what = (
                            "link that leads nowhere" if os.path.islink(path) else "neither file nor folder"
                        )
                        refused.append((_name(path, base), what, ""))
    return found


def _unfinished(folder: str, name: str) -> bool:
    """Whether an ingest works there (``vitmed.data.replacing``), or did until it was interrupted."""
    return name.endswith(".partial") and os.path.exists(os.path.join(folder, name, ".lock"))


def _unpacked(names: dict[str, str], how: How, root: Path, refused: list) -> dict[str, str]:
    """The files with each zip archive replaced by what is in it."""
    from vitmed.scans import archives

    found: dict[str, str] = {}
    for path, name in sorted(names.items()):
        if kind_of(path) != "zip":
            found[path] = name
            continue
        prefix = "" if root.is_file() else f"{name}/"
        try:
            if how.unpack is None:
                raise Refused("zip archive", "unpack it first")
            # Under the archive's own name, so that a path shows whatever of a person the scan's id does.
            called = os.path.relpath(path, root.parent if root.is_file() else root)
            folder = Path(how.unpack, f"{len(os.listdir(how.unpack)):04d}", called)
            members, bad = archives.unpack(path, folder, how.quiet)
            found |= {str(file): prefix + _printable(member) for file, member in members}
            refused += [(prefix + _printable(member), *why) for member, *why in bad]
        except Refused as fault:
            refused.append((name, fault.reason, fault.detail))
    return found


def _is_dicom(path: str) -> bool:
    if is_beside(path):
        return False
    from vitmed.scans.dicom_header import is_dicom

    return is_dicom(path)


def _unknown(path: str) -> tuple[str, str]:
    try:
        with open(path, "rb"):
            return "of no format that vitmed reads", ""
    except OSError as error:
        return "cannot be opened", error.strerror or str(error)


def _series(files: list[str], names: dict[str, str], how: How, root: str) -> tuple:
    """Reads the header of every DICOM file, and groups them: sources, refusals, and the segmentations among them."""
    from vitmed.scans import dicom_group, dicom_kind, dicom_seg

    images, refused, segs = [], [], []
    for path, outcome in zip(files, _looks(files, how), strict=True):
        if not isinstance(outcome, Refused):
            images.append(outcome)
            continue
        try:
            if outcome.reason != dicom_kind.SEGMENTATION:
                raise outcome
            segs.append(dicom_seg.look(path))
        except Refused as fault:
            refused.append((names[path], fault.reason, fault.detail))
    sources, bad = dicom_group.sources(images, names, how, root)
    return sources, refused + bad, segs


def _looks(files: list[str], how: How) -> list:
    """The image of each file, or the fault it is refused for."""
    look = functools.partial(_look, include=how.include)
    with _counting("reading DICOM headers", files, how) as bar:
        if how.workers < 2 or len(files) < _MANY:
            return [_and_count(bar, look(file)) for file in files]
        try:
            with pool(how.workers) as processes:
                return [_and_count(bar, found) for found in processes.map(look, files, chunksize=256)]
        except BrokenProcessPool:
            raise MachineError(
                "a worker process died reading DICOM headers, out of memory perhaps; run again with --workers 1"
            ) from None


def _counting(what: str, files, how: How) -> Bar:
    return Bar(what, len(files), "files", quiet=how.quiet or len(files) < _LONG)


def _and_count(bar: Bar, found):
    bar.advance()
    return found


def _look(file: str, include: tuple[str, ...]):
    from vitmed.scans.dicom_header import look

    try:
        return look(file, include)
    except Refused as fault:
        return fault


def _named_once(sources: list[Source], refused: list) -> Found:
    """Refuses the second of two scans of one name, which can come of names that cannot be printed."""
    kept: dict[str, Source] = {}
    for source in sources:
        if source.id in kept:
            refused.append(
                (source.id, "two scans of one name", "another file has a name that is printed alike")
            )
        else:
            kept[source.id] = source
    return list(kept.values()), sorted(refused)


def _name(path: str, base: Path) -> str:
    inside = Path(path).is_relative_to(base)
    return _printable(Path(path).relative_to(base).as_posix() if inside else path)


def _printable(name: str) -> str:
    """A name whose bytes are not UTF-8 with those bytes spelt out (``caf\\xe9.png``)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
