"""Where a patch lies, on a grid of any number of dimensions: fixed tables that are added, and angles that turn.

Sine-cosine tables give each axis an equal share of the channels: half of them sines, half cosines, with wavelengths
rising geometrically from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, arXiv:1706.03762). In 2D the table equals the one
of MAE (arXiv:2111.06377), in which the last axis of the grid comes first.

Rotary positions (Su et al. 2021, arXiv:2104.09864) turn queries and keys instead, so that their product knows how far
apart two patches are; axial, and of coordinates from -1 to 1 over the image, as in DINOv3 (Simeoni et al. 2025,
arXiv:2508.10104): a grid of any size spans the same angles.

Both are functions of coordinates, which ``scale`` multiplies, one factor an axis: a patch that is half as long in
millimetres as those that a network was trained on lies where it lay for that network at 0.5.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Positions = Literal["sincos", "learned", "rotary"]
LONGEST = 100.0  # period of the slowest rotary pair, in half images


def sincos(cells: tuple[int, ...], dim: int, cls: bool = True, scale: tuple[float, ...] = ()) -> np.ndarray:
    """The table (N, dim), float32, for the grid ``cells`` in row-major order; with ``cls``, (1 + N, dim).

    The class token's row is zero. Where ``dim`` is not a multiple of twice the number of axes, the channels left
    over are zero. Coordinates count patches: ``scale`` is the length of one in patches of the unscaled grid, whose
    first edge stays where it is.
    """
    scale = scale or (1.0,) * len(cells)
    half = dim // (2 * len(cells))
    rates = 10000.0 ** -(np.arange(half, dtype=np.float64) / max(half, 1))
    table = np.zeros((math.prod(cells), dim))
    for place, axis in enumerate(reversed(range(len(cells)))):
        middle = (np.indices(cells)[axis].reshape(-1) + 0.5) * scale[axis] - 0.5
        angle = middle[:, None] * rates
        start = 2 * half * place
        table[:, start : start + half] = np.sin(angle)
        table[:, start + half : start + 2 * half] = np.cos(angle)
    if cls:
        table = np.concatenate([np.zeros((1, dim)), table])
    return table.astype(np.float32)


def rotary(cells: tuple[int, ...], width: int, scale: tuple[float, ...] = ()) -> np.ndarray:
    """Angles (N, width / 2), float32, of the pairs of a head's ``width`` channels on the grid ``cells``, row-major.

    Each axis, the first one first, turns an equal share of the pairs, with periods from 1 to ``LONGEST``; pairs left
    over are not turned. Coordinates are half images from the middle: ``scale`` is the length of the image in those of
    the unscaled one.

    Raises:
        ValueError: an odd width, or one too small for a pair an axis.
    """
    scale = scale or (1.0,) * len(cells)
    share = width // (2 * len(cells))
    if width % 2 or not share:
        raise ValueError(f"heads of width {width} have no pair of channels for each of {len(cells)} axes")
    periods = LONGEST ** (np.arange(share) / share)
    angles = np.zeros((math.prod(cells), width // 2))
    for axis, coordinate in enumerate(np.indices(cells).reshape(len(cells), -1)):
        centre = (2 * (coordinate + 0.5) / cells[axis] - 1) * scale[axis]
        angles[:, axis * share : (axis + 1) * share] = 2 * np.pi * centre[:, None] / periods
    return angles.astype(np.float32)


def turned(x: jax.Array, angles: jax.Array) -> jax.Array:
    """``x`` (B, T, H, d) with channel i and i + d / 2 of each head turned by ``angles`` (B or 1, T, d / 2)."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
