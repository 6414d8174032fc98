"""Other ways to run the same training: where the state lies, what is computed again, in how many parts, how large a batch.

They are ranked by the footprint of the step and by the roofline, which take seconds; whoever can compiles the best of them.
Halving the batch changes what is learned, so it comes only where nothing else fits.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from vitmed.job.config import Config
from vitmed.parallel.engine import sizes
from vitmed.scale import roofline
from vitmed.scale.footprint import Footprint, footprint
from vitmed.scale.hardware import Topology

REMATS = ("none", "dots", "full")
PARTS = (1, 2, 4, 8)
HALVINGS = 10
ROOM = 0.9  # of the memory that a step is planned to need: the estimate knows no padding and no scratch space
SHARDS = 8  # of a state over ``fsdp`` where all chips are not needed for it: the fewer, the less is sent


def promising(config: Config, topology: Topology) -> list[Config]:
    """Presets that should fit, fastest first; at the given batch if any do, else at the largest half of it that does."""
    per_chip = max(1, config.train.batch_size // topology.chips)
    feet = {remat: footprint(_with(config, remat=remat), per_chip) for remat in REMATS}
    for halving in range(HALVINGS):
        batch = config.train.batch_size >> halving
        ranked = sorted(
            (
                (_seconds(made, feet[made.parallel.remat], topology), number, made)
                for number, made in enumerate(_presets(config, topology, batch))
                if _bytes(made, feet[made.parallel.remat], topology) <= ROOM * topology.chip.memory
            ),
        )
        if ranked:
            return [made for _, _, made in ranked if made != config]
    return []


def _presets(config: Config, topology: Topology, batch: int) -> Iterator[Config]:
    shards = [n for n in (SHARDS, topology.chips) if n <= topology.chips and topology.chips % n == 0]
    states = [("replicated", "")] + [("fsdp", f"data=-1,fsdp={n}") for n in dict.fromkeys(shards) if n > 1]
    for (rules, mesh), remat, parts in itertools.product(states, REMATS, PARTS):
        if batch % (topology.chips * parts) == 0:
            made = _with(config, rules=rules, mesh=mesh, remat=remat, accumulate=parts)
            yield dataclasses.replace(made, train=dataclasses.replace(config.train, batch_size=batch))


def _with(config: Config, **keys) -> Config:
    return dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, **keys))


def _bytes(config: Config, foot: Footprint, topology: Topology) -> float:
    axes = sizes(config.parallel, topology.chips)
    examples = config.train.batch_size / (axes["data"] * axes["fsdp"])
    return foot.memory(examples, axes["fsdp"] * axes["tensor"], config.parallel.accumulate)


def _seconds(config: Config, foot: Footprint, topology: Topology) -> float:
    """At the chip's peaks, of the batch that the footprint is of; its parts are computed forward twice."""
    axes, chip = sizes(config.parallel, topology.chips), topology.chip
    again = 4 / 3 if config.parallel.accumulate > 1 else 1
    computing = again * roofline.computing(foot, chip, config.model.dtype, axes["fsdp"])
    return computing + roofline.travelling(
        roofline.sent(foot, axes["data"], axes["fsdp"]), chip, topology.chips
    )
