"""Chips that can be planned for: their memory and peaks as their makers state them, and what a topology's name means.

TPU: https://docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e, of each "Peak compute per chip (bf16)", "HBM
capacity" and "bandwidth", "Inter-chip interconnect (ICI) bandwidth" over all links and both directions; v4's
interconnect is that of Jouppi et al. 2023 (arXiv:2304.01433, table 4: 6 links of 50 GB/s each way). Where a page states
GB it is the 2**30 bytes that the compiler allots.

GPU: NVIDIA's data sheets of the A100 80GB SXM, H100 SXM and H200 SXM, dense (their figures "with sparsity" halved),
NVLink over both directions; between nodes one port a GPU, as in the DGX of that generation: 200 and 400 Gbit/s.
"""

import math
import re
from dataclasses import dataclass

from vitmed.errors import InputError

GB, GiB, TFLOPS = 1e9, 2**30, 1e12


@dataclass(frozen=True)
class Chip:
    """One chip, per second where it is a rate.

    Attributes:
        memory: bytes.
        peak: {dtype of the products: FLOPs}. A TPU multiplies float32 as bfloat16 where nothing else is asked, as
            nothing is here; a GPU as TF32.
        bandwidth: bytes to and from its memory.
        links: bytes over all its links to others, both directions together.
        network: bytes out of its node, one direction, where the node is smaller than the job; 0: all are linked.
        node: chips that its links reach; 0 is all of them.
        clock: of its tensor core, in Hz, from the peak and the size of the matrix units; 0 where no cycles are counted.
        shapes: of the slices that are sold, as the name of a topology ends.
    """

    name: str
    memory: float
    peak: dict[str, float]
    bandwidth: float
    links: float
    network: float = 0.0
    node: int = 0
    clock: float = 0.0
    shapes: tuple[str, ...] = ()

    @property
    def compiled_for(self) -> bool:
        """Whether the compiler for it is here without the chip: a TPU's is."""
        return bool(self.shapes)


def _tpu(name, memory, peak, bandwidth, links, products, shapes):
    """``products``: multiply-adds a chip's matrix units do in a cycle."""
    peaks = dict.fromkeys(("bfloat16", "float32"), peak * TFLOPS)
    clock = peak * TFLOPS / (2 * products)
    return Chip(
        name, memory * GiB, peaks, bandwidth * GB, links * GB, clock=clock, shapes=tuple(shapes.split())
    )


def _gpu(name, memory, bfloat16, tf32, bandwidth, links, network):
    peaks = {"bfloat16": bfloat16 * TFLOPS, "float32": tf32 * TFLOPS}
    return Chip(name, memory * GB, peaks, bandwidth * GB, links * GB, network * GB, node=8)


_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBE = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16"

CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", 32, 275, 1200, 600, 2 * 4 * 128**2, _CUBE),
        _tpu("v5e", 16, 197, 819, 400, 4 * 128**2, _FLAT),
        _tpu("v5p", 95, 459, 2765, 1200, 2 * 4 * 128**2, _CUBE),
        _tpu("v6e", 32, 918, 1600, 800, 4 * 256**2, _FLAT),
        _gpu("a100", 80, 312, 156, 2039, 600, 25),
        _gpu("h100", 80, 989.4, 494.7, 3350, 900, 50),
        _gpu("h200", 141, 989.4, 494.7, 4800, 900, 50),
    )
}


@dataclass(frozen=True)
class Topology:
    """Chips and how they are joined: ``v5e:16x16``, ``h100:64``."""

    name: str
    chip: Chip
    chips: int

    @classmethod
    def of(cls, name: str) -> "Topology":
        """The topology of this name.

        Raises:
            InputError: no such one, with those that are known.
        """
        kind, _, shape = name.strip().lower().partition(":")
        chip = CHIPS.get(kind)
        if chip is None:
            raise InputError(f"--topology {name!r} is not known; known: {known()}")
        if chip.shapes and shape not in chip.shapes:
            raise InputError(
                f"--topology {name!r} is not a slice of {kind}; known: {kind}:{', '.join(chip.shapes)}"
            )
        if not chip.shapes and not re.fullmatch("[1-9][0-9]{0,5}", shape):
            raise InputError(f"--topology {name!r}: {kind} takes the number of GPUs, such as {kind}:8")
        return cls(f"{kind}:{shape}", chip, math.prod(map(int, shape.split("x"))))

    @property
    def sides(self) -> tuple[int, ...]:
        """Chips along each axis of a slice; of GPUs their number."""
        return tuple(map(int, self.name.partition(":")[2].split("x")))


def known() -> str:
    """Every kind of chip with its slices, for messages."""
    return "; ".join(
        f"{name}:{', '.join(chip.shapes)}" if chip.shapes else f"{name}:N (GPUs)"
        for name, chip in CHIPS.items()
    )
