"""Weights made for one grid, patch, dimension or number of channels, used with another.

One rule carries all: what an image is made of may be sampled otherwise, its mean must not change. A table or a patch
is taken as the means over cells of something linear within each cell, and the means over other cells are read off. So
constants stay, as do linear ramps; the mean over the grid is kept at any ratio; a grid refined is the one before when
it is coarsened again; and equal grids are left as they are, to the bit.
"""

import jax.numpy as jnp
import numpy as np


def resampling(old: int, new: int, extent: float = 1.0) -> np.ndarray:
    """The matrix (new, old) from means over ``old`` equal cells of a line to those over ``new``.

    ``extent`` is the length that the new cells cover, of the line and about its middle; beyond the line's ends what is
    resampled stays as it is at them.
    """
    slope = np.gradient(np.eye(old), axis=0) if old > 1 else np.zeros((1, 1))
    edges = np.arange(new + 1)[:, None] * old / new * extent + old * (1 - extent) / 2
    low, high = edges[:-1], edges[1:]
    start = np.maximum(low, np.arange(old))
    end = np.minimum(high, np.arange(old) + 1)
    shared = np.maximum(end - start, 0)
    away = (start + end) / 2 - (np.arange(old) + 0.5)  # of what is shared, from the middle of the old cell
    ends = np.eye(old)[[0, -1]] + np.array([[-0.5], [0.5]]) * slope[[0, -1]]
    beyond = np.maximum(np.hstack([np.minimum(high, 0) - low, high - np.maximum(low, old)]), 0)
    return (shared + (shared * away) @ slope + beyond @ ends) * new / (old * extent)


def resized(table, cells: tuple[int, ...], extent: tuple[float, ...] = ()):
    """A table (*old, ...) on a grid, on the grid ``cells``: (*cells, ...), NumPy or JAX as it came.

    ``extent`` is how much of the old grid's length the new one covers, by axis, about its middle; () is all of it.
    """
    module = jnp if not isinstance(table, np.ndarray) else np
    for axis, (new, length) in enumerate(zip(cells, extent or (1.0,) * len(cells), strict=True)):
        old = table.shape[axis]
        if old != new or length != 1:
            matrix = resampling(old, new, length).astype(table.dtype)
            table = module.moveaxis(module.tensordot(matrix, table, (1, axis)), 0, axis)
    return table


def another_patch(kernel: np.ndarray, patch: tuple[int, ...]) -> np.ndarray:
    """The embedding (*old, C, D) of patches, for patches of the size ``patch``: (*patch, C, D).

    A patch is resampled to the old size and embedded as before, both in one kernel. So a patch that shows the same in
    more pixels has the same embedding, which is what FlexiViT's PI-resize asks for (Beyer et al. 2023,
    arXiv:2212.08013, section 3.4); there the resampling is bilinear, here it keeps the mean.
    """
    for axis, new in enumerate(patch):
        old = kernel.shape[axis]
        if old != new:
            matrix = resampling(new, old).astype(kernel.dtype)
            kernel = np.moveaxis(np.tensordot(matrix, kernel, (0, axis)), 0, axis)
    return kernel


def inflated(kernel: np.ndarray, depth: int) -> np.ndarray:
    """The embedding (*patch, C, D) of slices, for ``depth`` slices at once: (depth, *patch, C, D).

    It embeds their mean, so a volume that is the same in all slices has the embedding of one (Carreira and Zisserman
    2017, "I3D", arXiv:1705.07750).
    """
    return np.repeat(kernel[None] / depth, depth, axis=0)


def other_channels(
    kernel: np.ndarray,
    bias: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels: int,
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """An embedding (*patch, C, D) and its input's normalisation, for images of another number of channels.

    Each old channel is shown the mean of the new ones. So a grey image has the embedding of the colour image that
    repeats it, and the other way round, both as they are before normalisation.

    Args:
        bias: (D,) of the embedding.
        mean, std: what the input of each old channel is normalised by.

    Returns:
        kernel (*patch, channels, D), bias, and mean and std of the new channels.
    """
    axes = tuple(range(kernel.ndim - 1))
    scale = np.asarray(std, np.float64)[:, None]
    centre, width = float(np.mean(mean)), float(np.mean(std))
    shift = ((centre - np.asarray(mean, np.float64)[:, None]) / scale * kernel).sum(axis=axes)
    seen = (kernel * width / scale).sum(axis=-2, keepdims=True) / channels
    made = np.repeat(seen, channels, axis=-2).astype(kernel.dtype)
    return made, (bias + shift).astype(bias.dtype), (centre,) * channels, (width,) * channels
