"""The projection head of DINO (Caron et al. 2021, arXiv:2104.14294): features to scores of prototypes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.linear import Linear, xavier
from vitmed.models.transformer import gelu

LEAST = 1e-12  # length of a feature that is divided by no less


class Projector(nn.Module):
    """A perceptron of three layers, then the cosine with each of ``prototypes`` learned directions."""

    hidden: int
    bottleneck: int
    prototypes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., D) to (..., prototypes), float32, each in [-1, 1]."""
        x = gelu(Linear((self.hidden,), dtype=self.dtype, name="mlp1")(x))
        x = gelu(Linear((self.hidden,), dtype=self.dtype, name="mlp2")(x))
        x = Linear((self.bottleneck,), dtype=self.dtype, name="mlp3")(x)
        directions = self.param("prototypes", xavier, (self.bottleneck, self.prototypes), jnp.float32)
        return unit(x.astype(jnp.float32)) @ unit(directions, axis=0)


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """``x`` scaled to length 1 along ``axis``."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=axis, keepdims=True), LEAST**2))
