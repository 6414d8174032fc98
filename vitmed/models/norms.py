"""Normalisation of tokens, in float32 whatever the compute dtype."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

Norm = Literal["layer", "rms"]
EPSILON = 1e-6


def norm(name: str, epsilon: float = EPSILON, kind: Norm = "layer") -> nn.Module:
    """Layer normalisation (arXiv:1607.06450), or by the root mean square alone (arXiv:1910.07467), over channels."""
    make = nn.RMSNorm if kind == "rms" else nn.LayerNorm
    return make(epsilon=epsilon, dtype=jnp.float32, name=name)
