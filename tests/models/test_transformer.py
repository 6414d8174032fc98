"""The transformer's parts: written-out derivatives, scanned layers, rematerialisation, dtypes, stochastic depth."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.models import attention
from vitmed.models.attention import attend
from vitmed.models.linear import Linear
from vitmed.models.transformer import Transformer, gelu, stacked, unrolled

SHAPE = dict(depth=3, heads=2, mlp_dim=32)


def same(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.fixture(scope="module")
def start():
    x = jax.random.normal(jax.random.key(0), (2, 5, 16))
    return x, Transformer(**SHAPE).init(jax.random.key(1), x)["params"]


def value_and_slopes(model, params, x, keys=None):
    return jax.jit(jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, x, keys)))))(
        params
    )


def test_linear_and_its_slopes_are_those_of_flax():
    """Also with heads as axes of the kernel, which a product of two matrices must not mix up."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 4))
    ours = Linear((2, 6), axes=2)
    theirs = nn.DenseGeneral((2, 6), axis=(-2, -1))
    params = theirs.init(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x)) == jax.tree.map(jnp.shape, params)

    def slopes(module):
        return jax.value_and_grad(lambda p, x: jnp.sum(jnp.sin(module.apply(p, x))), (0, 1))(params, x)

    same(slopes(ours), slopes(theirs), atol=2e-5)


@pytest.mark.parametrize("whole, part", [(7, 7), (6, 3), (6, 7), (1, 1)])
def test_attention_and_its_slopes_are_the_definition(monkeypatch, whole, part):
    """Of all queries at once, and in parts: the last one not full, one alone, one query each."""
    monkeypatch.setattr(attention, "WHOLE", whole)
    monkeypatch.setattr(attention, "PART", part)
    qkv = jax.random.normal(jax.random.key(0), (2, 7, 3, 4, 8))

    def plain(qkv):
        query, key, value = qkv.transpose(2, 0, 3, 1, 4)
        weights = jax.nn.softmax(query @ key.swapaxes(-1, -2) / np.sqrt(8), axis=-1)
        return (weights @ value).swapaxes(1, 2)

    def slopes(function):
        return jax.grad(lambda qkv: jnp.sum(jnp.sin(function(qkv))))(qkv)

    same(attend(qkv), plain(qkv), atol=1e-6)
    same(slopes(attend), slopes(plain), atol=2e-6)


@pytest.mark.parametrize("tokens", [2, attention.WHOLE + 1])
def test_attention_survives_large_scores(tokens):
    """exp of a raw score would be infinite here."""
    assert np.isfinite(attend(jnp.full((1, tokens, 3, 1, 4), 100.0))).all()


def test_attention_over_many_tokens_does_not_hold_the_scores_of_all_pairs():
    n = 4096  # of which one head's scores take 64 MiB
    qkv = jax.ShapeDtypeStruct((1, n, 3, 1, 8), jnp.float32)
    slopes = jax.jit(jax.grad(lambda qkv: jnp.sum(jnp.sin(attend(qkv)))))
    assert slopes.lower(qkv).compile().memory_analysis().temp_size_in_bytes < 4 * n**2 / 2


def test_gelu_is_the_exact_one():
    """The tanh approximation is off by up to 5e-4, which trained weights notice."""
    from scipy.stats import norm

    x = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), x * norm.cdf(x), atol=1e-6)
    slope = jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(slope, norm.cdf(x) + x * norm.pdf(x), atol=1e-6)


def test_scanned_layers_equal_unrolled_ones(start):
    x, params = start
    unrolled_result = value_and_slopes(Transformer(**SHAPE), params, x)
    scanned = Transformer(**SHAPE, scan=True)
    fresh = jax.eval_shape(scanned.init, jax.random.key(1), x)["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, stacked(params))
    value, slopes = value_and_slopes(scanned, stacked(params), x)
    same((value, unrolled(slopes)), unrolled_result, rtol=1e-5, atol=2e-5)


def test_stacking_is_undone_at_any_depth_of_the_tree(start):
    tree = {"encoder": {"cls": jnp.ones(3), "transformer": start[1]}}
    back = unrolled(stacked(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    same(back, tree, atol=0)


def test_scanned_layers_are_drawn_apart(start):
    params = Transformer(**SHAPE, scan=True).init(jax.random.key(1), start[0])["params"]
    kernel = params["blocks"]["mlp1"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1]), "two layers start with the same weights"


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialisation_changes_no_value(start, remat, scan):
    x, params = start
    params = stacked(params) if scan else params
    keys = jax.random.split(jax.random.key(3), 2)
    plain = value_and_slopes(Transformer(**SHAPE, drop_path=0.5, scan=scan), params, x, keys)
    again = value_and_slopes(Transformer(**SHAPE, drop_path=0.5, scan=scan, remat=remat), params, x, keys)
    same(again, plain, rtol=1e-5, atol=1e-5)


def test_rematerialisation_keeps_less(start):
    """Each level must hold fewer numbers between the passes than the one before, else it saves no memory."""
    x = jnp.zeros((2, 64, 16))
    params = start[1]

    def kept(remat):
        model = Transformer(**SHAPE, remat=remat)
        _, backward = jax.eval_shape(
            lambda p, x: jax.vjp(lambda p: model.apply({"params": p}, x), p), params, x
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept("full") < kept("dots") < kept("none")


def test_bf16_keeps_parameters_norms_and_slopes_float32(start):
    x, params = start
    model = Transformer(**SHAPE, dtype=jnp.bfloat16)
    fresh = model.init(jax.random.key(1), x.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype("float32")}
    output, state = model.apply(
        {"params": params},
        x.astype(jnp.bfloat16),
        capture_intermediates=lambda m, _: isinstance(m, nn.LayerNorm),
    )
    assert output.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state["intermediates"])} == {jnp.dtype("float32")}
    slopes = jax.grad(
        lambda p: jnp.sum(model.apply({"params": p}, x.astype(jnp.bfloat16)).astype(jnp.float32))
    )(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(slopes)} == {jnp.dtype("float32")}
    same(output.astype(jnp.float32), Transformer(**SHAPE).apply({"params": params}, x), atol=0.15)


def test_stochastic_depth_follows_each_examples_own_key(start):
    """An example's draw must not depend on its place in the batch, and without keys nothing is dropped."""
    x, params = start
    model = Transformer(**SHAPE, drop_path=0.9)
    keys = jax.random.split(jax.random.key(7), 2)
    dropped = model.apply({"params": params}, x, keys)
    swapped = model.apply({"params": params}, x[::-1], keys[::-1])
    same(dropped, swapped[::-1], atol=1e-6)
    whole = model.apply({"params": params}, x)
    same(whole, Transformer(**SHAPE).apply({"params": params}, x), atol=0)
    assert not np.allclose(dropped, whole, atol=1e-3)
