"""Leaving out steps whose loss or gradient is not finite.

The host learns a step's loss while the device is at the next one, so the update itself must leave it out. That takes a
twentieth of a step where the batch is small, and a training that ends at its first such step does without
(``postmortem.py``).
"""

import jax
import jax.numpy as jnp


def guarded(before: dict, after: dict, sound: jax.Array) -> dict:
    """The state after an update that is left out where it is not sound.

    It counts, for the step and for the optimiser's schedule, and changes no parameter, moment, average or memory.

    Args:
        before, after: without and with what the update changes.
        sound: () bool, whether its loss and gradient are finite.
    """

    def kept(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(sound, new, old) if jnp.issubdtype(new.dtype, jnp.inexact) else new

    return jax.tree.map(kept, after, before)
