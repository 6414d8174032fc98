"""An ingest that was interrupted goes on: what it has read waits in DATASET.partial/spool, and is not read again.

Beside each spool file lies a list of the scans in it, each under a mark of what it was made from: its files (by size and
time of change), which part of them, its mask. What the same vitmed made by the same plan from files that are still the
same is taken up. Refusals are not: a file that could not be read may have been mended without a trace.

Pixels and names lie there as the scans have them, so the folder is its owner's alone.
"""

import hashlib
import importlib.metadata
import json
import os
import pickle
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from vitmed import source
from vitmed.data.prepare import Plan, Task
from vitmed.scans.how import How

FOLDER = "spool"
LIST = ".list"
# Of these the values that are read, and the types by which lists are told, are.
_READERS = ("numpy", "scipy", "pydicom", "python-gdcm", "SimpleITK", "nibabel", "pillow", "zlib-ng")
_MOST_TIMES = 4096  # held at once
# Headers whose pixels lie in other files, the times of which nobody has looked at.
DETACHED = (".mhd", ".nhdr", ".hdr", ".img")


def begin(spool: Path, plan: Plan, how: How) -> Path:
    """A new folder, in the folder of ``spool`` for this kind of ingest, for what is read now.

    What another kind has left stays: its options may be the mistake.
    """
    made_by = json.dumps(
        {
            "source": source.mark(),
            "versions": {name: importlib.metadata.version(name) for name in _READERS},
            "plan": repr(plan),
            "how": repr((how.frames, how.include, how.suffixes)),
        }
    )
    if spool.exists() and not _is_ours(spool):
        shutil.rmtree(spool)
    spool.mkdir(mode=0o700, exist_ok=True)
    kind = spool / hashlib.sha256(made_by.encode()).hexdigest()[:12]
    kind.mkdir(exist_ok=True)
    number = 1 + max((int(folder.name) for folder in kind.iterdir()), default=-1)
    folder = kind / f"{number:03d}"
    folder.mkdir()
    return folder


def holds(spool: Path) -> bool:
    """Whether there is anything to go on from."""
    return next(spool.rglob(f"*{LIST}"), None) is not None


def mark(task: Task, times: dict | None = None) -> bytes | None:
    """What a scan is made from, in short; None where that cannot be told, and it is read anew.

    Args:
        times: holds what is asked of files, where many tasks have one.
    """
    made_of = (*task.source.files, *(task.mask.files if task.mask else ()))
    if any(file.lower().endswith(DETACHED) for file in made_of):
        return None
    times = {} if times is None else times
    if len(times) > _MOST_TIMES:
        times.clear()
    try:
        for file in made_of:
            if file not in times:
                found = os.stat(file)
                times[file] = os.path.abspath(file), found.st_size, found.st_mtime_ns
    except OSError:
        return None
    own = task.source
    mask = task.mask and (task.mask.ignore, task.mask.segments, task.mask.values)
    told = (own.id, own.kind, own.item, [times[file] for file in made_of], mask, task.modality)
    return hashlib.sha256(repr(told).encode("utf-8", "surrogateescape")).digest()[:16]


def note(path: str, scans: list[tuple[bytes, object]]) -> None:
    """Lists what lies in the spool file ``path``, which is whole: (mark, scan) each."""
    draft = f"{path}.draft"
    with open(draft, "wb") as file:
        pickle.dump(scans, file)
    os.rename(draft, path + LIST)


def noted(kind: Path) -> Iterator[tuple[bytes, object, str]]:
    """(mark, scan, spool file) of all that is listed; files that are not, and lists that are not whole, are removed."""
    for file in sorted(path for path in kind.rglob("*") if path.is_file()):
        if file.suffix == LIST:
            continue
        beside = file.with_name(file.name + LIST)
        try:
            scans = pickle.loads(beside.read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):  # its writer was killed, or the machine went down
            file.unlink()
            beside.unlink(missing_ok=True)
            continue
        for held, scan in scans:
            yield held, scan, str(file)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have written there: lists are pickles, which are programs."""
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
