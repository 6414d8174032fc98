"""The decoder of a masked autoencoder (He et al. 2022, arXiv:2111.06377): tokens back to patches of pixels."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.linear import Linear
from vitmed.models.patches import grid
from vitmed.models.positions import sincos
from vitmed.models.transformer import EPSILON, Remat, Transformer, norm


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
    def __call__(self, tokens: jax.Array, restore: jax.Array) -> jax.Array:
        """Tokens (B, 1 + K, D) to predictions (B, N, P), P = prod(patch) * channels, float32.

        ``restore`` (B, N) says, for each place of the grid, which token stands there: below K the visible token
        of that number, from K on the mask token (the inverse of the permutation that drew the mask).
        """
        tokens = Linear((self.dim,), dtype=self.dtype, name="embed")(tokens)
        blank = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.dim)).astype(self.dtype)
        cls, visible = tokens[:, :1], tokens[:, 1:]
        hidden = jnp.broadcast_to(blank, (len(tokens), restore.shape[1] - visible.shape[1], self.dim))
        placed = permuted(jnp.concatenate([visible, hidden], axis=1), restore)
        positions = jnp.asarray(sincos(grid(self.size, self.patch), self.dim, cls=False))
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


@jax.custom_vjp
def permuted(tokens: jax.Array, order: jax.Array) -> jax.Array:
    """Tokens (B, N, D) in the order (B, N), a permutation of 0 .. N - 1 each.

    The gradient of a permutation is the inverse permutation. Derived as that of a gather it would be a scatter,
    which XLA's CPU backend does one number at a time: half the time of a small model's step.
    """
    return jnp.take_along_axis(tokens, order[:, :, None], axis=1)


def _permute(tokens, order):
    return permuted(tokens, order), order


def _permute_back(order, slope):
    return permuted(slope, jnp.argsort(order, axis=1)), None


permuted.defvjp(_permute, _permute_back)
