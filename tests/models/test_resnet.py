"""The CNN baseline: any number of dimensions, a stem by image size, a pure function of each image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.models.resnet import ResNet

ONE = (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("size", "channels", "stem"), [((28, 20), 1, (3, 3)), ((64, 72), 3, (7, 7)), ((12, 16, 8), 2, (3, 3, 3))]
)
def test_features_of_any_shape(size, channels, stem):
    image = jnp.ones((2, *size, channels))
    features, variables = jax.eval_shape(ResNet(ONE, width=8).init_with_output, jax.random.key(0), image)
    assert features.shape == (2, 64) and features.dtype == jnp.float32
    assert variables["params"]["stem"]["kernel"].shape[:-2] == stem
    assert set(variables) == {"params"}, "it keeps statistics of batches"


def test_an_image_does_not_see_its_neighbours():
    """Batch statistics would make a prediction depend on who else is in the batch."""
    model = ResNet(ONE[:2], width=8)
    images = jax.random.normal(jax.random.key(0), (3, 12, 12, 1))
    variables = jax.jit(model.init)(jax.random.key(1), images)
    # The last norm of a block starts with a zero scale, which would hide its convolutions.
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    apply = jax.jit(model.apply)
    np.testing.assert_allclose(apply(variables, images[:1]), apply(variables, images)[:1], rtol=1e-4)


def test_resnet18_is_the_published_network():
    """11.2 M parameters without its classifier."""
    shapes = jax.eval_shape(ResNet((2, 2, 2, 2)).init, jax.random.key(0), jnp.ones((1, 64, 64, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 - 11.18) < 0.02, f"{count / 1e6:.2f} M parameters"


def test_bf16_keeps_parameters_float32():
    made = ResNet(ONE, 8, jnp.bfloat16).init_with_output
    features, variables = jax.eval_shape(made, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    assert {leaf.dtype for leaf in jax.tree.leaves((features, variables))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("stem", "side"), [("auto", 12), ("full", 12), ("half", 6)])
def test_the_stem_keeps_the_resolution_that_it_is_told(stem, side):
    """Otherwise a volume's ResNet takes eight times as long as was asked, or sees an eighth of it."""
    model = ResNet(ONE, width=8, stem=stem)
    seen = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, capture_intermediates=True)[1],
        jnp.ones((1, 12, 12, 12, 1)),
    )
    assert seen["intermediates"]["stem"]["__call__"][0].shape == (1, side, side, side, 8)
