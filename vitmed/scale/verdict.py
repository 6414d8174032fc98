"""What is known of a training step on some chips, and what follows from it: images a second, hours, cost."""

from dataclasses import dataclass, field
from typing import Any

from vitmed.job.config import Config
from vitmed.scale.hardware import Topology


@dataclass(frozen=True)
class Verdict:
    """Of one config on one topology; of one chip and one step where it says nothing else.

    Attributes:
        method: who says so, in a few words.
        estimate: whether by a formula rather than by the chip's compiler.
        fits: in the chip's memory.
        bytes: of memory needed, in all.
        kinds: the same by kind, {kind: bytes}; "aliased" counts against the others.
        flops: of products, with what is computed again to save memory.
        model_flops: without.
        sent: to other chips, {kind of collective: bytes}.
        cycles: by the compiler; None where it was not asked or the program does not fit.
        computing: seconds; None where it does not fit.
        travelling: seconds of collectives; None likewise.
        beside: whether collectives run beside the computation, as far as they go.
        notes: what a reader must know, a sentence each.
    """

    method: str
    estimate: bool
    fits: bool
    bytes: float
    kinds: dict[str, float]
    flops: float
    model_flops: float
    sent: dict[str, float]
    cycles: int | None
    computing: float | None
    travelling: float | None
    beside: bool
    notes: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """Of a step; None where it does not fit."""
        if self.computing is None or self.travelling is None:
            return None
        both = self.computing, self.travelling
        return max(both) if self.beside else sum(both)

    def told(self, config: Config, topology: Topology, steps: int, price: float | None) -> dict[str, Any]:
        """The verdict as ``vitmed plan`` gives it; ``price`` is of a chip for an hour."""
        chip, seconds = topology.chip, self.seconds
        hours = None if seconds is None else seconds * steps / 3600
        return {
            "topology": topology.name,
            "chips": topology.chips,
            "method": self.method,
            "estimate": self.estimate,
            "fits": self.fits,
            "memory_per_chip": int(chip.memory),
            "bytes_per_chip": int(self.bytes),
            "bytes_by_kind": {kind: int(n) for kind, n in self.kinds.items()},
            "flops_per_chip": self.flops,
            "model_flops_per_chip": self.model_flops,
            "collective_bytes_per_chip": int(sum(self.sent.values())),
            "collective_bytes_by_kind": {kind: int(n) for kind, n in self.sent.items()},
            "cycles": self.cycles,
            "seconds_per_step": _rounded(seconds),
            "compute_seconds": _rounded(self.computing),
            "collective_seconds": _rounded(self.travelling),
            "images_per_second": seconds and round(config.train.batch_size / seconds, 2),
            "mfu": seconds and round(self.model_flops / seconds / chip.peak[config.model.dtype], 4),
            "steps": steps,
            "hours": _rounded(hours),
            "cost": None if None in (hours, price) else round(hours * topology.chips * price, 2),
            "settings": settings(config),
            "notes": list(self.notes),
        }


def settings(config: Config) -> dict[str, Any]:
    """The keys of a config that decide what its step needs."""
    model, parallel = config.model, config.parallel
    return {
        "model.variant": model.variant,
        "model.patch_size": list(model.patch_size),
        "model.dtype": model.dtype,
        "train.batch_size": config.train.batch_size,
        "parallel.rules": parallel.rules,
        "parallel.mesh": parallel.mesh,
        "parallel.remat": parallel.remat,
        "parallel.accumulate": parallel.accumulate,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
