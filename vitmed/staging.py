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
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vitmed import durable
from vitmed.errors import InputError, MachineError
from vitmed.progress import Bar

EXTRA = "{scheme}:// needs {package}, which is not installed; pip install 'vitmed[cloud]'"
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
SMALL = 8 * 2**20  # bytes up to which contents are compared; larger files never change under one name
_RUN = "config.json"  # makes a folder a run, and never changes
_LAST = ("manifest.json", _RUN, "datasheet.json", "dataset_info.json")
_AT_ONCE = 8  # files on their way
_REMOTE = re.compile(r"(\w+)://(.+)")


@dataclass(frozen=True)
class _File:
    """A file of either side: its bytes, the second it was last changed, and a function for the MD5 of its contents."""

    size: int
    changed: float
    md5: Callable[[], str | None]

    def is_as(self, other: "_File", later: bool) -> bool:
        """Whether copying would change nothing. ``later``: ``other`` is a copy if it is not older, else if it is as old."""
        if self.size != other.size:
            return False
        if self.size <= SMALL:
            return None is not self.md5() == other.md5()
        return other.changed >= int(self.changed) if later else int(other.changed) == int(self.changed)


def stage(
    source: str,
    to: str,
    delete: bool = False,
    if_there: bool = False,
    goes_on: bool = False,
    progress: bool = True,
) -> dict:
    """Makes ``to`` a copy of the folder ``source``; one of the two is an address such as ``s3://bucket/chest``.

    What is hidden (a name with a dot in front: drafts, locks, a checkpoint that is being saved) is left out. A folder on
    this machine is exchanged whole, by renames; after an interruption the same call goes on. Others that ask for it
    meanwhile wait.

    Args:
        delete: remove from ``to`` what ``source`` does not hold, such as old checkpoints.
        if_there: a ``source`` that is not there is no fault.
        goes_on: ``source`` is the address of a run that is to go on in ``to``: nothing is copied over the same run that
            has come as far here.

    Returns:
        ``copied`` and ``there``, how many files; ``bytes`` copied; ``deleted``; ``strays``, how many files ``to`` has and
        ``source`` has not.

    Raises:
        InputError: not one address and one folder, a kind of address that is not known, no such source, another run in
            ``to``, or a ``delete`` that would remove what makes ``to`` whole.
        MachineError: the storage or the disk refuses.
    """
    outward = bool(_REMOTE.match(to))
    if outward == bool(_REMOTE.match(source)):
        raise InputError(
            f"{source} and {to}: one of the two must be an address such as s3://bucket/folder or gs://bucket/folder, and "
            "the other a folder of this machine"
        )
    folder = Path(os.path.abspath(source if outward else to))
    if not outward and folder in (Path.cwd(), *Path.cwd().parents):
        raise InputError(
            f"{to} holds the folder that the command is given in; name a folder of its own to copy to"
        )
    remote = _Bucket(to if outward else source)
    nothing = dict.fromkeys(("copied", "there", "bytes", "deleted", "strays"), 0)
    held = _local(folder) if outward else remote.files()
    if not held:
        if if_there:
            return nothing
        raise InputError(f"there is no {source}, or nothing in it")
    if outward:
        there = remote.files()
        if delete:
            _check(held, there, remote, folder, to)
        return _copy(held, there, remote, folder, True, delete, progress)
    with durable.disk(folder, "the copy"), _one_at_a_time(folder):
        there = _local(folder)
        if goes_on and _RUN in there:
            # Of a run whose config has not come to the bucket there is nothing whole in it.
            if _RUN in held and not remote.holds_the_same(_RUN, folder / _RUN):
                raise InputError(
                    f"{to} holds another run than {source}: their {_RUN} differ; name another folder"
                )
            if _RUN not in held or _steps(there) >= _steps(held):
                return {**nothing, "there": len(held)}
        if delete:
            _check(held, there, remote, folder, to)
        if there and all(name in there and file.is_as(there[name], False) for name, file in held.items()):
            if not delete or not there.keys() - held.keys():
                return _copy(held, there, remote, folder, False, False, False)
        with _exchanged(folder, held) as place:
            return _copy(held, _local(place), remote, place, False, delete, progress)


def _steps(files: dict[str, _File]) -> int:
    """The last whole checkpoint of a run."""
    found = (re.fullmatch(r"checkpoints/(\d+)/manifest\.json", name) for name in files)
    return max((int(one[1]) for one in found if one), default=-1)


def _check(held: dict[str, _File], there: dict[str, _File], remote: "_Bucket", folder: Path, to: str) -> None:
    """Refuses to remove what makes a dataset or a run whole, of which the source has nothing."""
    for name in _LAST:
        if name in there and name not in held:
            raise InputError(
                f"{to} has {name}, which the source has not: it is something else; nothing was removed"
            )
    if _RUN in there and not remote.holds_the_same(_RUN, folder / _RUN):
        raise InputError(f"{to} holds another run: its {_RUN} differs; nothing was copied or removed")


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
    strays = sorted(there.keys() - held.keys())
    gone: list[str] = []  # what gave way before it was copied
    done = {"copied": 0, "there": len(held) - len(wanted), "bytes": 0, "deleted": 0}
    called = f"{folder} to" if outward else "from"
    with Bar(
        f"copying {called} {remote.address}", len(wanted), "files", quiet=not progress or not wanted
    ) as bar:

        def one(name: str) -> int | None:
            if not outward:
                remote.get(name, folder / name, held[name])
                return held[name].size
            try:
                with open(folder / name, "rb"):
                    pass
            except FileNotFoundError:
                return None  # an old checkpoint that gave way meanwhile
            except OSError as error:
                raise InputError(f"{folder / name} cannot be read: {error.strerror}") from None
            try:
                remote.put(name, folder / name)
            except InputError:
                if (folder / name).exists():
                    raise
                return None
            return held[name].size

        for last in (False, True):
            names = [name for name in wanted if _comes_last(name) == last]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for name, size in zip(names, pool.map(one, names), strict=True):
                    done["copied"] += size is not None
                    done["bytes"] += size or 0
                    gone += [name] if size is None else []
                    bar.advance()
    if delete:
        if outward:
            strays = _but_the_last_whole(strays, there, held, gone)
        for name in sorted(strays, key=_comes_last, reverse=True):  # first what makes it whole
            remote.remove(name) if outward else (folder / name).unlink(missing_ok=True)
            done["deleted"] += 1
    return {**done, "strays": len(strays) - done["deleted"]}


def _but_the_last_whole(strays: list[str], there: dict, held: dict, gone: list[str]) -> list[str]:
    """``strays`` without the last whole checkpoint of a run where no other whole one has come.

    A training goes on while it is sent: whatever checkpoints it had may have given way to newer ones meanwhile.
    """
    broken = {name.split("/")[1] for name in gone if name.startswith("checkpoints/")}
    arrived = {name: file for name, file in held.items() if broken.isdisjoint(name.split("/")[1:2])}
    if not broken or _steps(arrived) >= 0 or _steps(there) < 0:
        return strays
    return [name for name in strays if not name.startswith(f"checkpoints/{_steps(there)}/")]


def _comes_last(name: str) -> bool:
    return PurePosixPath(name).name in _LAST


def _local(folder: Path) -> dict[str, _File]:
    found, seen = {}, set()
    # os.walk passes over folders that give way meanwhile, as old checkpoints do.
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(here, name)
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    told = path.stat()
                    called = path.relative_to(folder).as_posix()
                    md5 = functools.cache(functools.partial(_md5, path))
                    found[called] = _File(told.st_size, told.st_mtime, md5)
    return found


def _md5(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is in the way; give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.with_name(f".{folder.name}.staging.lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists() and _former(folder).exists():  # killed between two renames
            os.rename(_former(folder), folder)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _exchanged(folder: Path, held: dict[str, _File]) -> Iterator[Path]:
    """A folder of the same files to change, which takes the place of ``folder`` at the end; what is new in it from a copy
    that was interrupted is there already."""
    fresh, former = folder.with_name(f".{folder.name}.staging"), _former(folder)
    if folder.exists():
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(folder, fresh, copy_function=_linked, symlinks=True)
    else:
        fresh.mkdir(exist_ok=True)
        for name in _local(fresh).keys() - held.keys():
            (fresh / name).unlink()
    yield fresh
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        os.rename(folder, former)
    os.rename(fresh, folder)
    shutil.rmtree(former, ignore_errors=True)


def _former(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.former")


def _linked(source: str, to: str) -> str:
    """The same file under another name, or a copy where a disk has no such names; changed files are new ones."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)
    return to


class _Bucket:
    """A folder of object storage, through fsspec."""

    def __init__(self, address: str):
        scheme, root = _REMOTE.fullmatch(address).groups()
        self._root = "/".join(filter(None, root.split("/")))
        self.address = f"{scheme}://{self._root}"
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
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name and not name.endswith("/") and told["type"] == "file" and not hidden:
                found[name] = _File(int(told["size"]), _changed(told), functools.partial(_told_md5, told))
        return found

    def put(self, name: str, path: Path) -> None:
        """Uploads a file."""
        with _plain_errors(self.address):
            self._fs.put_file(str(path), f"{self._root}/{name}")
            if path.stat().st_size > SMALL:  # as old here as there, so that it is known to be the same
                told = self._fs.info(f"{self._root}/{name}", refresh=True)
                with contextlib.suppress(
                    PermissionError
                ):  # of another's file, which is sent again the next time
                    os.utime(path, (_changed(told),) * 2)

    def holds_the_same(self, name: str, path: Path) -> bool:
        """Whether a small file is as ``path``, by what it holds: not every bucket tells the MD5 of its objects."""
        with _plain_errors(self.address):
            return self._fs.cat_file(f"{self._root}/{name}") == path.read_bytes()

    def get(self, name: str, path: Path, file: _File) -> None:
        """Downloads to ``path``, which appears whole and as old as it is there."""
        _inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with _plain_errors(self.address):
                self._fs.get_file(f"{self._root}/{name}", str(draft))
            known = file.md5() if file.size <= SMALL else None
            if draft.stat().st_size != file.size or (known and _md5(draft) != known):
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


def _changed(told: dict) -> float:
    """The second an object was last changed."""
    when = told.get("LastModified") or told.get("mtime") or told.get("updated")
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when.replace("Z", "+00:00"))
    return when.timestamp() if when else 0.0


def _told_md5(told: dict) -> str | None:
    """The MD5 of an object's contents; None where it is told otherwise (S3's objects in several parts)."""
    if told.get("md5Hash"):
        return base64.b64decode(told["md5Hash"]).hex()
    tag = str(told.get("ETag", "")).strip('"')
    return tag if re.fullmatch("[0-9a-f]{32}", tag) else None
