"""The ViT and the decoder: shapes in 1D to 3D, visible patches alone, tokens put back in their places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.models.decoder import MAEDecoder
from vitmed.models.head import Head, pooled
from vitmed.models.vit import VARIANTS, Variant, ViT

TINY = Variant(dim=24, depth=2, heads=2, mlp_dim=48)


@pytest.mark.parametrize(
    ("size", "patch", "channels"), [((12,), (4,), 2), ((8, 12), (4, 2), 1), ((4, 8, 6), (2, 4, 3), 3)]
)
def test_any_number_of_dimensions(size, patch, channels):
    image = jnp.ones((2, *size, channels))
    places = int(np.prod([s // p for s, p in zip(size, patch)]))
    tokens, variables = ViT(TINY, patch).init_with_output(jax.random.key(0), image)
    assert tokens.shape == (2, 1 + places, TINY.dim)
    decoder = MAEDecoder(16, 1, 2, size, patch, channels)
    restore = jnp.tile(jnp.arange(places), (2, 1))
    predicted, _ = decoder.init_with_output(jax.random.key(1), tokens[:, :3], restore)
    assert predicted.shape == (2, places, np.prod(patch) * channels)


def test_embedding_the_visible_patches_equals_embedding_all_and_choosing():
    """With no layers in between, so that nothing but the embedding and the final norm is compared."""
    image = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    model = ViT(TINY._replace(depth=0), (2, 3))
    variables = model.init(jax.random.key(1), image)
    keep = jnp.array([[3, 0, 15], [8, 9, 1]])
    every = model.apply(variables, image)
    chosen = jnp.take_along_axis(every[:, 1:], keep[:, :, None], axis=1)
    some = model.apply(variables, image, keep)
    np.testing.assert_allclose(some[:, 1:], chosen, atol=1e-6)
    np.testing.assert_allclose(some[:, 0], every[:, 0], atol=1e-6)


def test_hidden_patches_are_not_seen():
    """If what a hidden patch holds reached the tokens, the pretraining task would be a lookup."""
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    model = ViT(TINY, (4, 4))
    keep = jnp.array([[0, 3]])
    variables = model.init(jax.random.key(1), image, keep)
    changed = image.at[:, :4, 4:].set(1e3)  # patch 1
    assert np.array_equal(model.apply(variables, image, keep), model.apply(variables, changed, keep))


def test_the_order_of_the_visible_patches_does_not_matter():
    """Positions must travel with their patches."""
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    model = ViT(TINY, (4, 4))
    variables = model.init(jax.random.key(1), image)
    there = model.apply(variables, image, jnp.array([[0, 3, 1]]))
    back = model.apply(variables, image, jnp.array([[1, 3, 0]]))
    np.testing.assert_allclose(there[:, [0, 3, 2, 1]], back, atol=1e-5)


def test_the_decoder_puts_each_token_in_its_place():
    """With no layers: a visible place shows its own token, a hidden one the mask token, at every position."""
    decoder = MAEDecoder(16, 0, 2, (8, 8), (4, 4), 1)
    tokens = jax.random.normal(jax.random.key(0), (1, 3, 24))
    restore = jnp.array([[2, 1, 3, 0]])  # place 1 holds the second visible token, place 3 the first
    predicted, variables = decoder.init_with_output(jax.random.key(1), tokens, restore)
    swapped = decoder.apply(variables, tokens[:, [0, 2, 1]], jnp.array([[2, 0, 3, 1]]))
    np.testing.assert_allclose(predicted, swapped, atol=1e-6)
    other = decoder.apply(variables, tokens.at[:, 2].add(1.0), restore)
    moved = np.abs(np.asarray(other - predicted)).max(axis=-1)[0] > 1e-6
    assert moved.tolist() == [False, True, False, False]


def test_variants_have_the_published_numbers_of_parameters():
    """Of the backbone with class token, without positions and head: ViT-S 21.6 M, B 85.6 M, L 303.1 M at patch 16."""
    for name, millions in (("ti", 5.5), ("s", 21.6), ("b", 85.6), ("l", 303.1)):
        shapes = jax.eval_shape(
            ViT(VARIANTS[name], (16, 16)).init, jax.random.key(0), jnp.ones((1, 32, 32, 3))
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert abs(count / 1e6 - millions) < 0.1, f"{name} has {count / 1e6:.2f} M parameters"


def test_bf16_gives_float32_tokens_and_predictions():
    """The final norm and the loss are float32 whatever the products are."""
    image = jnp.ones((1, 8, 8, 1))
    tokens, variables = ViT(TINY, (4, 4), dtype=jnp.bfloat16).init_with_output(jax.random.key(0), image)
    assert tokens.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    decoder = MAEDecoder(16, 1, 2, (8, 8), (4, 4), 1, dtype=jnp.bfloat16)
    predicted, _ = decoder.init_with_output(jax.random.key(1), tokens, jnp.arange(4)[None])
    assert predicted.dtype == jnp.float32


def test_pooling_and_a_fresh_head():
    tokens = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_allclose(pooled(tokens, "mean"), tokens[:, 1:].mean(1))
    np.testing.assert_allclose(pooled(tokens, "cls"), tokens[:, 0])
    np.testing.assert_allclose(pooled(tokens[:, 0], "mean"), tokens[:, 0])
    scores, _ = Head(5).init_with_output(jax.random.key(0), pooled(tokens))
    assert scores.shape == (2, 5) and not scores.any(), "a fresh head must not prefer a class"


def test_a_grid_pool_keeps_where_a_finding_was():
    """A mean over all patches cannot tell left from right; regions that do not divide evenly still count each patch."""
    tokens = jnp.arange(2 * 8 * 5 * 3.0).reshape(2, 8, 5, 3)
    output = jnp.concatenate([jnp.zeros((2, 1, 3)), tokens.reshape(2, 40, 3)], axis=1)
    made = pooled(output, "grid", (8, 5)).reshape(2, 4, 4, 3)
    np.testing.assert_allclose(
        made[:, 1, 0], tokens[:, 2:4, 0:2].mean((1, 2)), rtol=1e-6
    )  # 5 patches: 0-1, 1-2, 2-3, 3-4
    np.testing.assert_allclose(made[:, 3, 3], tokens[:, 6:8, 3:5].mean((1, 2)), rtol=1e-6)
    mirrored = jnp.concatenate([output[:, :1], tokens[:, :, ::-1].reshape(2, 40, 3)], axis=1)
    np.testing.assert_allclose(pooled(mirrored, "mean"), pooled(output, "mean"), rtol=1e-6)
    np.testing.assert_allclose(
        pooled(mirrored, "grid", (8, 5)).reshape(2, 4, 4, 3), made[:, :, ::-1], rtol=1e-6
    )
    few = jnp.ones((1, 1 + 2 * 3 * 4, 5))
    assert pooled(few, "grid", (2, 3, 4)).shape == (1, 2 * 3 * 4 * 5), (
        "fewer patches than regions: each is one"
    )
