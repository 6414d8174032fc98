"""Convolutions in any number of dimensions, and what goes round them in the CNNs and decoders.

Group normalisation (Wu and He 2018, arXiv:1803.08494) in place of batch statistics keeps them pure functions of one
image.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def conv(width: int, kernel: int, stride: int | tuple[int, ...], axes: int, dtype: Any, name: str) -> nn.Conv:
    """A convolution without bias over ``axes`` spatial axes, ``kernel`` wide along each; sides are n / stride, rounded up."""
    he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    strides = (stride,) * axes if isinstance(stride, int) else stride
    return nn.Conv(
        width,
        (kernel,) * axes,
        strides,
        padding="SAME",
        use_bias=False,
        dtype=dtype,
        kernel_init=he,
        name=name,
    )


def group_norm(width: int, name: str, scale=nn.initializers.ones) -> nn.GroupNorm:
    """Group normalisation of ``width`` channels in float32, four or more to a group."""
    groups = math.gcd(width, min(32, max(1, width // 4)))
    return nn.GroupNorm(num_groups=groups, dtype=jnp.float32, scale_init=scale, name=name)


class TwoConvolutions(nn.Module):
    """Two 3-wide convolutions, each normed and rectified, the first with a stride: one level of a U-Net."""

    width: int
    stride: int | tuple[int, ...] = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, C) to (B, *S / stride, width)."""
        for number, stride in ((1, self.stride), (2, 1)):
            x = conv(self.width, 3, stride, x.ndim - 2, self.dtype, f"conv{number}")(x)
            x = nn.relu(group_norm(self.width, f"norm{number}")(x)).astype(self.dtype)
        return x
