"""Affine maps whose backward pass is written out, because that is where the time of a transformer goes.

The kernel may have several input and output axes (heads, for one), which a mesh can split; the product itself is
always one of two matrices. Its gradient for the kernel comes out in the kernel's own layout and in float32, so
that the optimiser reads it in order.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vitmed.activations import by_examples

PRODUCT = "product"  # the name by which rematerialisation may keep what a Linear computes

xavier = nn.initializers.xavier_uniform()


class Linear(nn.Module):
    """``x @ kernel + bias`` over the last ``axes`` axes of x, giving the axes ``features``.

    The kernel (*inputs, *features) and the bias (*features) are float32; the product runs in ``dtype``. The kernel
    is drawn as the matrix that it is used as (Glorot & Bengio 2010).
    """

    features: tuple[int, ...]
    axes: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        lead, inputs = x.shape[: -self.axes], x.shape[-self.axes :]
        flat = math.prod(inputs), math.prod(self.features)
        kernel = self.param(
            "kernel",
            lambda key, shape: xavier(key, flat, jnp.float32).reshape(shape),
            (*inputs, *self.features),
        )
        bias = self.param("bias", nn.initializers.zeros, self.features, jnp.float32)
        y = checkpoint_name(product(x.reshape(-1, flat[0]).astype(self.dtype), kernel.reshape(flat)), PRODUCT)
        return by_examples((y + bias.reshape(-1).astype(self.dtype)).reshape(*lead, *self.features))


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (N, I) times the float32 kernel (I, O) in the dtype of x; the kernel's gradient is float32."""
    return x @ kernel.astype(x.dtype)


def _forward(x, kernel):
    return product(x, kernel), (x, kernel)


def _backward(saved, slope):
    x, kernel = saved
    to_x = slope @ kernel.astype(x.dtype).T
    to_kernel = jnp.matmul(x.T, slope, preferred_element_type=jnp.float32)
    return to_x, to_kernel


product.defvjp(_forward, _backward)
