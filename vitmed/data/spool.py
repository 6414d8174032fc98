"""Prepared scans on their way to the shards: workers write them to files, and hand back what they are.

What a set is made of (its channels, its type, its splits) is known only when the last scan has been read, and
prepared scans need not fit in memory; so they wait on disk, in ``DATASET.partial/spool``, where the next ingest finds
them if this one is interrupted.
"""

import collections
import dataclasses
import os
import zlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from vitmed.data import resume
from vitmed.data.alike import KEPT
from vitmed.data.prepare import Plan, Prepared, Read, Task, digest, prepare
from vitmed.errors import MachineError
from vitmed.pool import cores, one_thread, pool
from vitmed.progress import Bar
from vitmed.scans.scan import Refused

# Scans prepared by one call of a worker: enough to make the call worth it, few enough for the bar to move.
PER_CALL = {"npz": 256, "picture": 32, "small volume": 8, "volume": 1}
SMALL = 2 * 2**20  # bytes of the file of a small volume
MOST_KNOWN = 4096  # values that scans may have in common
MAPPED = 2**20  # bytes of an image from which on it is quicker to map a spool file than to copy from it
# Fewer scans than this are read faster than worker processes start.
ALONE = {"npz": 8192, "picture": 64, "small volume": 16, "volume": 4}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stored(Read):
    """A prepared scan whose pixels, mask and signature lie in a spool file: of many scans even these are much."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    start: int
    mask_bytes: int
    check: int

    @property
    def held(self) -> int:
        """Bytes of memory that ``load`` takes."""
        count = int(np.prod(self.shape)) * self.dtype.itemsize
        return 0 if count >= MAPPED else count + self.mask_bytes

    def load(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The image (*S, C) and the mask (*S) or None, from the spool."""
        count = int(np.prod(self.shape)) * self.dtype.itemsize
        if count >= MAPPED:
            data = np.memmap(self.file, np.uint8, "r", self.start, (count + self.mask_bytes,))
        else:
            with open(self.file, "rb") as file:
                file.seek(self.start)
                data = file.read(count + self.mask_bytes)
        image = np.frombuffer(data[:count], self.dtype).reshape(self.shape)
        mask = np.frombuffer(data[count:], np.uint8).reshape(self.shape[:-1]) if self.mask_bytes else None
        return image, mask

    @property
    def signature(self) -> np.ndarray:
        """The signature, from the spool."""
        ndim = len(self.shape) - 1
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.start + int(np.prod(self.shape)) * self.dtype.itemsize + self.mask_bytes)
            found = np.fromfile(file, np.float16, KEPT[ndim] ** ndim)
        return found.reshape((KEPT[ndim],) * ndim)

    def is_whole(self) -> bool:
        """Whether the spool holds what was written: after a power cut a file may be longer than what reached the disk."""
        try:
            image, mask = self.load()
            return digest(image) == self.digest and _check(mask, self.signature) == self.check
        except (OSError, ValueError):
            return False


Outcome = Stored | tuple[str, str, str]


def run(tasks: list[Task], plan: Plan, folder: Path, workers: int | None) -> Iterator[Outcome]:
    """Prepares every task into ``folder``; yields, in their order, what is stored or (id, reason, detail).

    Args:
        workers: processes; None for one a core. Small sets are prepared right here, unless they are compressed
            DICOM, whose decoders can crash: then that scan is refused.

    Raises:
        MachineError: a worker process died.
        OSError: no space left.
    """
    known: dict = {}
    for outcome in _prepared(tasks, plan, folder, workers):
        yield _lean(outcome, known) if isinstance(outcome, Stored) else outcome


def found(folder: Path, tasks: list[Task], progress: bool = False) -> tuple[list[Stored], list[Task]]:
    """What of ``tasks`` an interrupted ingest has left whole in ``folder`` (``resume``), and the rest."""
    wanted: dict[bytes, int] = {}
    times: dict = {}
    known: dict = {}
    held: dict[int, Stored] = {}
    if resume.holds(folder):
        wanted = {mark: i for i, task in enumerate(tasks) if (mark := resume.mark(task, times))}
    with Bar("finding what was read before", len(wanted), "scans", quiet=not progress or not wanted) as bar:
        for mark, scan, file in resume.noted(folder):
            number = wanted.get(mark)
            scan = dataclasses.replace(scan, file=file)  # the command may be given from elsewhere now
            if number is not None and number not in held and scan.is_whole():
                held[number] = _lean(scan, known)
                bar.advance()
        bar.expect(len(held))
    return [held[i] for i in sorted(held)], [task for i, task in enumerate(tasks) if i not in held]


def _prepared(tasks: list[Task], plan: Plan, folder: Path, workers: int | None) -> Iterator[Outcome]:
    chunks = shared_out(tasks)
    workers = min(workers or cores(), len(chunks))
    few = workers <= 1 or len(tasks) < min(ALONE[_weight(t)] for t in tasks)
    if few and not any(map(_perilous, tasks)):
        for i, chunk in enumerate(chunks):
            yield from _prepare_chunk(chunk, plan, str(folder / f"{i:06d}"))
        return
    start = 0
    while start < len(chunks):
        processes = pool(1 if few else workers)
        try:
            futures = collections.deque(
                processes.submit(_prepare_chunk, chunk, plan, str(folder / f"{i:06d}"))
                for i, chunk in enumerate(chunks[start:], start)
            )
            while futures:  # let go one by one, or each would keep what it has brought
                outcomes = futures.popleft().result()
                start += 1
                yield from outcomes
        except BrokenProcessPool:
            yield from _one_by_one(chunks[start], plan, folder / f"{start:06d}")
            start += 1
        finally:
            processes.shutdown(wait=True, cancel_futures=True)


def _one_by_one(chunk: list[Task], plan: Plan, path: Path) -> Iterator[Outcome]:
    """Prepares a chunk again after a worker died at or after it, each scan in a process of its own.

    Raises:
        MachineError: a process died of a scan that no decoder can crash on.
    """
    for k, task in enumerate(chunk):
        process = pool(1)
        try:
            yield from process.submit(_prepare_chunk, [task], plan, f"{path}-{k}").result()
        except BrokenProcessPool:
            if not _perilous(task):
                raise MachineError(
                    f"a worker process died at or after {task.source.id}, out of memory perhaps; "
                    "run again with --workers 1"
                ) from None
            yield task.source.id, "broken DICOM file", "its decoder crashed on it"
        finally:
            process.shutdown(wait=True, cancel_futures=True)


def _perilous(task: Task) -> bool:
    """Whether a scan is decoded by a library that ends the process when a file is damaged in the right way."""
    return any(image.coded for image, _ in task.source.parts)


def shared_out(tasks: list[Task]) -> list[list[Task]]:
    """Runs of neighbouring tasks of one weight: what a worker is given at a time."""
    chunks: list[list[Task]] = []
    for task in tasks:
        last = chunks[-1] if chunks else None
        weight = _weight(task)
        if last and _weight(last[0]) == weight and len(last) < PER_CALL[weight]:
            last.append(task)
        else:
            chunks.append([task])
    return chunks


def _weight(task: Task) -> str:
    """How long a scan takes to read, by what it is: part of an npz, a picture, or a volume."""
    source = task.source
    if source.kind == "npz":
        return "npz"
    slices = max(len(source.parts), len(source.files))
    if source.kind == "image" or (source.kind == "dicom" and slices == 1):
        return "picture"
    if slices > 1 or source.files[0].lower().endswith(resume.DETACHED):
        return "volume"
    try:
        return "small volume" if os.path.getsize(source.files[0]) <= SMALL else "volume"
    except OSError:  # its reader will say so
        return "volume"


def _prepare_chunk(tasks: list[Task], plan: Plan, path: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    stored: list[tuple[bytes, Stored]] = []
    times: dict = {}
    # One thread a process: a worker has one core, and the products are too small to be shared out.
    with open(path, "wb") as file, one_thread():
        for task in tasks:
            mark = resume.mark(task, times)  # before it is read, or a change meanwhile would go unseen
            try:
                scan = _store(prepare(task, plan), file, path)
                outcomes.append(scan)
                if mark is not None:
                    stored.append((mark, scan))
            except Refused as fault:
                outcomes.append((task.source.id, fault.reason, fault.detail))
    if stored:
        resume.note(path, stored)
    return outcomes


def _store(scan: Prepared, file, path: str) -> Stored:
    file.write(bytes(-file.tell() % 8))  # what is mapped lies as NumPy would have laid it
    start = file.tell()
    file.write(np.ascontiguousarray(scan.image).data)
    if scan.mask is not None:
        file.write(np.ascontiguousarray(scan.mask).data)
    file.write(scan.signature.data)
    kept = {field.name: getattr(scan, field.name) for field in dataclasses.fields(Read)}
    return Stored(
        **kept,
        shape=scan.image.shape,
        dtype=scan.image.dtype,
        file=path,
        start=start,
        mask_bytes=0 if scan.mask is None else scan.mask.size,
        check=_check(scan.mask, scan.signature),
    )


def _check(mask: np.ndarray | None, signature: np.ndarray) -> int:
    """Of what lies beside the image, whose own digest tells of it."""
    found = zlib.crc32(np.ascontiguousarray(signature).data)
    return found if mask is None else zlib.crc32(np.ascontiguousarray(mask).data, found)


def _lean(scan: Stored, known: dict) -> Stored:
    """The same in less memory: what many scans have in common (spacing, grid, file) is held once for all of them."""
    if len(known) > MOST_KNOWN:
        known.clear()
    held = {}
    for field in dataclasses.fields(Stored):
        value = getattr(scan, field.name)
        if field.name == "histogram":
            held[field.name] = value.astype(np.min_scalar_type(int(value.max())))
        elif field.name in ("id", "digest", "total", "square", "start", "check"):
            held[field.name] = value
        elif isinstance(value, np.ndarray):
            held[field.name] = known.setdefault((value.dtype.str, value.shape, value.tobytes()), value)
        else:
            held[field.name] = known.setdefault((field.name, value), value)
    return Stored(**held)
