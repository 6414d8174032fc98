"""Which process this is, of how many, and where they meet: from the environment that a launcher made.

``launch/local.sh`` and the launchers beside it set ``VITMED_PROCESSES``, ``VITMED_PROCESS`` and
``JAX_COORDINATOR_ADDRESS`` (HOST:PORT at which process 0 can be reached). A step of Slurm (``srun``) says the same by
variables of its own. Without either a process is alone.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from vitmed.errors import InputError

PORTS = 20000, 10000  # the first port that a Slurm step may meet at, and how many


class Place(NamedTuple):
    """This process among all.

    Attributes:
        index: from 0.
        count: of processes.
        address: (host, port) at which process 0 is met.
        devices: of the accelerators that this process sees, those that are its own; None is all.
    """

    index: int
    count: int
    address: tuple[str, int]
    devices: tuple[int, ...] | None = None


def place(environment: Mapping[str, str]) -> Place | None:
    """Where this process stands; None where it is alone.

    Raises:
        InputError: variables that make no sense together.
    """
    if environment.get("VITMED_PROCESSES"):
        count, index = (_number(environment, name) for name in ("VITMED_PROCESSES", "VITMED_PROCESS"))
        if not 0 <= index < count:
            raise InputError(
                f"VITMED_PROCESS is {index}, but VITMED_PROCESSES is {count}; number them from 0 to {count - 1}"
            )
        text = environment.get("JAX_COORDINATOR_ADDRESS", "")
        host, _, port = text.rpartition(":")
        if count > 1 and not (host and port.isdigit()):
            raise InputError(
                f"JAX_COORDINATOR_ADDRESS is {text!r}; give every process the HOST:PORT at which process 0 can be reached"
            )
        return Place(index, count, (host.strip("[]"), int(port))) if count > 1 else None
    # Only srun sets the count of a step: a shell of salloc or a batch script by itself is one process.
    if environment.get("SLURM_STEP_NUM_TASKS", "1") == "1" or "SLURM_PROCID" not in environment:
        return None
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_ID")
    count, index, job, step = (_number(environment, name) for name in names)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    first, many = PORTS
    port = first + (job * 64 + step) % many
    return Place(index, count, (first_host(nodes), port), _own_gpus(environment))


def first_host(nodes: str) -> str:
    """The first of the hosts that Slurm writes as ``"gpu[003-007,9]-ib,other"``: ``"gpu003-ib"``.

    Raises:
        InputError: there is none.
    """
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    if not found:
        raise InputError(f"SLURM_STEP_NODELIST is {nodes!r}, in which no host is named; start vitmed by srun")
    return "".join(part or "" for part in found.groups())


def _own_gpus(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Slurm shows a task its own GPUs where they were asked for by task, and otherwise all of the node's to each."""
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    tasks = int(re.match(r"\d*", environment.get("SLURM_STEP_TASKS_PER_NODE", "")).group() or 1)
    local = int(environment.get("SLURM_LOCALID", 0))
    if environment.get("SLURM_GPUS_PER_TASK") or tasks == 1 or not visible or len(visible) % tasks:
        return None
    each = len(visible) // tasks
    return tuple(range(local * each, (local + 1) * each))


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise InputError(f"{name} is {text!r}; a whole number was expected")
    return int(text)
