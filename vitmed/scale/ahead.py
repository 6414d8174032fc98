"""The real TPU compiler, asked ahead of time: whether a training step fits a slice that is not here, and what it costs.

``libtpu`` holds the compiler for every generation of TPU and runs it on any CPU. What it answers is of the program that
a slice would run: bytes of its buffers, its own estimate of cycles, and the collectives it put in.
"""

import importlib.util
import os
import re
from dataclasses import dataclass

from vitmed.errors import InputError, MachineError
from vitmed.parallel import hlo
from vitmed.scale.hardware import Topology

EXTRA = "compiling for a TPU needs libtpu, not installed here; install the extra: pip install 'vitmed[plan]'"
# The compiler looks for a TPU's own machine, and says at length that there is none.
QUIET = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def prepare() -> None:
    """Sets the environment that the compiler wants; before JAX is imported.

    Raises:
        InputError: the extra is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(EXTRA)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program, for one chip and one step.

    Attributes:
        fits: whether it lies within the chip's memory.
        bytes: {"arguments", "outputs", "temporaries", "program", "aliased"}, the last what outputs and arguments share;
            where it does not fit, {"needed"} alone, which is all that is said then.
        program: cycles and collectives, or None where it does not fit.
    """

    fits: bool
    bytes: dict[str, int]
    program: hlo.Program | None

    @property
    def total(self) -> int:
        """Bytes of memory that a chip needs."""
        return sum(n for kind, n in self.bytes.items() if kind != "aliased") - self.bytes.get("aliased", 0)


def devices(topology: Topology) -> list:
    """The devices of a slice that is not here, to compile for.

    Raises:
        MachineError: this libtpu does not know the slice.
    """
    import jax
    from jax.experimental import topologies

    # A host has four chips of most kinds, and of a slice of less than that all of them.
    less = {"chips_per_host_bounds": [*topology.sides, 1, 1][:3]} if topology.chips < 4 else {}
    try:
        found = topologies.get_topology_desc(topology.name, platform="tpu", **less).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        if "lockfile" in first:  # it is one program's at a time
            raise MachineError(
                "libtpu is in use by another program on this machine; wait for it, or remove /tmp/libtpu_lockfile if "
                "none runs"
            ) from None
        raise MachineError(
            f"libtpu does not compile for {topology.name}: {first}; update the extra (pip install -U 'vitmed[plan]')"
        ) from None
    return list(found)


def compile_for(drawing, chips: int) -> Compiled:
    """Compiles the update of a ``vitmed.scale.drawing.Drawing`` for its engine's devices. Takes minutes."""
    import jax

    try:
        compiled = drawing.job.update.lower(drawing.state, drawing.batch).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return Compiled(False, {"needed": needed}, None)
    memory = compiled.memory_analysis()
    kinds = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
    }
    return Compiled(True, kinds, hlo.read(compiled.as_text(), chips))


def needed_bytes(message: str) -> int | None:
    """Bytes that a program would need, from the compiler's refusal; None where it refuses for another reason."""
    size = r"([\d.]+)([KMGT]?)i?B?"
    # The second form is said of temporaries alone, by what is so large that nothing was laid out.
    found = re.search(rf"Used {size} of {size} hbm|HLO temporaries \({size}\) exceeds", message)
    if found is None or "RESOURCE_EXHAUSTED" not in message:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[5], found[6])
    return int(float(number) * _UNITS[unit])
