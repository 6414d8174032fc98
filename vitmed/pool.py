"""Worker processes that start afresh, leave ctrl-C to their parent, and do not outlive it; and how many to have."""

import concurrent.futures
import functools
import math
import multiprocessing
import os
import signal
import threading
from pathlib import Path

from threadpoolctl import ThreadpoolController

CGROUP = Path("/sys/fs/cgroup")


def pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of ``workers`` processes. Spawned, not forked: JAX or a reader may already run threads here."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=begin)


def bound() -> int:
    """Cores that this process is bound to, such as a Slurm job's four of a node's 128: XLA starts as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: ``bound()``, or fewer where its container's share of time (cgroup v2) is less."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:  # no such limit here
        return bound()
    return bound() if quota == "max" else min(bound(), math.ceil(int(quota) / int(period)))


def one_thread():
    """A context in which BLAS has one thread: the order of a sum, so its last bit, is then fixed."""
    return _libraries().limit(limits=1)


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def begin() -> None:
    """What a worker does first: leaves ctrl-C to its parent, and sees to it that it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def leave_with_parent():
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
