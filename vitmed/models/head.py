"""From an encoder's output to one feature vector a scan, and from that to scores."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitmed.models.norms import norm

Pool = Literal["mean", "cls", "grid"]
CELLS = 4  # along each axis of the "grid" pool


def pooled(output: jax.Array, pool: Pool = "mean", patches: tuple[int, ...] = ()) -> jax.Array:
    """Features of an encoder's tokens (B, 1 + N, D), float32.

    - "mean": (B, D), the mean over all patches. It forgets where a finding was, unless the encoder wrote it down.
    - "cls": (B, D), the class token.
    - "grid": (B, R * D), the means over the R regions of a coarse grid (at most CELLS along each axis), side by
      side: what was seen, and roughly where (the spatial pyramid of Lazebnik et al. 2006, at one level).

    What is pooled already (B, D), as a ResNet's output is, comes back as it is.

    Args:
        patches: patches along each axis, of which N is the product; needed for "grid".
    """
    if output.ndim == 2:
        return output.astype(jnp.float32)
    if pool == "cls":
        return output[:, 0].astype(jnp.float32)
    tokens = output[:, 1:].astype(jnp.float32)
    if pool == "mean":
        return tokens.mean(axis=1)
    tokens = tokens.reshape(len(tokens), *patches, -1)
    for axis, length in enumerate(patches, start=1):
        tokens = jnp.moveaxis(jnp.tensordot(_regions(length), tokens, (1, axis)), 0, axis)
    return tokens.reshape(len(tokens), -1)


def _regions(length: int) -> np.ndarray:
    """Matrix (regions, length) that averages neighbours; where the length does not divide, regions share some."""
    count = min(CELLS, length)
    place, region = np.arange(length), np.arange(count)[:, None]
    inside = (place >= region * length // count) & (place < -(-(region + 1) * length // count))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


class Head(nn.Module):
    """A linear classifier or regressor on features (B, D), in float32; with ``norm``, on normed ones.

    It starts at zero: every class equally likely, whatever the encoder says.
    """

    num_outputs: int
    norm: bool = True

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features (B, D) to scores (B, num_outputs)."""
        if self.norm:
            features = norm("norm")(features)
        return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros, name="scores")(features)
