"""Convolutions in any number of dimensions, and what goes round them in the CNNs and decoders.

Group normalisation (Wu and He 2018, arXiv:1803.08494) in place of batch statistics keeps them pure functions of one
image.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def group_norm(width: int, name: str, scale=nn.initializers.ones) -> nn.GroupNorm:
    """Group normalisation of ``width`` channels in float32, four or more to a group."""
    groups = math.gcd(width, min(32, max(1, width // 4)))
    return nn.GroupNorm(num_groups=groups, dtype=jnp.float32, scale_init=scale, name=name)


class Convolution(nn.Module):
    """A convolution without bias, ``kernel`` wide along each axis, whose sides are n / stride, rounded up.

    Over a volume it is one of its planes, in each of which its neighbours are laid as further channels: the same numbers to
    rounding, some seven times as fast on a CPU, where XLA computes those over volumes, and above all their gradients,
    slowly.
    """

    width: int
    kernel: int = 3
    stride: int | tuple[int, ...] = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, C) to (B, *S / stride, width)."""
        axes = x.ndim - 2
        he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", he, (self.kernel,) * axes + (x.shape[-1], self.width), jnp.float32)
        strides = (self.stride,) * axes if isinstance(self.stride, int) else self.stride
        return _convolve(x.astype(self.dtype), kernel.astype(self.dtype), strides)


def _convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    if x.ndim <= 4:
        space = "HW"[: x.ndim - 2]
        layout = (f"N{space}C", f"{space}IO", f"N{space}C")
        return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)
    (step, *inner), length, reach = strides, x.shape[1], kernel.shape[0]
    count = -(-length // step)
    lack = max((count - 1) * step + reach - length, 0)
    padded = jnp.pad(x, [(0, 0), (lack // 2, lack - lack // 2)] + [(0, 0)] * (x.ndim - 2))
    seen = [padded[:, place : place + (count - 1) * step + 1 : step] for place in range(reach)]
    planes = jnp.concatenate(seen, axis=-1).reshape(-1, *x.shape[2:-1], reach * x.shape[-1])
    made = _convolve(planes, jnp.concatenate(list(kernel), axis=-2), tuple(inner))
    return made.reshape(-1, count, *made.shape[1:])


class TwoConvolutions(nn.Module):
    """Two 3-wide convolutions, each normed and rectified, the first with a stride: one level of a U-Net."""

    width: int
    stride: int | tuple[int, ...] = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, C) to (B, *S / stride, width)."""
        for number, stride in ((1, self.stride), (2, 1)):
            x = Convolution(self.width, 3, stride, self.dtype, name=f"conv{number}")(x)
            x = nn.relu(group_norm(self.width, f"norm{number}")(x)).astype(self.dtype)
        return x
