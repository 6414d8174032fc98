"""Errors within a patch weighed by spatial frequency, so that fine detail counts as much as it should.

Squared error is dominated by what is smooth, because natural and medical images alike hold most of their power
there; weighing the error's spectrum instead is the idea of the focal frequency loss (Jiang et al. 2021,
arXiv:2012.12821). The spectrum is the orthonormal cosine transform (DCT-II, Ahmed et al. 1974) along each axis of
the patch, which needs no periodic edges and is one small matrix product an axis.
"""

import jax
import jax.numpy as jnp
import numpy as np


def weighted_square(error: jax.Array, patch: tuple[int, ...], strength: float) -> jax.Array:
    """Mean over a patch of the squared spectrum of its error, high frequencies weighing more.

    A coefficient at the distance r from the mean's (0 there, 1 at the highest frequency) weighs 1 + ``strength`` r^2,
    all weights divided by their mean. Without strength it is the mean squared error (Parseval).

    Args:
        error: ``(B, N, P)``, P = prod(patch) * C, as ``patchify`` orders it.

    Returns:
        ``(B, N)``.
    """
    spectrum = error.reshape(*error.shape[:2], *patch, -1)
    for axis, length in enumerate(patch, start=2):
        turned = jnp.tensordot(spectrum, cosines(length), (axis, 1), precision=jax.lax.Precision.HIGHEST)
        spectrum = jnp.moveaxis(turned, -1, axis)
    power = spectrum**2 * weights(patch, strength)[..., None]
    return power.mean(axis=tuple(range(2, power.ndim)))


def cosines(length: int) -> np.ndarray:
    """The orthonormal DCT-II as a matrix (frequency, place), float32."""
    k, x = np.arange(length)[:, None], np.arange(length)
    matrix = np.cos(np.pi * k * (x + 0.5) / length) * np.sqrt(2 / length)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def weights(patch: tuple[int, ...], strength: float) -> np.ndarray:
    """Weights (*patch) of the coefficients, of mean 1."""
    axes = [np.linspace(0, 1, length) ** 2 if length > 1 else np.zeros(1) for length in patch]
    square = sum(np.meshgrid(*axes, indexing="ij")) / len(patch)
    weight = 1 + strength * square
    return (weight / weight.mean()).astype(np.float32)
