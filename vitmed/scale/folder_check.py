"""Whether the folder that a run is written to keeps what it is told, how fast, and for which processes."""

import contextlib
import os
import shutil
import statistics
import time
from pathlib import Path

from vitmed.scale.findings import Finding

BLOCK = 64 * 2**20
SYNCS = 10
LITTLE = 5 * 2**30  # less free space than a few checkpoints of a middle-sized model take
SLOW_SYNC, SLOW_WRITE = 0.05, 50e6  # seconds; bytes a second


def folder(workdir: Path, process: int = 0) -> list[Finding]:
    """Writes, syncs and renames in a scratch folder beside the run, which is gone afterwards.

    Args:
        workdir: of a run, made or not; the nearest folder above it that is there is tried.
        process: number of this process, so that several may try at once.
    """
    place = nearest(workdir)
    if stands := _in_the_way(workdir, place):
        return [
            Finding(
                "folder",
                "breaks",
                f"{stands} is not a folder",
                "give a --workdir that is one, or is not there yet",
            )
        ]
    scratch = place / f".doctor-{os.getpid()}-{process}"
    try:
        scratch.mkdir()
        return [_free(place), *_kept(place, scratch), _rename(place, scratch)]
    except OSError as error:
        return [
            Finding(
                "folder",
                "breaks",
                f"{place} cannot be written: {error.strerror}",
                "give a --workdir that you may write to, on a disk that is mounted read-write",
            )
        ]
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(scratch)


def nearest(workdir: Path) -> Path:
    """``workdir``, or the nearest folder above it that exists."""
    place = workdir.absolute()
    while not place.is_dir():
        place = place.parent
    return place


def _in_the_way(workdir: Path, place: Path) -> Path | None:
    """What lies on the way from ``place`` down to ``workdir`` and is no folder: a file, or a link that leads nowhere."""
    below = place
    for part in workdir.absolute().relative_to(place).parts[:1]:
        below = place / part
    return None if below == place or not os.path.lexists(below) else below


def _free(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    text = f"{place} has {free / 2**30:.1f} GiB free"
    if free < LITTLE:
        return Finding(
            "folder", "note", text, "checkpoints may not fit: free some, or lower config.checkpoint.keep"
        )
    return Finding("folder", "fine", text)


def _kept(place: Path, scratch: Path) -> list[Finding]:
    syncs = []
    for number in range(SYNCS):
        began = time.perf_counter()
        _write(scratch / f"small{number}", b"x" * 4096)
        syncs.append(time.perf_counter() - began)
    data = os.urandom(2**20) * (BLOCK // 2**20)
    began = time.perf_counter()
    _write(scratch / "large", data)
    rate = BLOCK / (time.perf_counter() - began)
    if (scratch / "large").read_bytes() != data:
        return [
            Finding(
                "folder",
                "breaks",
                f"{place} gives back other bytes than were written",
                "do not use this disk",
            )
        ]
    sync = statistics.median(syncs)
    text = f"{place} keeps a small file in {sync * 1e3:.1f} ms and writes {rate / 1e6:.0f} MB/s"
    if sync > SLOW_SYNC or rate < SLOW_WRITE:
        todo = "save less often (config.checkpoint.every), or put the run on a faster disk"
        return [Finding("folder", "note", text, todo)]
    return [Finding("folder", "fine", text)]


def _rename(place: Path, scratch: Path) -> Finding:
    """Checkpoints are written aside and renamed: a reader must see the old one or the new one."""
    draft, final = scratch / "draft", scratch / "final"
    final.mkdir()
    try:
        for text in (b"old", b"new"):
            _write(draft, text)
            os.replace(draft, final / "file")
        (scratch / "aside").mkdir()
        os.rename(scratch / "aside", scratch / "whole")
    except OSError as error:
        todo = "use a file system that renames (not a plain object-store mount)"
        return Finding("folder", "breaks", f"{place} does not rename: {error.strerror}", todo)
    if (final / "file").read_bytes() != b"new" or draft.exists() or not (scratch / "whole").is_dir():
        todo = "use a file system that renames in one step (local, NFS, Lustre, GPFS)"
        return Finding("folder", "breaks", f"{place} does not replace a file in one step", todo)
    return Finding("folder", "fine", f"{place} renames files and folders in one step")


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
