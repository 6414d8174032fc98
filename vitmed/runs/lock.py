"""One at a time: a folder that a command works in is nobody else's meanwhile."""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from vitmed import durable
from vitmed.errors import InputError

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path, who: str) -> Iterator[None]:
    """Holds ``folder``, which is there; the system lets go of it when the process ends, however it does.

    Raises:
        InputError: another process holds it.
        MachineError: it cannot be written to.
    """
    with durable.disk(folder, "the folder"):
        lock = open(folder / NAME, "w")  # noqa: SIM115 - closed below
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder} is in use by another {who}; wait for it, or stop it") from None
        except OSError as error:  # a file system that knows no locks is still one to work on
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
