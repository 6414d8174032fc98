"""A large batch in the memory of a small one: every network takes its rows in several parts, one after the other.

Only the networks do. The loss sees the whole batch at once, so that means by weight, missing labels, Sinkhorn's shares
and nearest neighbours are those of the large batch, which sums of small batches' gradients are not. The backward pass
computes each part again (Gao et al. 2021, arXiv:2101.06983, "GradCache"): a third more work, one part's memory.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@contextlib.contextmanager
def microbatches(count: int) -> Iterator[None]:
    """Within it every Flax module that is applied takes the rows of its arguments in ``count`` parts.

    Rows are what has the leading length of the first argument; a vector of floats of that length is none (a token).
    """
    inside = False

    def intercept(call, args, kwargs, context):
        nonlocal inside
        module = context.module
        rows = getattr(args[0], "shape", ())[:1] if args else ()
        outermost = not inside and module.path == () and context.method_name == "__call__"
        if not outermost or not rows or rows[0] % count:
            return call(*args, **kwargs)
        alone, variables = module.clone(parent=None), module.variables

        def apply(args, kwargs):
            return alone.apply(variables, *args, **kwargs)

        inside = True
        try:
            return in_turn(apply, count, rows[0])(args, kwargs)
        finally:
            inside = False

    with nn.intercept_methods(intercept) if count > 1 else contextlib.nullcontext():
        yield


def in_turn(function: Callable, count: int, rows: int) -> Callable:
    """``function``, each row of whose result is of one row of its arguments, applied to ``count`` parts in turn."""

    def parts(x: jax.Array) -> jax.Array:
        # Every count-th row: each part then has its share of every device's rows, and none has to travel.
        return jnp.swapaxes(x.reshape(rows // count, count, *x.shape[1:]), 0, 1)

    def applied(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        split = [_is_rows(leaf, rows) for leaf in leaves]

        def body(_, some):
            some = iter(some)
            whole = [next(some) if s else leaf for s, leaf in zip(split, leaves)]
            return None, function(*jax.tree.unflatten(tree, whole))

        body = jax.checkpoint(
            body, prevent_cse=False
        )  # the loop itself keeps XLA from merging the two computations
        _, made = jax.lax.scan(body, None, [parts(leaf) for s, leaf in zip(split, leaves) if s])
        return jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1).reshape(rows, *y.shape[2:]), made)

    return applied


def _is_rows(leaf: Any, rows: int) -> bool:
    shape = getattr(leaf, "shape", ())
    return shape[:1] == (rows,) and (len(shape) > 1 or not jnp.issubdtype(leaf.dtype, jnp.floating))
