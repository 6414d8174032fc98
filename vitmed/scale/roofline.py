"""How fast a step could be at a chip's stated peaks: an estimate where there is no compiler to ask, and a bound.

Each matrix product takes the longer of its operations at peak and of its operands and result through the memory
(Williams et al. 2009, "Roofline"); everything else is taken to be fused into them, the optimiser reads and writes its
state once, and collectives run beside all that. Real steps are slower, often by half.
"""

from vitmed.scale.footprint import Footprint
from vitmed.scale.hardware import Chip


def computing(foot: Footprint, chip: Chip, dtype: str, shards: int = 1) -> float:
    """Seconds of one chip that has the footprint's examples and 1/``shards`` of the state, without collectives."""
    peak, through = chip.peak[dtype], chip.bandwidth
    done = sum(one.times * max(one.flops / peak, one.bytes / through) for one in foot.products)
    return done + 2 * (foot.state + foot.gradients) / shards / through


def sent(foot: Footprint, data: int, fsdp: int) -> dict[str, float]:
    """Bytes that one chip sends in a step, by kind: the gradients' sum, and the state's parts gathered and handed back.

    Parameters are gathered for the forward and for the backward pass, in float32.
    """
    made = {}
    if fsdp > 1:
        part = (fsdp - 1) / fsdp
        made |= {"all-gather": 2 * foot.parameters * part, "reduce-scatter": foot.gradients * part}
    if data > 1:
        made["all-reduce"] = 2 * foot.gradients / fsdp * (data - 1) / data
    return made


def travelling(sent: dict[str, float], chip: Chip, chips: int) -> float:
    """Seconds that the collectives take over the stated links, with all links in use both ways.

    Where a job is larger than a node, what leaves it is a node's share, and every chip of it has a port.
    """
    total = sum(sent.values())
    within = total / (chip.links / 2)
    if not chip.node or chips <= chip.node:
        return within
    return within + total / chip.node / chip.network
