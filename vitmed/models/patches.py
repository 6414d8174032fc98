"""Images to patches and back, in any number of dimensions.

An image ``(B, *S, C)`` is cut into a grid of patches; a patch is flattened with its own axes first and the
channel last, and the grid is walked in row-major order. In 2D this is the order of MAE (He et al. 2022,
arXiv:2111.06377).
"""

import math

import jax
import jax.numpy as jnp

from vitmed.errors import InputError


def grid(size: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis.

    Raises:
        InputError: the patch has another number of axes than the image, or does not divide it.
    """
    if len(size) != len(patch):
        raise InputError(
            f"patch_size {tuple(patch)} has {len(patch)} axes but the scans have {len(size)} (size {tuple(size)}); "
            "give one entry an axis"
        )
    if any(p < 1 or s % p for s, p in zip(size, patch)):
        nearest = tuple(_nearest_divisor(s, p) for s, p in zip(size, patch))
        raise InputError(
            f"patch_size {tuple(patch)} does not divide the size {tuple(size)}; the nearest one that does is {nearest}"
        )
    return tuple(s // p for s, p in zip(size, patch))


def patchify(image: jax.Array, patch: tuple[int, ...]) -> jax.Array:
    """Cuts ``image`` (B, *S, C) into tokens (B, N, P), with N = prod(S / patch) and P = prod(patch) * C."""
    batch, *size, channels = image.shape
    cells = grid(tuple(size), patch)
    axes = len(patch)
    split = image.reshape(batch, *(n for pair in zip(cells, patch) for n in pair), channels)
    # (B, g1, p1, g2, p2, .., C) -> (B, g1, g2, .., p1, p2, .., C)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return split.transpose(order).reshape(batch, math.prod(cells), math.prod(patch) * channels)


def brightest(image: jax.Array, patch: tuple[int, ...], count: int) -> jax.Array | None:
    """Places (B, count) of the patches of ``image`` whose mean is highest, rising; None is all of them, for ``count`` 0.

    Of equal ones the first are taken.
    """
    if not count:
        return None
    means = patchify(image, patch).astype(jnp.float32).mean(axis=-1)
    return jnp.sort(jnp.argsort(-means, axis=1)[:, :count], axis=1)


def at(values: jax.Array, places: jax.Array | None) -> jax.Array:
    """Of ``values`` (B, N, ...) those at ``places`` (B, K), (B, K, ...); None is all of them."""
    if places is None:
        return values
    return jnp.take_along_axis(values, places.reshape(*places.shape, *(1,) * (values.ndim - 2)), axis=1)


def unpatchify(tokens: jax.Array, cells: tuple[int, ...], patch: tuple[int, ...], channels: int) -> jax.Array:
    """The exact inverse of ``patchify``: tokens (B, N, P) on the grid ``cells`` to an image (B, *S, C)."""
    batch, axes = tokens.shape[0], len(patch)
    split = tokens.reshape(batch, *cells, *patch, channels)
    order = (0, *(n for axis in range(axes) for n in (1 + axis, 1 + axes + axis)), 2 * axes + 1)
    return split.transpose(order).reshape(batch, *(g * p for g, p in zip(cells, patch)), channels)


def _nearest_divisor(size: int, patch: int) -> int:
    return min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: (abs(d - patch), d))
