"""The U-Net (Ronneberger et al. 2015, arXiv:1505.04597) in any number of dimensions: the baseline of segmentation.

Its two halves stand apart: what contracts is an encoder like another one (``config.model.variant = "unet"``), what
expands (``Expansion``) takes maps of several sizes from whatever made them, a ViT's too. As in nnU-Net (Isensee et
al. 2021) an axis is halved for as long as LEAST voxels are left of it, so flat volumes keep their few slices; sides are
rounded up on the way down, and on the way up a map takes the size of the one it meets, so no size has to divide.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.convolution import TwoConvolutions
from vitmed.models.linear import Linear

LEAST = 4  # voxels left of an axis at the coarsest level
WIDEST = 320  # channels at most, as in nnU-Net


def strides(size: tuple[int, ...]) -> list[tuple[int, ...]]:
    """How each level below the first divides the axes of an image of ``size``: by 2, or 1 where an axis is short."""
    steps = []
    while any(n >= 2 * LEAST for n in size):
        steps.append(tuple(2 if n >= 2 * LEAST else 1 for n in size))
        size = tuple(-(-n // step) for n, step in zip(size, steps[-1]))
    return steps


def channels(width: int, level: int) -> int:
    """Channels of the maps of a level: doubled at each, to WIDEST at most or ``width`` where it is more."""
    return min(width * 2**level, max(width, WIDEST))


class UNet(nn.Module):
    """The contracting half: images (B, *S, C) to features (B, D) of the coarsest level, averaged over space, float32."""

    width: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        keep: None = None,
        keys: jax.Array | None = None,
        depths: tuple[int, ...] = (),
    ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        """Takes the arguments of a ViT; it has no patches to leave out (``keep``) and drops nothing (``keys``).

        With ``depths``, numbers of levels from 0 at full resolution, their maps (B, *S_level, channels) come along.
        """
        if keep is not None:
            raise ValueError("a U-Net sees the whole image; it takes no visible patches")
        maps = []
        x = image
        for level, step in enumerate([1, *strides(image.shape[1:-1])]):
            x = TwoConvolutions(channels(self.width, level), step, self.dtype, name=f"level{level}")(x)
            maps.append(x)
        pooled = x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32)
        return (pooled, [maps[level] for level in depths]) if depths else pooled


class Expansion(nn.Module):
    """The expanding half: maps of several sizes, the finest first, to scores at the finest, float32.

    Each step brings what is there to the next map's channels and size (linearly), lays the two side by side and convolves.
    """

    width: int
    outputs: int
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        """Maps (B, *S_level, C_level) to (B, *S_0, outputs)."""
        block = nn.remat(TwoConvolutions) if self.remat else TwoConvolutions
        x = maps[-1]
        for level in reversed(range(len(maps) - 1)):
            beside, width = maps[level], channels(self.width, level)
            x = Linear((width,), dtype=self.dtype, name=f"narrow{level}")(x)
            x = jax.image.resize(x, (*beside.shape[:-1], x.shape[-1]), "linear")
            x = jnp.concatenate([x.astype(self.dtype), beside.astype(self.dtype)], axis=-1)
            x = block(width, dtype=self.dtype, name=f"level{level}")(x)
        return nn.Dense(self.outputs, name="scores")(x.astype(jnp.float32))
