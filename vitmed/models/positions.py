"""Fixed sine-cosine position embeddings on a grid of any number of dimensions.

Each axis gets an equal share of the channels: half of them sines, half cosines, with wavelengths rising
geometrically from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, arXiv:1706.03762). In 2D the table equals the one
of MAE (arXiv:2111.06377), in which the last axis of the grid comes first.
"""

import math

import numpy as np


def sincos(cells: tuple[int, ...], dim: int, cls: bool = True) -> np.ndarray:
    """The table (N, dim), float32, for the grid ``cells`` in row-major order; with ``cls``, (1 + N, dim).

    The class token's row is zero. Where ``dim`` is not a multiple of twice the number of axes, the channels left
    over are zero.
    """
    half = dim // (2 * len(cells))
    rates = 10000.0 ** -(np.arange(half, dtype=np.float64) / max(half, 1))
    table = np.zeros((math.prod(cells), dim))
    for place, coordinate in enumerate(reversed(np.indices(cells).reshape(len(cells), -1))):
        angle = coordinate[:, None] * rates
        start = 2 * half * place
        table[:, start : start + half] = np.sin(angle)
        table[:, start + half : start + 2 * half] = np.cos(angle)
    if cls:
        table = np.concatenate([np.zeros((1, dim)), table])
    return table.astype(np.float32)
