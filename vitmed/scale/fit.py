"""``vitmed plan --fit``: the largest model that the machine here can train in the time there is.

The training stays the config's: as many steps of as many scans, the same objective. Larger encoders and finer patches
learn more, so the largest that fits memory and hours is taken; to fit memory, first more is computed again, then the
batch is taken in parts, both of which change no result. A run that is started from decides the model: where all of it
cannot be fine-tuned in time and memory, a low-rank change of it is (``config.finetune``). Memory is estimated (``vitmed.scale.footprint``), the rate is
measured here: real steps of a small model, in operations a second.
"""

import dataclasses
import itertools
import statistics
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from vitmed.errors import InputError
from vitmed.job.config import Config, check
from vitmed.models.vit import VARIANTS
from vitmed.progress import Bar
from vitmed.runs.finetune import FinetuneConfig
from vitmed.scale import surroundings
from vitmed.scale.bench import matrix_product, seconds
from vitmed.scale.drawing import draw, steps_of
from vitmed.scale.footprint import Footprint, footprint
from vitmed.scale.presets import REMATS, ROOM

LARGEST_FIRST = ("g", "h", "l", "b", "s", "ti")
TRACED = 2  # examples
STEPS, STEP_SECONDS, MOST = 3, 0.5, 64  # of the measurement: how many, how long about, examples at the most


def fit(
    values: ConfigDict,
    hours: float,
    memory: int | None = None,
    examples: int | None = None,
    rate: float | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """The largest model for this machine.

    Args:
        hours: for the whole training.
        memory: bytes there are; None is what is found here, of one device.
        rate: operations a second of all devices here; None measures it.

    Returns:
        ``memory``, ``hours`` (given), ``rate`` {"flops", "measured", "device", "devices"}, ``choice`` (settings as
        ``vitmed plan`` recommends them, with ``train.steps``), ``bytes_per_chip``, ``choice_hours``, ``reduced`` (whether
        even the smallest needs fewer steps than the config's) and ``considered`` [the same of each that was looked at].

    Raises:
        InputError: a config that cannot be drawn up, or of which not even the smallest model fits the memory.
    """
    config = check(values)
    memory = memory or device_memory()
    steps = steps_of(config, examples)
    found = _measured(config) if rate is None else {"flops": rate, "measured": False}
    considered = []
    trainings = list(_trainings(config))
    with Bar("plan --fit", len(trainings), "models", quiet=quiet) as bar:
        for training in trainings:
            one = _in_memory(training, memory, found["flops"], steps)
            considered.append(one)
            bar.advance(1)
            if one["fits"] and one["hours"] <= hours:
                break
    fitting = [one for one in considered if one["fits"]]
    if not fitting:
        what = f"no step of {config.model.variant!r}, trained whole or by LoRA"
        more = "choose smaller scans (config.data.crop) or a smaller run to start from"
        if not config.init_from:
            what = f"no step of any model at {config.data.size or config.data.crop} with patches of {config.model.patch_size} or twice that"
            more = "choose larger patches or smaller scans (config.data.crop)"
        raise InputError(f"{memory / 1e9:.1f} GB hold {what}; {more}")
    choice = min(
        fitting,
        key=lambda one: (one["hours"] > hours, fitting.index(one) if one["hours"] <= hours else one["hours"]),
    )
    reduced = choice["hours"] > hours
    if reduced:
        fewer = max(1, int(steps * hours / choice["hours"]))
        choice = {**choice, "hours": choice["hours"] * fewer / steps, "steps": fewer}
    return {
        "memory": memory,
        "hours": hours,
        "rate": {**found, "device": jax.devices()[0].device_kind, "devices": jax.device_count()},
        "choice": {**choice["settings"], "train.steps": choice["steps"]},
        "bytes_per_chip": choice["bytes_per_chip"],
        "choice_hours": round(choice["hours"], 3),
        "reduced": reduced,
        "considered": considered,
    }


def device_memory() -> int:
    """Bytes that one device here may use: the accelerator's, or the main memory that this process is allowed."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return int(stats["bytes_limit"]) if stats else surroundings.memory()


def _trainings(config: Config):
    """From the largest model on: the config's patches before larger ones of the same encoder."""
    known = config.model.variant in VARIANTS
    if config.init_from or not known:
        yield config
        if known and config.finetune.whole and config.objective.finetunes:
            yield dataclasses.replace(config, finetune=FinetuneConfig(method="lora"))
        return
    size = config.data.crop or config.data.size
    for variant, times in itertools.product(LARGEST_FIRST, (1, 2)):
        patch = tuple(times * n for n in config.model.patch_size)
        if size is None or all(n % p == 0 and n > p for n, p in zip(size, patch)):
            model = dataclasses.replace(config.model, variant=variant, patch_size=patch)
            yield dataclasses.replace(config, model=model)


def _in_memory(config: Config, memory: int, rate: float, steps: int) -> dict[str, Any]:
    """The fastest way to run this model that fits, and how long it takes."""
    devices, batch = jax.device_count(), config.train.batch_size
    share = max(1, batch // devices)
    parts = [n for n in range(1, share + 1) if share % n == 0]
    ways = (
        [(remat, 1) for remat in REMATS] + [("none", n) for n in parts[1:]] + [("full", n) for n in parts[1:]]
    )
    feet: dict[str, Footprint] = {}
    for remat, part in ways:
        way = dataclasses.replace(config.parallel, remat=remat, accumulate=part)
        made = dataclasses.replace(config, parallel=way)
        if remat not in feet:
            feet[remat] = footprint(
                dataclasses.replace(config, parallel=dataclasses.replace(way, accumulate=1)), TRACED
            )
        foot = feet[remat]
        needed = foot.memory(share, parts=part)
        if needed <= ROOM * memory:
            flops = foot.flops * batch * (4 / 3 if part > 1 else 1)
            return _told(made, True, needed, flops * steps / rate / 3600, steps)
    return _told(made, False, needed, None, steps)


def _told(config: Config, fits: bool, needed: float, hours: float | None, steps: int) -> dict[str, Any]:
    settings = {
        "model.variant": config.model.variant,
        "model.patch_size": list(config.model.patch_size),
        "parallel.remat": config.parallel.remat,
        "parallel.accumulate": config.parallel.accumulate,
        "train.batch_size": config.train.batch_size,
    }
    if config.init_from:
        settings["finetune.method"] = config.finetune.method
    return {"settings": settings, "fits": fits, "bytes_per_chip": int(needed), "hours": hours, "steps": steps}


def _measured(config: Config) -> dict[str, Any]:
    """Operations a second that real steps of a small model reach on the devices here, all of them at work."""
    product, product_flops = matrix_product(config.model.dtype)
    seconds(product)
    ceiling = product_flops / min(seconds(product) for _ in range(3)) * jax.device_count()
    model = config.model
    if model.variant in VARIANTS:
        model = dataclasses.replace(model, variant="s", scan=True)
    small = dataclasses.replace(
        config, model=model, parallel=dataclasses.replace(config.parallel, accumulate=1)
    )
    each = footprint(small, TRACED).flops
    count = jax.device_count() * max(
        1, min(MOST, round(STEP_SECONDS * ceiling / 2 / each / jax.device_count()))
    )
    drawing = draw(
        dataclasses.replace(
            small, train=dataclasses.replace(small.train, batch_size=count, steps=1, epochs=None)
        )
    )
    job = drawing.job
    state = job.engine.init(job.fresh_state, job.seed)
    batch = job.engine.put_batch(jax.tree.map(lambda x: jax.numpy.ones(x.shape, x.dtype), drawing.batch))
    took = []
    for _ in range(STEPS + 1):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(job.update(state, batch))
        took.append(time.perf_counter() - began)
    rate = each * count / statistics.median(took[1:])  # the first one compiles
    return {
        "flops": rate,
        "measured": True,
        "by": f"{STEPS} steps of variant {model.variant} with {count} scans",
    }
