"""What is computed over the whole global batch, the same under jit over a mesh and under pmap.

Under jit the arrays are global and nothing needs to be said. Under pmap each device holds its rows: sums and
maxima cross the devices of ``axis``, and where every row meets every other the rows are gathered.
"""

import jax
import jax.numpy as jnp

from vitmed.models.projector import unit
from vitmed.objectives.interface import weighted_mean

_NEAR = 1e-8  # added to squared distances: two equal features pull apart with a finite force
_TINY = 1e-30


def sinkhorn(
    scores: jax.Array, weight: jax.Array, temperature: jax.Array | float, axis: str | None, rounds: int = 3
) -> jax.Array:
    """Assignments of rows to prototypes, in which every prototype gets the same share of the batch.

    Sinkhorn and Knopp's iteration (Cuturi 2013; SwAV, Caron et al. 2020, arXiv:2006.09882; as DINOv2 uses it in place
    of centring), in logarithms.

    Args:
        scores: (R, K).
        weight: (R,) how much each row counts in the prototypes' shares, 0 for padding.
        temperature: by which scores are divided.

    Returns:
        (R, K), each row summing to 1.
    """
    logs = scores / temperature
    counts = (weight > 0)[:, None]
    for _ in range(rounds):
        highest = jnp.max(jnp.where(counts, logs, -jnp.inf), axis=0)
        highest = highest if axis is None else jax.lax.pmax(highest, axis)
        highest = jnp.where(jnp.isfinite(highest), highest, 0.0)  # no row counts at all
        total = jnp.sum(jnp.where(counts, jnp.exp(logs - highest), 0.0) * weight[:, None], axis=0)
        total = total if axis is None else jax.lax.psum(total, axis)
        logs = logs - highest - jnp.log(jnp.maximum(total, _TINY))
        logs = jax.nn.log_softmax(logs, axis=-1)
    return jnp.exp(logs)


def koleo(features: jax.Array, weight: jax.Array, example: jax.Array, axis: str | None) -> jax.Array:
    """Minus the mean logarithm of each feature's distance to its nearest other one, all of length 1.

    The differential entropy of Kozachenko and Leonenko, which spreads features over the sphere (Sablayrolles et al.
    2019, arXiv:1806.03198). An example that is in the batch twice is no neighbour of itself.

    Args:
        features: (B, D).
        weight: (B,) 0 for padding, which is nobody's neighbour.
        example: (B, 2) identities; a third word, which tells rows of one example apart, does not count.
    """
    features = unit(features.astype(jnp.float32))
    example = example[:, :2]
    others, there, names = features, weight, example
    if axis is not None:
        others, there, names = (
            jax.lax.all_gather(x, axis, axis=0, tiled=True) for x in (features, weight, example)
        )
    apart = (example[:, None] != names[None]).any(axis=-1) & (there > 0)[None]
    # In full precision: of features that are nearly alike, others than the nearest are found in that of a TPU.
    close = jnp.matmul(features, others.T, precision=jax.lax.Precision.HIGHEST)
    closeness = jnp.where(apart, jax.lax.stop_gradient(close), -jnp.inf)
    nearest = others[jnp.argmax(closeness, axis=1)]
    square = ((features - nearest) ** 2).sum(axis=-1) + _NEAR
    return weighted_mean(-0.5 * jnp.log(square), weight * apart.any(axis=1), axis)
