"""Scores for every voxel: any patch, any size, in 2D and 3D, from a ViT's depths and from a U-Net's levels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, encoder, segmenter
from vitmed.models.segmenter import depths, ratios
from vitmed.models.transformer import stacked
from vitmed.models.unet import UNet, strides
from vitmed.models.vit import VARIANTS, Variant


@pytest.fixture
def vit(monkeypatch):
    """Makes the ModelConfig of a ViT of four blocks."""
    monkeypatch.setitem(VARIANTS, "mite", Variant(16, 4, 2, 24))
    return lambda patch, **keys: ModelConfig(variant="mite", patch_size=patch, width=4, **keys)


def scores(model, size, channels=2, outputs=3):
    """The parameters of a model drawn at random, a function of these and images to scores, and two images."""
    image = jax.random.normal(jax.random.key(0), (2, *size, channels))
    first = encoder(model, size)
    second, taken = segmenter(model, size, outputs)

    @jax.jit
    def init():
        (_, features), one = first.init_with_output(jax.random.key(1), image, depths=taken)
        own = second.init(jax.random.key(2), image, features)
        return {"encoder": one["params"], "segmenter": own["params"]}

    def run(params, image):
        _, features = first.apply({"params": params["encoder"]}, image, depths=taken)
        return second.apply({"params": params["segmenter"]}, image, features)

    return init(), run, image


@pytest.mark.parametrize(
    ("size", "patch"),
    [((8, 12), (4, 4)), ((9, 10), (3, 5)), ((3, 4), (1, 1)), ((4, 8, 6), (2, 4, 3)), ((8, 16, 8), (8, 8, 8))],
)
def test_every_voxel_is_scored_and_everything_learns(vit, size, patch):
    """Otherwise a patch that is no power of two, or not the same along each axis, cannot be segmented with."""
    params, run, image = scores(vit(patch), size)

    @jax.jit
    def slopes_and_scores(params):
        return jax.grad(lambda p: (jnp.mean(jnp.sin(made := run(p, image))), made), has_aux=True)(params)

    slopes, made = slopes_and_scores(params)
    assert made.shape == (2, *size, 3) and made.dtype == jnp.float32 and np.isfinite(made).all()
    idle = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(slopes)
        if not np.any(leaf)
    ]
    assert not idle


def test_maps_halve_from_the_image_to_the_grid_and_the_deepest_is_the_coarsest():
    assert ratios((8, 8)) == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert ratios((3, 5)) == [(3, 5), (2, 3), (1, 2), (1, 1)]
    assert depths((8, 8, 8), 12) == (4, 8, 12) and depths((16, 16), 6) == (2, 3, 5, 6)
    assert depths((1, 1), 6) == (6,)


def test_layers_scanned_or_not_give_the_same_depths(vit):
    """Otherwise the decoder is fed other depths where layers are scanned."""
    params, run, image = scores(vit((4, 4)), (8, 12))
    _, scanned, _ = scores(vit((4, 4), scan=True), (8, 12))
    other = {**params, "encoder": stacked(params["encoder"])}
    np.testing.assert_allclose(
        jax.jit(scanned)(other, image), jax.jit(run)(params, image), rtol=1e-4, atol=1e-5
    )


def test_a_patch_is_put_back_where_it_was_cut(vit, monkeypatch):
    """Otherwise masks come out turned or transposed, which symmetric data would hide."""
    monkeypatch.setattr("vitmed.models.segmenter.Expansion", lambda *_, **__: lambda maps: maps)
    model, size = vit((4, 4, 2)), (8, 12, 6)
    second, taken = segmenter(model, size, 3)
    image = jnp.zeros((1, *size, 1))
    features = [jax.random.normal(jax.random.key(n), (1, 1 + 18, 16)) for n in taken]
    variables = jax.jit(second.init)(jax.random.key(0), image, features)
    maps = jax.jit(partial(second.apply, variables, image))
    token = 1 + np.ravel_multi_index((1, 0, 2), (2, 3, 3))
    before, after = maps(features), maps([f.at[0, token, ::2].add(3.0) for f in features])
    for ratio, old, new in zip(ratios((4, 4, 2))[1:], before[1:], after[1:], strict=True):
        changed = np.any(np.asarray(old != new), -1)[0].reshape(2, ratio[0], 3, ratio[1], 3, ratio[2])
        assert np.argwhere(changed.any((1, 3, 5))).tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("size", [(13, 9), (20, 33), (3, 18, 7)])
def test_a_unet_takes_any_size(size):
    """Otherwise scans must be padded to powers of two by hand."""
    params, run, image = scores(ModelConfig(variant="unet", width=4), size)
    made = jax.jit(run)(params, image)
    assert made.shape == (2, *size, 3) and np.isfinite(made).all()
    assert UNet(4).apply({"params": params["encoder"]}, image).shape == (2, 4 * 2 ** len(strides(size)))


def test_flat_volumes_keep_their_slices():
    """Otherwise five slices are halved away before anything was seen of them."""
    assert strides((5, 32, 16)) == [(1, 2, 2), (1, 2, 2), (1, 2, 1)]
    assert strides((7, 7)) == []


def test_what_makes_no_masks_is_refused():
    with pytest.raises(InputError, match="'resnet10' gives one feature vector a scan.* take 'unet'"):
        segmenter(ModelConfig(variant="resnet10"), (8, 8), 2)
    with pytest.raises(InputError, match="does not divide"):
        segmenter(ModelConfig(variant="nano", patch_size=(3, 3)), (8, 8), 2)
    with pytest.raises(ValueError, match="variant 'unet' has no patches"):
        ModelConfig(variant="unet", patch_size=(4, 4))
