"""Random masks over a grid of patches, one from each example's own key (MAE, He et al. 2022, section 3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mask(NamedTuple):
    """Which patches stay visible.

    Attributes:
        keep: ``(B, K)`` indices of the visible patches.
        hide: ``(B, N-K)`` indices of the masked patches.
        restore: ``(B, N)`` place of patch n in the sequence "visible first, then masked".
    """

    keep: jax.Array
    hide: jax.Array
    restore: jax.Array


def visible_count(patches: int, mask_ratio: float) -> int:
    """Number of visible patches: at least one is seen and at least one is hidden."""
    return min(max(int(patches * (1 - mask_ratio)), 1), patches - 1)


def uniform(keys: jax.Array, patches: int, mask_ratio: float) -> Mask:
    """Every set of visible patches of the given count is equally likely.

    Args:
        keys: ``(B,)`` keys, one an example.
    """
    noise = jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)
    return from_noise(noise, mask_ratio)


def from_noise(noise: jax.Array, mask_ratio: float) -> Mask:
    """The mask that keeps the patches with the least ``noise`` ``(B, N)``."""
    shuffle = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(shuffle, axis=1)
    visible = visible_count(noise.shape[1], mask_ratio)
    return Mask(shuffle[:, :visible], shuffle[:, visible:], restore)
