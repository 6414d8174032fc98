"""The predictor of I-JEPA (Assran et al. 2023, arXiv:2301.08243): features of blocks that the context does not show."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.linear import Linear
from vitmed.models.norms import EPSILON, norm
from vitmed.models.positions import sincos
from vitmed.models.transformer import Remat, Transformer


class Predictor(nn.Module):
    """A narrow transformer from the context's tokens to features of width ``out`` elsewhere on the grid ``cells``."""

    dim: int
    depth: int
    heads: int
    cells: tuple[int, ...]
    out: int
    scan: bool = False
    remat: Remat = "none"
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, context: jax.Array, targets: jax.Array) -> jax.Array:
        """Predicts each block on its own, from the context and a mask token at each of the block's places.

        Args:
            tokens: (B, K, D) of the context's patches.
            context: (B, K) their places on the grid.
            targets: (B, M, T) the places of M blocks.

        Returns:
            (B, M, T, out) float32.
        """
        batch, blocks, count = targets.shape
        positions = jnp.asarray(sincos(self.cells, self.dim, cls=False)).astype(self.dtype)
        tokens = Linear((self.dim,), dtype=self.dtype, name="embed")(tokens) + positions[context]
        blank = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.dim)).astype(self.dtype)
        asked = blank + positions[targets]
        seen = jnp.broadcast_to(tokens[:, None], (batch, blocks, *tokens.shape[1:]))
        x = jnp.concatenate([seen, asked], axis=2).reshape(batch * blocks, -1, self.dim)
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
        x = norm("norm", self.epsilon)(x[:, -count:]).astype(self.dtype)
        x = Linear((self.out,), dtype=self.dtype, name="predict")(x).astype(jnp.float32)
        return x.reshape(batch, blocks, count, self.out)
