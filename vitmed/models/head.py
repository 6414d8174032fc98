"""From an encoder's output to one feature vector a scan, and from that to scores."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.transformer import norm

Pool = Literal["mean", "cls"]


def pooled(output: jax.Array, pool: Pool = "mean") -> jax.Array:
    """Features (B, D), float32: of tokens (B, 1 + N, D) the mean over patches or the class token.

    What is pooled already (B, D), as a ResNet's output is, comes back as it is.
    """
    if output.ndim == 3:
        output = output[:, 1:].mean(axis=1, dtype=jnp.float32) if pool == "mean" else output[:, 0]
    return output.astype(jnp.float32)


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
