"""Where arrays live and how a step is compiled: jit over a mesh, or pmap over the devices.

``jit`` shards by a table (``rules.py``) over a mesh (``mesh.py``); ``pmap`` is data-parallel: every device holds the
state. They give the same result to float rounding. An engine is handed pure functions and knows nothing of models.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vitmed.activations import BATCH
from vitmed.errors import InputError
from vitmed.parallel import mesh as meshes
from vitmed.parallel import rules as tables
from vitmed.parallel.rules import Rules

AXIS = "data"


@dataclass(frozen=True)
class ParallelConfig:
    """Keys of ``config.parallel``.

    Attributes:
        engine: "jit" shards over a mesh of all devices and lets the compiler place the sums; "pmap" runs one
            replica a device and sums explicitly.
        mesh: size of each axis, such as "data=-1,fsdp=8,tensor=2" (``vitmed.parallel.mesh``); -1 is all that is left.
            "" is "data=-1", and "fsdp=-1" where ``rules`` shard over it.
        rules: what is sharded (``vitmed.parallel.rules``): nothing, the state over ``fsdp``, or that and the heads and
            hidden units over ``tensor``.
        accumulate: parts in which the networks take the batch, one after the other, for less memory
            (``vitmed.parallel.microbatches``): the same result to rounding, a third slower.
        remat: what the backward pass computes again to save memory: "none" keeps everything, "dots" keeps the
            outputs of products with weights, "full" keeps only each block's input.
        transfers: "disallow" ends the training at any array that travels to or from a device without being asked to.
    """

    engine: Literal["jit", "pmap"] = "jit"
    mesh: str = ""
    rules: Rules = "replicated"
    accumulate: int = 1
    remat: Literal["none", "dots", "full"] = "none"
    transfers: Literal["allow", "disallow"] = "allow"

    def __post_init__(self):
        if self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate}; 1 (off) or more parts were expected")
        if self.engine == "pmap" and (self.rules != "replicated" or self.mesh not in ("", "data=-1")):
            raise ValueError(
                f"engine is 'pmap', which shares out the batch alone, but the mesh is {self.mesh or self.rules!r}; "
                "use engine 'jit', or leave out mesh and rules"
            )


class JitEngine:
    """One program over a mesh of all devices (and all processes).

    Args:
        devices: all there are by default; others to compile for them ahead of time.
        sizes: of the mesh's axes; by default all devices are on ``data``.
        rules: what is sharded.
    """

    axis = None

    def __init__(
        self,
        devices: Sequence[jax.Device] | None = None,
        sizes: dict[str, int] | None = None,
        rules: Rules = "replicated",
    ):
        devices = jax.devices() if devices is None else devices
        self.rules, self.sizes = rules, sizes or meshes.sizes("data=-1", len(devices))
        self.mesh = meshes.make(self.sizes, devices)
        self.shard = meshes.shares(self.mesh)
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        self._batch = NamedSharding(self.mesh, PartitionSpec(BATCH))
        self._gather = jax.jit(lambda x: x, out_shardings=self._replicated)

    def shardings(self, state: Any) -> Any:
        """Where every array of a state (or of its shapes) lies: a tree like it."""
        specs = tables.specs(state, self.rules, self.sizes)
        return jax.tree.map(lambda x, spec: NamedSharding(self.mesh, spec), state, specs)

    def on_paper(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """Shapes of a state and of a global batch with their places, by which an update is compiled without either."""

        def at(x, place):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

        return jax.tree.map(at, state, self.shardings(state)), jax.tree.map(
            lambda x: at(x, self._batch), batch
        )

    def init(self, make: Callable, *args) -> Any:
        """Computes ``make(*args)`` straight into its place on the devices."""
        return jax.jit(make, out_shardings=self.shardings(jax.eval_shape(make, *args)))(*args)

    def put_state(self, state: Any) -> Any:
        """Places a state of host arrays, the same on every process."""
        return jax.tree.map(
            lambda x, place: jax.make_array_from_callback(
                np.shape(x), place, lambda index: np.asarray(x)[index]
            ),
            state,
            self.shardings(jax.eval_shape(lambda: state)),
        )

    def put_batch(self, batch: Any) -> Any:
        """Places this process's rows of the global batch on its devices."""
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(
                self._batch, x, (len(x) * self.shard[1], *x.shape[1:])
            ),
            batch,
        )

    def compile(self, update: Callable, state: Any = None) -> Callable:
        """``update(state, batch) -> (state, metrics)``, compiled; the state's memory is reused.

        Args:
            state: its shapes; they may be left out where it is not sharded.
        """
        places = self._replicated if state is None else self.shardings(state)
        return jax.jit(self._within(update), donate_argnums=0, out_shardings=(places, self._replicated))

    def compile_read(self, function: Callable) -> Callable:
        """``function(state, batch) -> metrics``, compiled; nothing is donated."""
        return jax.jit(self._within(function), out_shardings=self._replicated)

    def _within(self, function: Callable) -> Callable:
        """The function, traced where its networks see the mesh (``vitmed.activations``)."""

        @functools.wraps(function)
        def traced(*args):
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                return function(*args)

        return traced

    def to_host(self, tree: Any, everywhere: bool = True) -> Any:
        """Host copies of whole arrays; all processes must ask.

        What no process holds whole is gathered, one array at a time, so that a device has room for it.

        Args:
            everywhere: for every process; else for process 0, and the others get None for each array.
        """
        return jax.tree.map(lambda x: self._whole(x, everywhere or jax.process_index() == 0), tree)

    def _whole(self, x: Any, wanted: bool) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            if not x.is_fully_replicated:
                # Waited for where it is not wanted too, or all arrays would be gathered there at once.
                x = jax.block_until_ready(self._gather(x))
            x = x.addressable_data(0)
        return jax.device_get(x) if wanted else None


class PmapEngine:
    """One replica of the state a device; the update sums over the named axis ``data`` itself."""

    axis = AXIS

    def __init__(self):
        self._replicas = jax.local_device_count()
        self._place = jax.pmap(lambda x: x, axis_name=AXIS)(np.zeros(self._replicas)).sharding
        self.shard = jax.process_index(), jax.process_count()
        self.rules, self.sizes = "replicated", meshes.sizes("data=-1", jax.device_count())

    def init(self, make: Callable, *args) -> Any:
        """Computes ``make(*args)`` once and places a copy on every device."""
        return self.put_state(jax.device_get(jax.jit(make)(*args)))

    def put_state(self, state: Any) -> Any:
        """Places a state of host arrays, a copy on every device (a leading axis of replicas)."""
        copies = jax.tree.map(lambda x: np.broadcast_to(x, (self._replicas, *np.shape(x))), state)
        return jax.pmap(lambda x: x, axis_name=AXIS)(copies)

    def put_batch(self, batch: Any) -> Any:
        """Splits this process's rows of the global batch over its devices."""
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(
                self._place, x.reshape(self._replicas, len(x) // self._replicas, *x.shape[1:])
            ),
            batch,
        )

    def compile(self, update: Callable, state: Any = None) -> Callable:
        """``update(state, batch) -> (state, metrics)``, compiled; the state's memory is reused."""
        return jax.pmap(update, axis_name=AXIS, donate_argnums=0)

    def compile_read(self, function: Callable) -> Callable:
        """``function(state, batch) -> metrics``, compiled; nothing is donated."""
        return jax.pmap(function, axis_name=AXIS)

    def to_host(self, tree: Any, everywhere: bool = True) -> Any:
        """Host copies of the first replica, on every process."""
        return jax.tree.map(lambda x: jax.device_get(x.addressable_data(0))[0], tree)


Engine = JitEngine | PmapEngine


def engine(config: ParallelConfig, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Engine:
    """The engine that ``config.parallel`` names, checked against the batch.

    Args:
        devices: all there are by default; others to compile for them ahead of time (``jit`` alone).

    Raises:
        InputError: as ``sizes``, or a global batch that the devices cannot share evenly.
    """
    axes = sizes(config, len(devices or jax.devices()))
    made = PmapEngine() if config.engine == "pmap" else JitEngine(devices, axes, config.rules)
    check_shared(batch_size, "config.train.batch_size", made.sizes, config.accumulate)
    return made


def sizes(config: ParallelConfig, devices: int) -> dict[str, int]:
    """Of the mesh's axes, for so many devices.

    Raises:
        InputError: a mesh that does not fit the devices or that the rules do not use.
    """
    used = tables.PRESETS[config.rules]
    line = config.mesh or ("fsdp=-1" if config.rules == "fsdp" else "data=-1")
    axes = meshes.sizes(line, devices)
    for name in ("fsdp", "tensor"):
        if axes[name] > 1 and name not in used:
            better = next(rules for rules, names in tables.PRESETS.items() if name in names)
            raise InputError(
                f"config.parallel.mesh is {line!r}, but rules {config.rules!r} shard nothing over {name!r}; set "
                f"config.parallel.rules to {better!r}"
            )
    if used and not all(f"{name}=" in line for name in used):
        raise InputError(
            f"config.parallel.rules is {config.rules!r}, but the mesh {line!r} has no axis "
            f"{next(name for name in used if f'{name}=' not in line)!r}; give config.parallel.mesh, such as "
            f"'data=-1,{','.join(f'{name}=2' for name in used)}'"
        )
    return axes


def check_shared(batch_size: int, key: str, axes: dict[str, int], accumulate: int = 1) -> None:
    """Refuses a global batch that the devices of a mesh cannot share evenly; ``key`` of the config gave it.

    Raises:
        InputError: the key, and the nearest size that would do.
    """
    groups = axes["data"] * axes["fsdp"]
    unit = groups * accumulate
    if batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        who = f"{groups} devices" if axes["tensor"] == 1 else f"{groups} groups of devices"
        parts = f" in {accumulate} parts (config.parallel.accumulate)" if accumulate > 1 else ""
        raise InputError(
            f"{key} is {batch_size}, which {who} cannot share evenly{parts}; the nearest is {nearest}"
        )
