"""Ingests folders one by one in a process of its own, and tells what each took.

Python's own counters see neither what SimpleITK, GDCM and zlib allocate nor what a worker process does, and a read that
waits for ever costs no processor time: so the system is asked, and a process that does not come to an end is ended.
"""

import ctypes
import dataclasses
import json
import os
import resource
import subprocess
import sys
import threading
import traceback
from pathlib import Path

HANGS = 60.0  # seconds after which a process is ended
_CAPABILITIES, _DAC_OVERRIDE, _DAC_READ_SEARCH = 0x20080522, 1, 2  # version 3, and bits (capabilities(7))


@dataclasses.dataclass(frozen=True)
class Took:
    """What one ingest took.

    Attributes:
        fault: what ended it; "" nothing did.
        processor: seconds of the process and of its workers.
        grown: bytes by which the larger of them was larger than the process before; of workers the system tells
            only the largest so far, so one that is not larger than those of earlier ingests does not count.
    """

    fault: str
    processor: float = 0.0
    grown: int = 0


class Ingests:
    """The process that ingests; it is started again after a crash. ``close`` ends it."""

    def __init__(self):
        self._start()

    def _start(self) -> None:
        # Its standard input stays open and empty, so that a reader that turns to it waits.
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder, out) -> Took:
        """Ingests ``folder`` into ``out``, without root's right to read what is locked."""
        if self._process.poll() is not None:
            self._start()
        self._process.stdin.write(json.dumps([str(folder), str(out)]) + "\n")
        self._process.stdin.flush()
        hangs = threading.Timer(HANGS, self._process.kill)
        hangs.start()
        answer = self._process.stdout.readline()
        hangs.cancel()
        if answer:
            return Took(**json.loads(answer))
        code = self._process.wait()
        return Took(f"a crash, or nothing for {HANGS:.0f} s: the process ended with {code}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    if os.geteuid() == 0:
        _obey_permissions()
    pipe = os.dup(1)
    os.dup2(2, 1)  # what an ingest prints is no answer
    while line := sys.stdin.readline():
        os.write(pipe, (json.dumps(dataclasses.asdict(_measured(*json.loads(line)))) + "\n").encode())


def _measured(folder: str, out: str) -> Took:
    from vitmed.data.ingest import ingest

    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is taken now (proc(5))
    seconds, before, earlier = _used()
    fault = ""
    try:
        ingest(folder, out, size=(8, 8, 8), modality="unknown", progress=False, workers=1)
    except BaseException as error:
        traceback.print_exc()
        fault = repr(error)
    after, here, workers = _used()
    return Took(fault, after - seconds, max(here, workers if workers > earlier else 0) - before)


def _used() -> tuple[float, int, int]:
    """Processor seconds, and the most bytes of the process and of the largest worker that has ended."""
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
    return seconds, own.ru_maxrss * 1024, workers.ru_maxrss * 1024


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
