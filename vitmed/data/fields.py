"""Smooth random fields: a cubic B-spline over a coarse grid of control values (Rueckert et al. 1999).

A field is one small matrix product an axis, so it costs little next to what uses it, and its values never leave
the range of its control values, because the splines are positive and sum to one. As a displacement it does not
fold where every control value is below ``FOLD_FREE`` of a cell: below 1/2.48 of it the map is one to one in 3D,
below 1/2.05 in 2D (Choi and Lee 2000, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions").
"""

import jax
import jax.numpy as jnp
import numpy as np

FOLD_FREE = 0.4  # of a cell: below 1 / 2.479472335, the smaller of the two bounds


def field(keys: jax.Array, size: tuple[int, ...], cells: int, fields: int = 1) -> jax.Array:
    """One or more random fields an example, of values in [-1, 1).

    Args:
        keys: (B,) keys; each example's field follows from its own.
        size: spatial size of the field, array order.
        cells: of the coarse grid along each axis; a field bends about as often.
        fields: independent ones.

    Returns:
        (B, *size, fields) float32.
    """
    shape = (*(cells + 3,) * len(size), fields)
    control = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-1, maxval=1))(keys)
    return spread(control, size)


def spread(control: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """(B, cells + 3, ..., fields) control values to (B, *size, fields): the spline at the voxels' centres."""
    for axis, n in enumerate(size, start=1):
        cells = control.shape[axis] - 3
        # One product an example: a single one over the batch would round by the batch's size.
        spline = jnp.broadcast_to(_splines(n, cells), (len(control), n, cells + 3))
        control = mixed(control, spline, axis)
    return control


def mixed(values: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    """(B, *S, C) with ``axis`` replaced by the sums along it that the rows of ``weights`` (B, m, n) give."""
    first = jnp.moveaxis(values, axis, 1)
    flat = first.reshape(*first.shape[:2], -1)
    # Highest: weights must not be rounded to bfloat16 on a TPU.
    sums = jnp.einsum("bij,bjk->bik", weights.astype(values.dtype), flat, precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(sums.reshape(*sums.shape[:2], *first.shape[2:]), 1, axis)


def _splines(n: int, cells: int) -> np.ndarray:
    """(n, cells + 3) weights of the control values at each of ``n`` voxels; the grid reaches one cell beyond."""
    place = (np.arange(n) + 0.5) / n * cells
    away = np.abs(place[:, None] - np.arange(-1, cells + 2))
    near = 2 / 3 - away**2 + away**3 / 2
    far = (2 - away) ** 3 / 6
    return np.where(away < 1, near, np.where(away < 2, far, 0)).astype(np.float32)
