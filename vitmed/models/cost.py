"""What a function takes, read from its traced form rather than from a formula: operations and memory."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval


class Product(NamedTuple):
    """A matrix product or convolution that a function does ``times`` times."""

    flops: int
    bytes: int  # of its operands and its result, each once
    times: int


def matmul_flops(function: Callable, *args) -> int:
    """Multiplications and additions in the matrix products and convolutions of one call of ``function``.

    What a training step needs is three times that of its loss: once forward, twice backward (for the inputs and
    for the weights), as MFU is counted in PaLM (arXiv:2204.02311, appendix B). Nothing that is computed again
    to save memory is counted.
    """
    return sum(product.flops * product.times for product in products(function, *args))


def products(function: Callable, *args) -> list[Product]:
    """The matrix products and convolutions of one call of ``function`` that its result needs; shapes are enough as ``args``."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return list(_products(needed, 1))


def _products(jaxpr: core.Jaxpr, times: int) -> Iterator[Product]:
    for equation in jaxpr.eqns:
        flops = _flops(equation)
        if flops is not None:
            arrays = [v.aval for v in (*equation.invars, *equation.outvars)]
            moved = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
            yield Product(flops, moved, times)
            continue
        again = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in _inner(equation.params):
            yield from _products(inner, times * again)


def _flops(equation) -> int | None:
    """Operations of one equation, or None where it is neither a product nor a convolution."""
    shapes = [v.aval.shape for v in equation.invars]
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * out * math.prod(shapes[0][n] for n in contracted)
    if equation.primitive.name == "conv_general_dilated":
        # Each output value takes the whole kernel but its output-channel axis.
        out_axis = equation.params["dimension_numbers"].rhs_spec[0]
        return 2 * out * math.prod(shapes[1]) // shapes[1][out_axis]
    return None


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
