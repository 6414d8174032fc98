"""The second driver of ingest: scans are prepared by the workers of an Apache Beam runner (extra ``beam``).

Beam hands out numbers only. What a number stands for lies in ``DATASET.partial/spool``, which the workers share with
the process that started them, and there they leave what they made of it; so nothing large goes through the runner,
outcomes come back in the order of the tasks, and the dataset is the same to the byte as with the local driver,
whatever the number of workers. Headers are looked through, and shards written, where ingest was started.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path

from vitmed.data import spool
from vitmed.data.prepare import Plan, Task
from vitmed.data.spool import Outcome
from vitmed.errors import InputError, MachineError
from vitmed.pool import begin

_LATE = 60.0  # seconds until a file that a worker wrote is seen here, at most: what NFS keeps of a folder by default
_TICK = 0.05
_HERE = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_PATIENCE = 10.0  # seconds for a runner to cancel its job
_TOKEN, _STOP, _FAULT = "shared", "stop", "fault"


class Runner:
    """A Beam runner, by name, with its options.

    Args:
        name: as Beam calls it: ``DirectRunner``, ``FlinkRunner``, ``SparkRunner``, ``DataflowRunner`` ..., or the
            full name of a class. ``DirectRunner`` is Beam's Python runner on this machine: what Beam itself makes of
            that name first tries to download another.
        options: pipeline options as ``name=value``, or ``name`` for those that are on or off.

    Raises:
        InputError: Beam is not installed, or it does not know the name or an option.
    """

    def __init__(self, name: str, options: tuple[str, ...] = ()):
        with _quiet():
            self._choose(name, options)

    def _choose(self, name: str, options: tuple[str, ...]) -> None:
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
            from apache_beam.runners import runner
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "apache_beam":
                raise
            raise InputError(
                "--beam needs Apache Beam, which is not installed; pip install 'vitmed[beam]', or leave out --beam "
                "to read with the processes of this machine"
            ) from None
        direct = name.lower() in ("directrunner", "direct")
        flags = [f"--{option.lstrip('-')}" for option in options]
        given = {flag.partition("=")[0] for flag in flags}
        if direct and "--direct_num_workers" in given and "--direct_running_mode" not in given:
            flags.append("--direct_running_mode=multi_processing")  # or they would be workers in name only
        try:
            self.name, self._name, self._flags = name, _HERE if direct else name, flags
            runner.create_runner(self._name)
        except (ValueError, ImportError, AttributeError) as error:
            raise InputError(f"--beam {name} cannot be used: {_last_line(error)}") from None
        try:
            all_options = PipelineOptions(flags).get_all_options
            unknown = all_options(retain_unknown_options=True).keys() - all_options().keys()
        except SystemExit:
            raise InputError(f"--beam-option {' '.join(options)}: Beam cannot read a value in it") from None
        if unknown:
            raise InputError(f"--beam-option {min(unknown)} is no option that Beam knows of {name}")

    def __call__(self, tasks: list[Task], plan: Plan, folder: Path, workers: int | None) -> Iterator[Outcome]:
        """Prepares every task into ``folder``, which all workers see under this path; yields as ``spool.run`` does.

        Raises:
            MachineError: a worker died or does not see the folder or a scan, or the runner failed.
            OSError: no space left.
        """
        shares = spool.shared_out(tasks)
        token = uuid.uuid4().hex
        (folder / _TOKEN).write_text(token)
        for number, share in enumerate(shares):
            (folder / _name(number)).write_bytes(pickle.dumps((share, plan)))
        # A process of its own: a runner whose worker has died may wait for it for ever, and is ended with it.
        job = multiprocessing.get_context("spawn").Process(
            target=_pipeline, args=(self._name, self._flags, len(shares), str(folder), token)
        )
        job.start()
        try:
            for number in range(len(shares)):
                outcomes = self._outcomes(folder / _told(number), job)
                (folder / _name(number)).unlink()
                yield from outcomes
            job.join()
        finally:
            (folder / _STOP).touch()  # what has not begun yet is left alone, wherever it is
            _end(job, 0.0 if self._name == _HERE else _PATIENCE)

    def _outcomes(self, path: Path, job: multiprocessing.Process) -> list[Outcome]:
        ended = None
        while not path.exists():
            if ended is None and not job.is_alive():
                ended = time.monotonic()
            elif ended is not None and (job.exitcode or time.monotonic() > ended + _LATE):
                raise self._failed(path.parent, job)
            time.sleep(_TICK)
        found, told = pickle.loads(path.read_bytes())
        if isinstance(found, Exception):
            raise found from RuntimeError(f"in a worker of {self.name}:\n{told}")
        return found

    def _failed(self, folder: Path, job: multiprocessing.Process) -> MachineError:
        if not job.exitcode:
            why = f"it ended, and its workers left nothing in {folder}"
        elif (folder / _FAULT).is_file():
            why = (folder / _FAULT).read_text()
        else:
            why = f"its process ended with {job.exitcode}"
        return MachineError(f"the Beam runner {self.name} failed: {why}")


@contextlib.contextmanager
def _quiet():
    """Without what Beam remarks on (parts for clouds that are not installed) and what argparse prints."""
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _pipeline(name: str, flags: list[str], count: int, folder: str, token: str) -> None:
    """In a process of its own: runs the pipeline to its end, or writes why it could not."""
    os.setsid()  # what it starts is ended with it
    begin()
    with open(os.path.join(folder, "log"), "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    def fail(error: BaseException | None) -> None:
        traceback.print_exception(error)
        draft = os.path.join(folder, f"{_FAULT}-draft")
        Path(draft).write_text(_last_line(error))
        os.rename(draft, os.path.join(folder, _FAULT))
        os._exit(1)

    # Beam's own processes are watched by threads, and when one dies nothing but the thread's error tells of it.
    threading.excepthook = lambda told: fail(told.exc_value)
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner

        pipeline = beam.Pipeline(runner=create_runner(name), options=PipelineOptions(flags))
        _ = (
            pipeline
            | "Numbers" >> beam.Create(range(count))
            | "Share out" >> beam.Reshuffle()
            | "Prepare" >> beam.Map(_prepare, folder=folder, here=os.getcwd(), token=token)
        )
        result = pipeline.run()
        signal.signal(signal.SIGTERM, lambda *_: (result.cancel(), os._exit(1)))
        result.wait_until_finish()
    except BaseException as error:
        fail(error)
    os._exit(0)


def _end(job: multiprocessing.Process, patience: float) -> None:
    """Ends the pipeline, if it has not, and every process that it started here.

    Args:
        patience: seconds for it to cancel what runs elsewhere.
    """
    if patience and job.is_alive():
        job.terminate()
        job.join(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)
    job.kill()  # if it had not come so far as to have a group of its own
    job.join()


def _prepare(number: int, folder: str, here: str, token: str) -> None:
    """In a worker: prepares what a number stands for. Faults are left in the place of outcomes.

    A runner may give one number to two workers, or to a second after a first that died: each works in a folder of its
    own, and one rename makes the outcomes seen.
    """
    place = Path(folder)
    try:
        _same_place(place, here, token)
        if (place / _STOP).exists() or (place / _told(number)).exists():
            return
        tasks, plan = pickle.loads((place / _name(number)).read_bytes())
        for task in tasks:
            if not os.path.exists(task.source.files[0]):
                raise MachineError(
                    f"{task.source.files[0]} is not seen by the worker on {socket.gethostname()}; the scans must lie "
                    "where every worker has them under one path"
                )
        own = place / f"{_name(number)}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
        own.mkdir()
        found = list(spool.run(tasks, plan, own, workers=1)), ""
    except Exception as error:
        found = _portable(error), traceback.format_exc()
    if not place.is_dir():  # not shared: there is nowhere to leave the fault but with the runner
        raise found[0]
    draft = place / f"{_told(number)}-{uuid.uuid4().hex}"
    draft.write_bytes(pickle.dumps(found))
    os.rename(draft, place / _told(number))


def _same_place(folder: Path, here: str, token: str) -> None:
    """Goes to the folder that paths are told from, and sees that the spool is the one of the process that asks."""
    try:
        if os.getcwd() != here:
            os.chdir(here)
        found = (folder / _TOKEN).read_text()
    except OSError:
        found = ""
    if found != token:
        raise MachineError(
            f"the worker on {socket.gethostname()} does not see {folder}; --out and the scans must lie where every "
            "worker has them under one path"
        )


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be pickled."""
    try:
        return error if type(pickle.loads(pickle.dumps(error))) is type(error) else RuntimeError(str(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _name(number: int) -> str:
    return f"{number:08d}"


def _told(number: int) -> str:
    return f"{number:08d}.told"


def _last_line(error: BaseException) -> str:
    """What an error of a runner comes to; a whole traceback may stand before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1]
