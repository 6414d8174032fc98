"""A dataset, or another folder of results, comes to its place by one rename, whole or not at all.

A changed one is written anew beside the old one and changes places with it, so that a set is never half of each.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from vitmed.errors import InputError, MachineError


@contextlib.contextmanager
def partial_of(
    out: Path, replace: bool = False, keep: str | None = None, worth: Callable[[Path], bool] = Path.is_dir
):
    """``OUT.partial/`` to work in, which becomes ``out`` at the end and is gone after any fault.

    A folder left by a killed command is cleared; one that another command holds is not touched.

    Args:
        replace: ``out`` is there, and gives way at the end.
        keep: a folder in it that outlives every fault, if ``worth(folder)``; an ``InputError`` it outlives only if it was
            worth it before: bad input ends a command that has left nothing.

    Raises:
        InputError: another command makes ``out``, or it is a link that leads nowhere.
        MachineError: the disk is full or refuses.
    """
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out} is a link that leads nowhere; is its disk there?")
    partial = out.with_name(out.name + ".partial")
    made = [p for p in (out.parent, *out.parent.parents) if not p.exists()]
    lock, kept_before = None, False
    try:
        with _disk(partial):
            try:
                partial.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as error:  # /proc and its like, where nobody makes anything
                raise MachineError(f"{partial} cannot be made: {error.strerror}") from error
            lock = os.open(partial / ".lock", os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                made = []
                os.close(lock)
                lock = None
                raise InputError(
                    f"{out} is being made by another command; wait for it or give another"
                ) from None
            for stale in partial.iterdir():
                if stale.name not in (".lock", keep):
                    shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
            kept_before = keep is not None and worth(partial / keep)
            with _terminated_as_interrupted():
                yield partial
            (partial / ".lock").unlink()
            if replace:
                _give_way(out)
            os.rename(partial, out)
        if replace:
            shutil.rmtree(former_of(out))
    except BaseException as error:
        if lock is not None:
            goes_on = kept_before or not isinstance(error, InputError)
            if keep is not None and goes_on and worth(partial / keep):
                for other in partial.iterdir():
                    if other.name not in (".lock", keep):
                        shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink()
            else:
                shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def _terminated_as_interrupted():
    """Within it SIGTERM is a ctrl-C: what was begun, unpacked scans among it, must not be left lying."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _give_way(out: Path) -> None:
    """Moves a dataset aside; if nothing takes its place, it is found as ``OUT.former``, whole."""
    shutil.rmtree(former_of(out), ignore_errors=True)
    os.rename(out, former_of(out))


@contextlib.contextmanager
def _disk(folder: Path):
    """The operating system's complaints about writing, said plainly."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MachineError(
                f"no space left on the disk of {folder}; free some and run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            where = error.filename2 or error.filename or folder
            raise InputError(f"{where} is in the way ({error.strerror}); give --out a new path") from error
        raise


def former_of(path: Path) -> Path:
    """Where a dataset lies while a changed one takes its place."""
    return path.with_name(path.name + ".former")
