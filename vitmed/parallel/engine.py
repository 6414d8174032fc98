"""Where arrays live and how a step is compiled: jit over a mesh, or pmap over the devices.

Both are data-parallel here: every device holds the state, each sees its slice of the global batch. They give
the same result to float rounding. An engine is handed pure functions and knows nothing of models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vitmed.errors import InputError

AXIS = "data"


@dataclass(frozen=True)
class ParallelConfig:
    """Keys of ``config.parallel``.

    Attributes:
        engine: "jit" shards the batch over a mesh of all devices and lets the compiler place the sums;
            "pmap" runs one replica a device and sums explicitly.
        remat: what the backward pass computes again to save memory: "none" keeps everything, "dots" keeps the
            outputs of products with weights, "full" keeps only each block's input.
    """

    engine: Literal["jit", "pmap"] = "jit"
    remat: Literal["none", "dots", "full"] = "none"


class JitEngine:
    """One program over a mesh of all devices (and all processes)."""

    axis = None

    def __init__(self):
        self.mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        self._batch = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def init(self, make: Callable, *args) -> Any:
        """Computes ``make(*args)`` straight into its place on the devices."""
        return jax.jit(make, out_shardings=self._replicated)(*args)

    def put_state(self, state: Any) -> Any:
        """Places a state of host arrays, a copy on every device."""
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(
                np.shape(x), self._replicated, lambda index: np.asarray(x)[index]
            ),
            state,
        )

    def put_batch(self, batch: Any) -> Any:
        """Places this process's rows of the global batch on its devices."""
        return jax.tree.map(partial(jax.make_array_from_process_local_data, self._batch), batch)

    def compile(self, update: Callable) -> Callable:
        """``update(state, batch) -> (state, metrics)``, compiled; the state's memory is reused."""
        return jax.jit(update, donate_argnums=0, out_shardings=(self._replicated, self._replicated))

    def compile_read(self, function: Callable) -> Callable:
        """``function(state, batch) -> metrics``, compiled; nothing is donated."""
        return jax.jit(function, out_shardings=self._replicated)

    def to_host(self, tree: Any) -> Any:
        """Host copies of replicated arrays."""
        return jax.device_get(tree)


class PmapEngine:
    """One replica of the state a device; the update sums over the named axis ``data`` itself."""

    axis = AXIS

    def __init__(self):
        self._replicas = jax.local_device_count()

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
            lambda x: x.reshape(self._replicas, len(x) // self._replicas, *x.shape[1:]), batch
        )

    def compile(self, update: Callable) -> Callable:
        """``update(state, batch) -> (state, metrics)``, compiled; the state's memory is reused."""
        return jax.pmap(update, axis_name=AXIS, donate_argnums=0)

    def compile_read(self, function: Callable) -> Callable:
        """``function(state, batch) -> metrics``, compiled; nothing is donated."""
        return jax.pmap(function, axis_name=AXIS)

    def to_host(self, tree: Any) -> Any:
        """Host copies of the first replica."""
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0))[0], tree)


def engine(config: ParallelConfig, batch_size: int) -> JitEngine | PmapEngine:
    """The engine that ``config.parallel`` names, checked against the batch.

    Raises:
        InputError: a global batch that the devices cannot share evenly.
    """
    check_shared(batch_size, "config.train.batch_size")
    return PmapEngine() if config.engine == "pmap" else JitEngine()


def check_shared(batch_size: int, key: str) -> None:
    """Refuses a global batch that the devices cannot share evenly; ``key`` of the config gave it.

    Raises:
        InputError: the key, and the nearest size that would do.
    """
    devices = jax.device_count()
    if batch_size % devices:
        nearest = max(devices, round(batch_size / devices) * devices)
        raise InputError(
            f"{key} is {batch_size}, which {devices} devices cannot share evenly; the nearest is {nearest}"
        )
