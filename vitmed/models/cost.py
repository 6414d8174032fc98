"""What a function takes, read from its traced form rather than from a formula: operations and memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def matmul_flops(function: Callable, *args) -> int:
    """Multiplications and additions in the matrix products and convolutions of one call of ``function``.

    What a training step needs is three times that of its loss: once forward, twice backward (for the inputs and
    for the weights), as MFU is counted in PaLM (arXiv:2204.02311, appendix B). Nothing that is computed again
    to save memory is counted.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        shapes = [v.aval.shape for v in equation.invars]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += (
                2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[0][n] for n in contracted)
            )
        elif equation.primitive.name == "conv_general_dilated":
            # Each output value takes the whole kernel but its output-channel axis.
            out_axis = equation.params["dimension_numbers"].rhs_spec[0]
            total += (
                2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[1]) // shapes[1][out_axis]
            )
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += times * sum(_count(inner) for inner in _inner(equation.params))
    return total


def _inner(params: dict):
    """The functions that an equation calls: of ``jit``, ``scan``, ``custom_vjp`` and their like."""
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def state_bytes(state: Any) -> int:
    """Memory of a tree of arrays, or of what ``jax.eval_shape`` says of one."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))


def short(number: float) -> str:
    """Three digits and the prefix of the unit that follows: of 1234567, "1.23 M"."""
    power = 0
    while float(f"{number:.3g}") >= 1000 and power < 6:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][power]}"
