"""Ingests folders one by one, each in a process of its own, and tells what that took.

Python's own counters see neither what SimpleITK, GDCM and zlib allocate nor what a worker process does, and a read that
waits for ever costs no processor time: so a case is a child process, of which the system tells time and memory.

The child is forked off a process that has imported everything, and has started no thread.
"""

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

HANGS = 60.0  # seconds after which a case is ended
_CAPABILITIES, _DAC_OVERRIDE, _DAC_READ_SEARCH = 0x20080522, 1, 2  # version 3, and bits (capabilities(7))


@dataclasses.dataclass(frozen=True)
class Took:
    """What one ingest took, with all processes that it waited for.

    Attributes:
        code: its exit code; below 0 the signal that ended it.
        wall: seconds, from its start to its end.
        processor: seconds.
        peak: bytes of the largest of its processes.
    """

    code: int
    wall: float
    processor: float
    peak: int


class Ingests:
    """The process that children are forked off; ``close`` ends it."""

    def __init__(self):
        # Its standard input stays open and empty, so that a reader that turns to it waits.
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder, out) -> Took:
        """Ingests ``folder`` into ``out``, as nobody who may read what is locked."""
        self._process.stdin.write(json.dumps([str(folder), str(out)]) + "\n")
        self._process.stdin.flush()
        return Took(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    for module in ("arrays", "dicom", "dicom_seg", "images", "itk", "measure", "nifti", "archives"):
        __import__(f"vitmed.scans.{module}")
    __import__("vitmed.data.ingest")
    __import__("vitmed.data.prepare")
    pipe = os.dup(1)
    os.dup2(2, 1)  # what an ingest prints is no answer
    while line := sys.stdin.readline():
        os.write(pipe, (json.dumps(dataclasses.asdict(_measured(*json.loads(line)))) + "\n").encode())


def _measured(folder: str, out: str) -> Took:
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            _ingest(folder, out)
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    ended = False
    while not ended:
        pid, status, used = os.wait4(child, os.WNOHANG)
        ended = pid == child
        if not ended and time.monotonic() - start > HANGS:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.002)
    return Took(
        os.waitstatus_to_exitcode(status),
        time.monotonic() - start,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss * 1024,
    )


def _ingest(folder: str, out: str) -> None:
    from vitmed.data.ingest import ingest

    if os.geteuid() == 0:
        _obey_permissions()
    ingest(folder, out, size=(8, 8, 8), modality="unknown", progress=False, workers=1)


def _obey_permissions() -> None:
    """Takes root's right to read and write what it may not, for this process and all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(head, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for k in range(3):  # effective, permitted, inheritable
        sets[k] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    if libc.capset(head, sets):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    _serve()
