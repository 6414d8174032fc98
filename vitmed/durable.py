"""Files that are either whole or not there, whatever kills the process, and disk faults said plainly."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from vitmed.errors import DiskFull, InputError, MachineError

# What the system says of a path that no disk could take: it is the command's, not the machine's, to put right.
_NO_SUCH_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)


def write_text(path: Path, text: str) -> None:
    """Replaces ``path`` by ``text`` in one step: a reader sees the old file or the new one, never a part.

    Raises:
        MachineError: the disk is full or refuses.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with disk(path.parent, path.name):
        try:
            with open(draft, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
            sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of ``value`` as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict:
    """The JSON object in ``path``.

    Raises:
        InputError: the file is missing or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the folder is not a whole run") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); put back a good copy of it") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, a JSON object was expected")
    return value


def sha256(path: Path) -> str:
    """Of the bytes of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Waits until ``path`` (a file, or a folder's list of names) has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Appended:
    """A file that is appended to. What the disk has no room for waits here, in order, and is tried again.

    Raises:
        OSError: from every method, where the disk is full or refuses.
    """

    def __init__(self, path: Path):
        self._file = open(path, "ab", buffering=0)  # so that what is on the disk is known to the byte
        self._waiting = b""

    def put(self, data: bytes) -> None:
        """Takes ``data``, to be written by ``flush``."""
        self._waiting += data

    def flush(self) -> None:
        """Writes what waits; all of it is in the file when this returns."""
        while self._waiting:
            written = self._file.write(self._waiting)
            self._waiting = self._waiting[written:]

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._file.close()


@contextlib.contextmanager
def disk(folder: Path, what: str):
    """Turns an operating system's complaint while writing ``what`` into a fault of ours that names ``folder``.

    Raises:
        DiskFull: there is no room left.
        InputError: the path is none that can be written: a part of it is a file, or it is too long.
        MachineError: any other complaint.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk is full: {what} does not fit in {folder}, which has {_free(folder)}; "
                "free some space and run the same command again"
            ) from error
        told = f"{what} cannot be written to {folder}: {error.strerror or error}"
        if error.errno in _NO_SUCH_PLACE:
            raise InputError(f"{told}; give the path of a folder, or of one that is not there yet") from error
        raise MachineError(f"{told}; check the disk and rights") from error


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        return "an unknown amount free"
