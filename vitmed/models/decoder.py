"""The decoder of a masked autoencoder (He et al. 2022, arXiv:2111.06377): tokens back to patches of pixels."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.linear import Linear
from vitmed.models.norms import EPSILON, norm
from vitmed.models.patches import grid
from vitmed.models.positions import sincos
from vitmed.models.transformer import Remat, Transformer


class MAEDecoder(nn.Module):
    """Predicts every patch from the encoded visible ones; ``size`` (array order) is the spatial size of the image."""

    dim: int
    depth: int
    heads: int
    size: tuple[int, ...]
    patch: tuple[int, ...]
    channels: int
    scan: bool = False
    remat: Remat = "none"
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, restore: jax.Array, places: jax.Array | None = None) -> jax.Array:
        """Tokens (B, 1 + K, D) to predictions (B, N, P), P = prod(patch) * channels, float32.

        Args:
            restore: (B, N), for each place which token stands there: below K the visible token of that number, from K
                on the mask token (the inverse of the permutation that drew the mask).
            places: (B, N) of these on the grid, whose patches need not all take part; None is all of it, in order.
        """
        tokens = Linear((self.dim,), dtype=self.dtype, name="embed")(tokens)
        blank = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.dim)).astype(self.dtype)
        cls, visible = tokens[:, :1], tokens[:, 1:]
        shown = visible.shape[1]
        placed = jnp.take_along_axis(visible, jnp.minimum(restore, shown - 1)[:, :, None], axis=1)
        placed = jnp.where((restore < shown)[:, :, None], placed, blank)
        positions = jnp.asarray(sincos(grid(self.size, self.patch), self.dim, cls=False))
        if places is not None:
            positions = positions[places]
        x = jnp.concatenate([cls, placed + positions.astype(self.dtype)], axis=1)
        x = Transformer(
            depth=self.depth,
            heads=self.heads,
            mlp_dim=4 * self.dim,
            scan=self.scan,
            remat=self.remat,
            epsilon=self.epsilon,
            dtype=self.dtype,
            name="transformer",
        )(x)
        x = norm("norm", self.epsilon)(x[:, 1:]).astype(self.dtype)
        pixels = math.prod(self.patch) * self.channels
        return Linear((pixels,), dtype=self.dtype, name="predict")(x).astype(jnp.float32)
