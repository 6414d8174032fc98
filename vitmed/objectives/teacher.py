"""A teacher that is the slow average of its student (Tarvainen and Valpola 2017, arXiv:1703.01780), by a schedule."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def linear(ends: tuple[float, float], step: jax.Array, steps: int) -> jax.Array:
    """From the first of ``ends`` at step 0 to the second at ``steps``, and no further."""
    return ends[0] + (ends[1] - ends[0]) * _passed(step, steps)


def cosine(ends: tuple[float, float], step: jax.Array, steps: int) -> jax.Array:
    """The same along half a cosine (BYOL, Grill et al. 2020, section 3.2)."""
    return ends[1] - (ends[1] - ends[0]) * (jnp.cos(math.pi * _passed(step, steps)) + 1) / 2


def follow(teacher: Any, student: Any, momentum: jax.Array) -> Any:
    """The teacher moved to the student by 1 - ``momentum``; ``student`` may hold more than the teacher does.

    Where the two are the same it stays so to the bit: what is not trained is not moved by rounding.
    """

    def moved(slow, fast):
        return jnp.where(slow == fast, slow, momentum * slow + (1 - momentum) * fast)

    return jax.tree.map(moved, teacher, {name: student[name] for name in teacher})


def begin(memory: Any, params: Any) -> Any:
    """The memory of an objective whose student starts as ``params``: so does its teacher, where it has one."""
    if "teacher" not in memory:
        return memory
    own = {name: params.get(name, part) for name, part in memory["teacher"].items()}
    return {**memory, "teacher": own}


def check_momentum(ends: tuple[float, float]) -> None:
    """ValueError where ``momentum`` is no pair of fractions."""
    if not all(0 <= end <= 1 for end in ends):
        raise ValueError(f"momentum is {ends}; (at the first step, at the last) was expected, each in [0, 1]")


def _passed(step: jax.Array, steps: int) -> jax.Array:
    return jnp.minimum(step / max(steps, 1), 1.0)
