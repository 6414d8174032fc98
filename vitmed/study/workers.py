"""Worker processes for a study: each has its share of the cores and GPUs and does one run after another.

Nothing heavy is imported at the top: a worker takes its cores and GPUs and names the compilation cache before JAX
loads.
A worker sits in its own process group, so that ctrl-C reaches it once, through the parent, in the middle of
training, where it is turned into a saved state. It ends when the parent does, however the parent ended.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitmed.errors import VitmedError

_SPAWN = multiprocessing.get_context("spawn")  # fork and JAX's threads do not go together
_PATIENCE = 120.0  # seconds that a worker gets to save its state after ctrl-C


@dataclasses.dataclass(frozen=True)
class Task:
    """``work(*arguments)`` for a worker; the function must be importable by name.

    ``after`` names the task of the same list that must have ended first; "" waits for none.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple
    after: str = ""


def shares(cores: list[int], jobs: int) -> list[list[int]]:
    """Splits the cores between jobs as evenly as they go; more jobs than cores share them in turn."""
    if jobs >= len(cores):
        return [[cores[job % len(cores)]] for job in range(jobs)]
    return [cores[len(cores) * job // jobs : len(cores) * (job + 1) // jobs] for job in range(jobs)]


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The NVIDIA GPUs that CUDA may use here, by the names that CUDA_VISIBLE_DEVICES takes: numbers or UUIDs."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].replace(" ", "").split(",") if name]
    try:
        told = subprocess.run(["nvidia-smi", "-L"], env=environment, capture_output=True, text=True).stdout
    except FileNotFoundError:  # no driver
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in told.splitlines()))]


def gpu_shares(gpus: list[str], jobs: int) -> list[list[str]]:
    """Splits the GPUs between jobs, as many to each; more jobs than GPUs share them in turn.

    Some may be left over: a batch that two can share need not divide by three, and a run's last bits would hang on
    which worker it went to.
    """
    each = max(len(gpus) // jobs, 1)
    starts = [job * each % len(gpus) for job in range(jobs)]
    return [gpus[start : start + each] for start in starts]


def run(
    tasks: list[Task], jobs: int, cache: Path, tick: Callable[[dict], None]
) -> Iterator[tuple[Task, Any]]:
    """Runs the tasks in ``jobs`` processes, in their order as far as they may, and yields (task, result) as they end.

    ``tick`` is called about once a second with {worker number: the task it is at}. After the first failure no
    new task starts; what runs is finished (and yielded) and then the failure is raised as it came.
    """
    waiting, running, failure = list(tasks), {}, None
    not_ended = {task.name for task in tasks}
    with _pool(min(jobs, len(tasks)), cache) as workers:
        while running or (waiting and failure is None):
            for number in range(len(workers)):
                task = next((t for t in waiting if t.after not in not_ended), None)
                if number not in running and task is not None and failure is None:
                    waiting.remove(task)
                    running[number] = task
                    workers[number][1].send(task)
            tick(dict(running))
            ready = multiprocessing.connection.wait([workers[number][1] for number in running], timeout=1.0)
            for number in [n for n in running if workers[n][1] in ready]:
                task = running.pop(number)
                try:
                    result, error = workers[number][1].recv()
                except EOFError:
                    workers[number][0].join()
                    code = workers[number][0].exitcode
                    error = RuntimeError(
                        f"the process of {task.name} ended with {code}: out of memory, or killed"
                    )
                if error is None:
                    not_ended.remove(task.name)
                    yield task, result
                else:
                    failure = failure or error
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _pool(jobs: int, cache: Path):
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = visible_gpus()
    workers = []
    try:
        for job in range(jobs):
            here, there = _SPAWN.Pipe()
            own = shares(cores, jobs)[job] if cores else []
            seen = gpu_shares(gpus, jobs)[job] if len(gpus) > 1 else []
            process = _SPAWN.Process(
                target=_serve, args=(there, own, seen, str(cache), jobs, sys.orig_argv), name=f"study-{job}"
            )
            process.start()
            there.close()
            workers.append((process, here))
        yield workers
        for process, here in workers:
            here.close()
            process.join(_PATIENCE)
    finally:
        for process, _ in workers:
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process, _ in workers:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()


def _serve(pipe, cores: list[int], gpus: list[str], cache: str, jobs: int, command: list[str]) -> None:
    sys.orig_argv = command  # what a person typed: it is what a run's environment.json has to say
    os.setpgid(0, 0)
    # What a script starts in its background ignores ctrl-C, and so would this, which is how the parent ends it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cores:
        os.sched_setaffinity(0, cores)  # XLA makes as many threads as it may use cores
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    if jobs > 1:  # several processes on one accelerator: none may take all its memory at once
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        while True:
            task = pipe.recv()
            try:
                answer = (task.work(*task.arguments), None)
            except VitmedError as error:
                answer = (None, type(error)(f"{task.name}: {error}"))
            except Exception as error:
                error.add_note(f"in {task.name}, whose process saw this:\n{traceback.format_exc()}")
                answer = (None, error)
            try:
                pipe.send(answer)
            except (TypeError, AttributeError, pickle.PicklingError) as error:  # what cannot travel
                pipe.send((None, RuntimeError(f"{task.name}: {answer[1] or answer[0]!r} ({error})")))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
