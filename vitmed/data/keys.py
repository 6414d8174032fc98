"""Random keys by counting: (seed, step, example) names a key, so nothing random is ever stored.

A key is folded from what it is for instead of split off a stream that moves on. Therefore a resumed run draws
what the uninterrupted one would have drawn, and an example draws the same whatever batch, host or device it
lands on (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

import jax


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
    """One key an example: both words of its identity are folded into ``key``.

    Args:
        key: scalar key, usually from ``step_key``; a constant one makes draws a function of the example.
        example: (B, 2) uint32 identities.

    Returns:
        (B,) typed keys, each a function of ``key`` and its own row only.
    """
    return jax.vmap(lambda words: jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1]))(example)
