"""Metrics as sums that add up over devices and batches, so that a sweep gives the value of the whole set.

A mean of batches' means is not the mean of all: where labels are missing, patches do not count or a structure is in few
crops, batches count differently much, and the value would follow from how scans happen to be batched. What adds up,
trees of arrays, is kept apart from the value made of it, which must then hold for NumPy's arrays as for JAX's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Mean(NamedTuple):
    """A mean by weight.

    Attributes:
        total: the sum of all values, each times its weight.
        mass: the sum of the weights.
    """

    total: jax.Array
    mass: jax.Array

    @property
    def value(self) -> jax.Array:
        """0 where nothing counts."""
        return self.total / (self.mass + (self.mass == 0))

    @property
    def empty(self) -> jax.Array:
        """Whether nothing counts."""
        return self.mass == 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sum:
    """Values of other tallies, each times its factor, and ``plus``, added up.

    It counts as long as one of its parts does: the others are what they are of nothing.
    """

    parts: tuple[Any, ...]
    factors: tuple[float, ...] = field(metadata={"static": True})
    plus: float = field(default=0.0, metadata={"static": True})

    @property
    def value(self) -> jax.Array:
        return sum(factor * part.value for factor, part in zip(self.factors, self.parts)) + self.plus

    @property
    def empty(self) -> bool:
        return all(part.empty for part in self.parts)


def mean(values: jax.Array, weight: jax.Array, axis: str | None) -> Mean:
    """Mean of ``values`` by ``weight`` (same shape) over the global batch.

    Under pmap the sums cross the devices of ``axis``, so that padding and missing labels weigh the same as they do on
    one device.
    """
    sums = jnp.sum(values * weight), jnp.sum(weight)
    return Mean(*(sums if axis is None else jax.lax.psum(sums, axis)))


def values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric of a batch as a number."""
    return {name: getattr(metric, "value", metric) for name, metric in metrics.items()}


def by_scans(metrics: Mapping[str, Any], scans: jax.Array) -> dict[str, Any]:
    """Every metric of a batch as a tally: a number is taken for a mean over so many ``scans``."""
    return {
        name: metric if hasattr(metric, "value") else Mean(metric * scans, scans)
        for name, metric in metrics.items()
    }
