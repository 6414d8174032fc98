"""FLOPs read from the traced function, against sums done by hand."""

import jax
import jax.numpy as jnp

from vitmed.models.cost import matmul_flops, short, state_bytes
from vitmed.models.resnet import ResNet
from vitmed.models.transformer import Transformer


def test_a_transformers_products_scanned_or_not():
    """If a product inside a scan or a custom derivative were missed, MFU would look too small."""
    batch, places, dim, hidden, depth = 2, 5, 16, 32, 3
    x = jnp.ones((batch, places, dim))
    a_token = 3 * dim * dim + dim * dim + 2 * dim * hidden  # qkv, out, the perceptron
    attention = 2 * places * dim  # scores and mixing
    expected = 2 * depth * batch * places * (a_token + attention)
    for scan in (False, True):
        model = Transformer(depth, 2, hidden, scan=scan)
        params = model.init(jax.random.key(0), x)
        assert matmul_flops(model.apply, params, x) == expected


def test_a_convolution_counts_its_whole_kernel():
    model = ResNet((1,), width=8)
    image = jnp.ones((1, 6, 6, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert matmul_flops(model.apply, variables, image) == 2 * 36 * 9 * (1 * 8 + 8 * 8 + 8 * 8)


def test_numbers_are_told_in_three_digits():
    assert [short(n) for n in (0, 7, 999, 999.6, 1234567, 2.5e13)] == [
        "0 ",
        "7 ",
        "999 ",
        "1 k",
        "1.23 M",
        "25 T",
    ]
    assert state_bytes({"a": jnp.ones((3, 4)), "b": jnp.zeros((), jnp.bfloat16)}) == 50
