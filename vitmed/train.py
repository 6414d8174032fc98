"""The one training loop. Pretraining, fine-tuning and all else are this loop with another objective.

Read it from ``train``: check the config, open the data, make the three pure functions of the objective, place the
state, and repeat one compiled update (``vitmed.job.job``). Nothing in the loop waits for the device but the metrics of the
step before, which are there when they are asked for. A run killed anywhere goes on to the same bits.
"""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vitmed import config as configs
from vitmed.errors import InputError
from vitmed.evaluate import guard, health
from vitmed.job import postmortem
from vitmed.job.begin import begin, begun, made
from vitmed.job.config import Config, check, resolve
from vitmed.job.job import Job
from vitmed.models.cost import short
from vitmed.parallel import processes
from vitmed.progress import Bar
from vitmed.runs import folder
from vitmed.runs.checkpoint import Checkpoints
from vitmed.runs.late_metrics import LEFT_OUT, LateMetrics, NotFinite, left_out
from vitmed.runs.metrics import MetricsWriter
from vitmed.runs.metrics import read as metrics_of
from vitmed.runs.stopping import stop_requests


def train(values: ConfigDict, workdir: str | Path, quiet: bool = False, show_sharding: bool = False) -> dict:
    """Trains by a config in the run folder ``workdir``, from where it stands.

    Args:
        values: as ``vitmed.config.load`` returns it.
        workdir: made if it is not there, once everything has been checked.
        quiet: no progress on standard error.
        show_sharding: print first where each array lies and what a step sends (``vitmed.parallel.shown``).

    Returns:
        ``run``, ``step``, ``resumed_from`` (0 if fresh), ``metrics`` {name: last value}, ``images_per_second``,
        ``data_wait`` and ``checkpoint_wait`` (shares of the loop's time), and where ``config.guard`` is on, what it decided (``guard``).

    Raises:
        InputError: a config, dataset or former run that does not fit, or a loss that is no longer finite.
        MachineError: no space for a checkpoint, or none that can be read.
        Preempted: SIGTERM came; the state is saved.
        KeyboardInterrupt: ctrl-C came; the state is saved.
    """
    config = check(values)
    processes.agree("config", _told(config))
    if config.guard.folds:
        if processes.count() > 1:
            raise InputError(
                f"config.guard.folds is {config.guard.folds}, and a guard runs as one process; train with it as one, or "
                "set it to 0"
            )
        values = guard.choose(values, config, Path(workdir), lambda one, run: train(one, run, quiet), quiet)
        return {**train(values, workdir, quiet), "guard": guard.told(Path(workdir))}
    quiet = quiet or processes.index() > 0
    job = Job(config, begun(Path(workdir)) if config.init_from else None, made(Path(workdir)), quiet)
    processes.agree("data", job.data())
    with contextlib.ExitStack() as held:

        def created() -> str:
            held.enter_context(folder.taken(workdir))
            return str(folder.create(workdir, resolve(values), job.recipe, job.datasheet(), resolve))

        return _trained(job, Path(processes.first(created)), quiet, show_sharding)


def _trained(job: Job, run: Path, quiet: bool, show_sharding: bool) -> dict[str, Any]:
    """Trains a job in its folder, from where that stands."""
    config = job.config
    processes.check_shared_folder(run)
    checkpoints = Checkpoints(run, config.checkpoint)
    state, start = begin(job, checkpoints)
    if not quiet:
        print(job.summary(start), file=sys.stderr, flush=True)
    if show_sharding:
        text = job.sharding(state)
        if processes.index() == 0:
            print(text, file=sys.stderr, flush=True)
    writer = MetricsWriter(run, start, patient=config.checkpoint.full_disk == "go_on")
    with contextlib.closing(checkpoints), contextlib.closing(writer):
        result = _loop(job, state, start, checkpoints, writer, quiet)
    if not quiet and result["images_per_second"]:
        print(
            f"{run}: step {result['step']}, {result['images_per_second']:,.1f} images/s, {short(job.bytes_read)}B of records "
            f"read; {result['data_wait']:.1%} of the time went on waiting for data, {result['checkpoint_wait']:.1%} on "
            "checkpoints",
            file=sys.stderr,
            flush=True,
        )
    return {"run": str(run), "resumed_from": start, **result}


def _told(config: Config) -> dict[str, Any]:
    """What all processes must have been given alike; where the data lies may differ, its content may not."""
    keys = configs.flat(configs.tree(dataclasses.asdict(config)))
    return {key: value for key, value in keys.items() if key not in ("data.path", "data.workers")}


def _loop(
    job: Job, state: Any, start: int, checkpoints: Checkpoints, writer: MetricsWriter, quiet: bool
) -> dict:
    """Steps ``start`` to the end; returns the part of ``train``'s result that the loop knows."""
    config = job.config
    metrics = LateMetrics(
        writer,
        job.engine.to_host,
        config.train.log_every,
        job.steps,
        config.train.skip_nonfinite,
        processes.first(lambda: left_out(checkpoints.run, start)),
        lambda fault: postmortem.left_out(job, fault, checkpoints.run),
    )
    waited = blocked = 0.0
    began = None
    batches = job.batches(start)
    guarded = config.parallel.transfers == "disallow"
    try:
        with (
            Bar(config.objective.name, job.steps, "steps", start, quiet) as bar,
            stop_requests() as stop,
            jax.transfer_guard("disallow") if guarded else contextlib.nullcontext(),
        ):
            for step in range(start, job.steps):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                state, values = job.update_at(step)(state, job.engine.put_batch(batch))
                metrics.later(step + 1, values)
                if began is None:  # the first step compiles; time from its end
                    metrics.now()
                    began, waited, blocked = time.perf_counter(), 0.0, 0.0
                done = step + 1
                validating = config.train.val_every and (
                    done % config.train.val_every == 0 or done == job.steps
                )
                if validating:
                    metrics.now()
                    metrics.also(done, job.validation(state))
                if config.probe.every and (done % config.probe.every == 0 or done == job.steps):
                    metrics.now()
                    found = job.health(state)
                    metrics.also(done, found)
                    _alarm(health.collapsed(found, config.probe), done, config.probe.stop)
                stopping = stop(done)
                last = done == job.steps or stopping
                if done % config.checkpoint.every == 0 or last:
                    metrics.now()  # a checkpoint is only made of a state whose loss is known to be finite
                    asked = time.perf_counter()
                    host = job.engine.to_host(state, everywhere=False)
                    # What goes on from a checkpoint does not write the rows before it again.
                    if writer.written(must=bool(last)):
                        checkpoints.save(done, host, metrics.of(done))
                    else:
                        told = (
                            f"warning: no checkpoint {done}, as rows of metrics.csv wait for room on the disk"
                        )
                        print(told, file=sys.stderr, flush=True)
                    blocked += time.perf_counter() - asked
                checkpoints.settle()
                bar.advance(1, metrics.note())
                if stopping and done < job.steps:
                    checkpoints.close()
                    raise stopping(f"stopped at step {done}, saved; the same command goes on from there")
            metrics.now()
    except NotFinite as fault:
        del state, values, batches  # the devices have no room for two states
        raise InputError(postmortem.failed(job, fault, checkpoints, quiet)) from None
    seconds = time.perf_counter() - began if began else 0.0
    images = (job.steps - start - 1) * config.train.batch_size
    return {
        "step": job.steps,
        "metrics": metrics.last or _last_of(checkpoints.run),
        "images_per_second": round(images / seconds, 2) if images > 0 else None,
        "data_wait": round(waited / seconds, 4) if images > 0 else None,
        "checkpoint_wait": round(blocked / seconds, 4) if images > 0 else None,
    }


def _last_of(run: Path) -> dict[str, float]:
    """The last value of each metric of a run that has ended, of steps that were not left out."""
    series = {name: values[np.isfinite(values)] for name, (_, values) in metrics_of(run).items()}
    return {name: float(values[-1]) for name, values in series.items() if len(values) and name != LEFT_OUT}


def _alarm(fault: str, step: int, stop: bool) -> None:
    """Says that the features have collapsed, where ``fault`` does; ends the training where that is asked for."""
    if not fault:
        return
    remedy = (
        "lower config.optim.lr, or raise config.objective.momentum where the objective has a teacher; of scans that lie "
        "alike lower config.probe.least_rank or .least_deviation"
    )
    if stop:
        raise InputError(f"{fault} at step {step}, so training stopped (config.probe.stop); {remedy}")
    print(f"warning: {fault} at step {step}; {remedy}", file=sys.stderr, flush=True)
