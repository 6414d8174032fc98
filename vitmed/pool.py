"""Worker processes that start afresh, leave ctrl-C to their parent, and do not outlive it."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading


def pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of ``workers`` processes. Spawned, not forked: JAX or a reader may already run threads here."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=begin)


def begin() -> None:
    """What a worker does first: leaves ctrl-C to its parent, and sees to it that it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def leave_with_parent():
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
