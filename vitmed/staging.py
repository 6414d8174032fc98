"""Datasets and runs between object storage (``s3://``, ``gs://``) and a disk of this machine.

ArrayRecord's reader opens files alone, and a run lives by what a bucket does not have (a rename of a whole folder, an
appended line, a lock); so both lie on a disk while they are worked with, and are copied before and after. What is there
already is not copied again. What makes a folder whole (a checkpoint's manifest, a run's config, a dataset's description)
comes last, so that whoever finds it finds the rest.
"""

import base64
import contextlib
import datetime
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vitmed import durable
from vitmed.errors import InputError, MachineError
from vitmed.progress import Bar

EXTRA = "{scheme}:// needs {package}, which is not installed; pip install 'vitmed[cloud]'"
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
SMALL = 8 * 2**20  # bytes up to which contents are compared; larger files never change under one name
_LAST = ("manifest.json", "config.json", "datasheet.json", "dataset_info.json")
_AT_ONCE = 8  # files on their way
_REMOTE = re.compile(r"(\w+)://(.+)")


@dataclass(frozen=True)
class _File:
    """A file of either side: its bytes, the second it was last changed, and a function for the MD5 of its contents."""

    size: int
    changed: float
    md5: Any

    def is_as(self, other: "_File", later: bool) -> bool:
        """Whether copying would change nothing. ``later``: ``other`` is a copy if it is not older, else if it is as old."""
        if self.size != other.size:
            return False
        if self.size <= SMALL:
            return None is not self.md5() == other.md5()
        return other.changed >= int(self.changed) if later else int(other.changed) == int(self.changed)


def stage(source: str, to: str, delete: bool = False, if_there: bool = False, progress: bool = True) -> dict:
    """Makes ``to`` a copy of the folder ``source``; one of the two is an address such as ``s3://bucket/chest``.

    What is hidden (a name with a dot in front: drafts, locks, a checkpoint that is being saved) is left out. A new folder
    on this machine appears whole; after an interruption the same call goes on. Others that ask for it meanwhile wait.

    Args:
        delete: remove from ``to`` what ``source`` does not hold, such as old checkpoints.
        if_there: a ``source`` that is not there is no fault.

    Returns:
        ``copied`` and ``there``, how many files; ``bytes`` copied; ``deleted``.

    Raises:
        InputError: not one address and one folder, a kind of address that is not known, or no such source.
        MachineError: the storage or the disk refuses.
    """
    outward = bool(_REMOTE.match(to))
    if outward == bool(_REMOTE.match(source)):
        raise InputError(
            f"{source} and {to}: one of the two must be an address such as s3://bucket/folder or gs://bucket/folder, and "
            "the other a folder of this machine"
        )
    remote = _Bucket(to if outward else source)
    folder = Path(source if outward else to)
    held = _local(folder) if outward else remote.files()
    if not held:
        if if_there:
            return dict.fromkeys(("copied", "there", "bytes", "deleted"), 0)
        raise InputError(f"there is no {source}, or nothing in it")
    if outward:
        return _copy(held, remote.files(), remote, folder, True, delete, progress)
    with durable.disk(folder, "the copy"), _whole(folder) as place:
        return _copy(held, _local(place), remote, place, False, delete, progress)


def _copy(
    held: dict[str, _File],
    there: dict[str, _File],
    remote: "_Bucket",
    folder: Path,
    outward: bool,
    delete: bool,
    progress: bool,
) -> dict:
    wanted = [
        name for name, file in held.items() if name not in there or not file.is_as(there[name], outward)
    ]
    gone = sorted(there.keys() - held.keys()) if delete else []
    done = {"copied": 0, "there": len(held) - len(wanted), "bytes": 0, "deleted": 0}
    called = f"{folder} to" if outward else "from"
    with Bar(
        f"copying {called} {remote.address}", len(wanted), "files", quiet=not progress or not wanted
    ) as bar:

        def one(name: str) -> int | None:
            try:
                if outward:
                    remote.put(name, folder / name)
                else:
                    remote.get(name, folder / name, held[name])
            except InputError:
                if outward and not (folder / name).exists():
                    return None  # an old checkpoint that gave way meanwhile
                raise
            return held[name].size

        for last in (False, True):
            names = [name for name in wanted if (PurePosixPath(name).name in _LAST) == last]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for size in pool.map(one, names):
                    done["copied"] += size is not None
                    done["bytes"] += size or 0
                    bar.advance()
    for name in sorted(
        gone, key=lambda name: PurePosixPath(name).name not in _LAST
    ):  # first what makes it whole
        remote.remove(name) if outward else (folder / name).unlink(missing_ok=True)
        done["deleted"] += 1
    return done


def _local(folder: Path) -> dict[str, _File]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        with contextlib.suppress(FileNotFoundError):  # it gave way meanwhile
            if path.is_file():
                told = path.stat()
                found[name.as_posix()] = _File(told.st_size, told.st_mtime, lambda path=path: _md5(path))
    return found


def _md5(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """The folder to copy into: itself, or where it is new another that becomes it at the end; for one at a time."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is in the way; give another folder")
    partial = folder.with_name(folder.name + ".partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.with_name(f".{folder.name}.staging"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            yield folder
        else:
            partial.mkdir(exist_ok=True)
            yield partial
            os.rename(partial, folder)
    finally:
        os.close(lock)


class _Bucket:
    """A folder of object storage, through fsspec."""

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        scheme, self._root = _REMOTE.fullmatch(self.address).groups()
        if scheme not in PACKAGES:
            raise InputError(f"{address}: {scheme}:// is not known; known are s3:// and gs://")
        try:
            import fsspec

            self._fs = fsspec.filesystem(scheme)
        except ImportError:
            raise InputError(EXTRA.format(scheme=scheme, package=PACKAGES[scheme])) from None

    def files(self) -> dict[str, _File]:
        """What is there, as of now."""
        self._fs.invalidate_cache()
        found = {}
        with _plain_errors(self.address):
            held = self._fs.find(self._root, detail=True)
        for path, told in held.items():
            name = path[len(self._root) + 1 :]
            if name and not name.endswith("/") and told["type"] == "file":
                changed = told.get("LastModified") or told.get("mtime") or told.get("updated")
                found[name] = _File(int(told["size"]), _seconds(changed), lambda told=told: _told_md5(told))
        return found

    def put(self, name: str, path: Path) -> None:
        """Uploads a file."""
        with _plain_errors(self.address):
            self._fs.put_file(str(path), f"{self._root}/{name}")

    def get(self, name: str, path: Path, file: _File) -> None:
        """Downloads to ``path``, which appears whole and as old as it is there."""
        _inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with _plain_errors(self.address):
                self._fs.get_file(f"{self._root}/{name}", str(draft))
            if draft.stat().st_size != file.size:
                raise MachineError(
                    f"{self.address}/{name} changed while it was copied; run the same command again"
                )
            os.utime(draft, (file.changed, file.changed))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a file."""
        with _plain_errors(self.address):
            self._fs.rm_file(f"{self._root}/{name}")


@contextlib.contextmanager
def _plain_errors(address: str) -> Iterator[None]:
    """What a storage answers, in a sentence: each has exceptions of its own."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{address}: there is no such bucket or file ({error})") from error
    except PermissionError as error:
        raise MachineError(
            f"{address}: access was denied ({error}); see that this machine has the credentials for it"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # this machine's
        raise MachineError(f"{address}: {type(error).__name__}: {error}") from error


def _inside(name: str) -> None:
    parts = PurePosixPath(name).parts
    if ".." in parts or PurePosixPath(name).is_absolute():
        raise InputError(f"an object is called {name!r}, which leads out of the folder; leave it out")


def _seconds(told: Any) -> float:
    if hasattr(told, "timestamp"):
        return told.timestamp()
    return datetime.datetime.fromisoformat(told.replace("Z", "+00:00")).timestamp() if told else 0.0


def _told_md5(told: dict) -> str | None:
    """The MD5 of an object's contents; None where it is told otherwise (S3's objects in several parts)."""
    if told.get("md5Hash"):
        return base64.b64decode(told["md5Hash"]).hex()
    tag = str(told.get("ETag", "")).strip('"')
    return tag if re.fullmatch("[0-9a-f]{32}", tag) else None
