"""Random keys by counting: (seed, step, example) names a key, so nothing random is ever stored.

A key is folded from what it is for instead of split off a stream that moves on. Therefore a resumed run draws
what the uninterrupted one would have drawn, and an example draws the same whatever batch, host or device it
lands on (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Where few scans fill a large batch, one
is in it several times; each time it draws its own, or all but one of these rows would teach nothing.
"""

import jax
import jax.numpy as jnp


def step_key(seed: int | jax.Array, step: int | jax.Array) -> jax.Array:
    """The key of one step of one run.

    Args:
        seed: of the run; only its low 32 bits count.
        step: from 0; may be traced.

    Returns:
        A typed scalar key.
    """
    return jax.random.fold_in(jax.random.key(seed), step)


def example_keys(key: jax.Array, example: jax.Array) -> jax.Array:
    """One key a row: both words of its example's identity are folded into ``key``, and the third if it is not 0.

    Args:
        key: scalar key, usually from ``step_key``; a constant one makes draws a function of the example.
        example: (B, 2) uint32 identities, or (B, 3) where the third word counts earlier rows of the same example.

    Returns:
        (B,) typed keys, each a function of ``key`` and its own row only.
    """

    def one(words: jax.Array) -> jax.Array:
        made = jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])
        if len(words) == 2:
            return made
        return jnp.where(words[2] > 0, jax.random.fold_in(made, words[2]), made)

    return jax.vmap(one)(example)
