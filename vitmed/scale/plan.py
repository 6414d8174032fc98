"""``vitmed plan``: what a training needs of hardware that is not here, before anybody pays for it."""

import dataclasses
import time
from typing import Any

from ml_collections import ConfigDict

from vitmed.errors import InputError
from vitmed.job.config import Config, check
from vitmed.models.vit import VARIANTS
from vitmed.parallel.engine import check_shared, sizes
from vitmed.progress import Bar
from vitmed.scale import ahead, presets, roofline
from vitmed.scale.drawing import draw, steps_of
from vitmed.scale.footprint import Footprint, footprint
from vitmed.scale.hardware import Topology
from vitmed.scale.verdict import Verdict

COMPILES = 3  # presets that are compiled at the most: each takes minutes
PATIENCE = 600  # seconds after which no further one is begun
SCANNED = (
    "planned with config.model.scan=True, which compiles in the time of one layer and takes somewhat more memory and time "
    "than the unrolled layers of the config; --as-is compiles those"
)


def plan(
    values: ConfigDict,
    topology: Topology,
    price: float | None = None,
    examples: int | None = None,
    search: bool = False,
    as_is: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """What a training by ``values`` needs of ``topology``.

    Layers that the config unrolls are scanned, which a compiler takes in the time of one; it copies more than the unrolled.

    Args:
        values: as ``vitmed.config.load`` returns it.
        price: of one chip for an hour, in any currency.
        examples: scans that are trained on, for a config that counts epochs.
        search: also try presets of sharding, rematerialisation and batch; done anyway where the config does not fit.
        as_is: compile unrolled layers as they are.

    Returns:
        As ``Verdict.told``, and ``tried`` [the same of each preset] and ``recommended`` (``settings``, or None where
        nothing better was found).

    Raises:
        InputError: a config that cannot be drawn up (``vitmed.scale.drawing``) or does not fit the topology's chips.
        MachineError: the compiler here does not know the topology.
    """
    config, notes = check(values), ()
    if topology.chip.compiled_for and config.model.variant in VARIANTS and not (config.model.scan or as_is):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, scan=True))
        notes = (SCANNED,)
    steps = steps_of(config, examples)
    began = time.monotonic()
    with Bar(f"plan for {topology.name}", 1 + COMPILES * search, "programs", quiet=quiet) as bar:

        def judged(one: Config) -> dict:
            verdict = judge(one, topology)
            made = dataclasses.replace(verdict, notes=verdict.notes + notes).told(one, topology, steps, price)
            bar.advance(1)
            return made

        result, tried = judged(config), []
        if search or not result["fits"]:
            others = presets.promising(config, topology)[:COMPILES]
            bar.expect(1 + len(others))
            for changed in others:
                if tried and time.monotonic() - began > PATIENCE:
                    break
                tried.append(judged(changed))
                if tried[-1]["fits"] and not search:
                    break
    fitting = [one for one in (result, *tried) if one["fits"]]
    best = max(fitting, key=lambda one: one["images_per_second"], default=result)
    return {**result, "tried": tried, "recommended": None if best is result else best["settings"]}


def judge(config: Config, topology: Topology) -> Verdict:
    """One config on one topology: by the chip's compiler where there is one, else by the roofline."""
    axes = sizes(config.parallel, topology.chips)
    check_shared(config.train.batch_size, "config.train.batch_size", axes, config.parallel.accumulate)
    share = config.train.batch_size / topology.chips
    foot = footprint(config, max(1, round(share)))
    plain = dataclasses.replace(
        config, parallel=dataclasses.replace(config.parallel, remat="none", accumulate=1)
    )
    flops = foot.flops * share
    model_flops = (
        flops if plain.parallel == config.parallel else footprint(plain, foot.examples).flops * share
    )
    by = _by_compiler if topology.chip.compiled_for else _by_formula
    return by(config, topology, foot, axes, flops, model_flops)


def _by_compiler(config, topology: Topology, foot, axes, flops: float, model_flops: float) -> Verdict:
    compiled = ahead.compile_for(draw(config, ahead.devices(topology)), topology.chips)
    program = compiled.program
    sent = dict(program.sent) if program else {}
    notes = ()
    if program and program.unknown_loops:
        notes = (f"{program.unknown_loops} loops of unknown length were counted once, so cycles are too few",)
    return Verdict(
        method="compiled by libtpu: its bytes and cycles; collectives over the stated links, one after the other",
        estimate=False,
        fits=compiled.fits,
        bytes=compiled.total,
        kinds=compiled.bytes,
        flops=flops,
        model_flops=model_flops,
        sent=sent,
        cycles=program.cycles if program else None,
        computing=program.cycles / topology.chip.clock if program else None,
        travelling=roofline.travelling(sent, topology.chip, topology.chips) if program else None,
        beside=False,
        notes=notes,
    )


def _by_formula(
    config, topology: Topology, foot: Footprint, axes, flops: float, model_flops: float
) -> Verdict:
    parallel, chip, shards = config.parallel, topology.chip, axes["fsdp"] * axes["tensor"]
    examples = config.train.batch_size / (axes["data"] * axes["fsdp"])
    if axes["tensor"] > 1:
        raise InputError(
            f"config.parallel.mesh is {parallel.mesh!r}, but the roofline knows no tensor parallelism; plan for a TPU, or "
            "without it"
        )
    kinds = {
        "state": foot.state / shards,
        "gradients": foot.gradients / shards,
        "gathered": foot.parameters if shards > 1 else 0,
        "kept": foot.fixed + (foot.kept + foot.again) * examples / parallel.accumulate,
        "batch": foot.fed * examples,
    }
    sent = roofline.sent(foot, axes["data"], axes["fsdp"])
    fits = sum(kinds.values()) <= presets.ROOM * chip.memory
    return Verdict(
        method="an estimate: a roofline at the stated peaks, with collectives beside it; no run is faster",
        estimate=True,
        fits=fits,
        bytes=sum(kinds.values()),
        kinds=kinds,
        flops=flops,
        model_flops=model_flops,
        sent=sent,
        cycles=None,
        computing=roofline.computing(foot, chip, config.model.dtype, shards) if fits else None,
        travelling=roofline.travelling(sent, chip, topology.chips) if fits else None,
        beside=True,
    )
