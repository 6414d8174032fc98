"""Masked autoencoding: the mask's properties, and a loss that sees the hidden patches and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.data.keys import example_keys, step_key
from vitmed.models.build import ModelConfig
from vitmed.models.patches import patchify
from vitmed.objectives import mae, masking
from vitmed.objectives.interface import Spec

MODEL = dict(variant="nano", decoder_dim=32, decoder_depth=1, decoder_heads=4, scan=True)


def stream_of(image):
    n = len(image)
    example = np.stack([np.arange(n), np.arange(n) * 7 + 1], axis=1).astype(np.uint32)
    return {"main": {"image": jnp.asarray(image), "weight": jnp.ones(n), "example": jnp.asarray(example)}}


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.75, 0.99])
def test_mask_is_a_partition_with_its_inverse(ratio):
    keys = jax.random.split(jax.random.key(0), 5)
    mask = masking.uniform(keys, 12, ratio)
    order = np.concatenate([mask.keep, mask.hide], axis=1)
    assert 1 <= mask.keep.shape[1] <= 11
    for row, restore in zip(order, np.asarray(mask.restore)):
        assert sorted(row) == list(range(12))
        assert (row[restore] == np.arange(12)).all()


def test_mask_belongs_to_the_example_not_to_its_place():
    """Else a resumed run on other hosts would see other masks."""
    example = jnp.asarray([[1, 2], [3, 4], [5, 6]], jnp.uint32)
    key = step_key(3, 11)
    whole = masking.uniform(example_keys(key, example), 16, 0.75)
    turned = masking.uniform(example_keys(key, example[::-1]), 16, 0.75)
    np.testing.assert_array_equal(whole.keep, turned.keep[::-1])
    later = masking.uniform(example_keys(step_key(3, 12), example), 16, 0.75)
    assert not np.array_equal(whole.keep, later.keep)


@pytest.mark.parametrize(
    "size,patch,channels", [((8, 12), (4, 4), 1), ((8, 8), (4, 2), 3), ((4, 8, 6), (2, 4, 3), 1)]
)
@pytest.mark.parametrize("target", ["patch", "raw"])
def test_loss_is_the_mean_error_on_hidden_patches(rng, size, patch, channels, target):
    """Against NumPy: normalised within each patch with the unbiased variance, hidden patches alone."""
    model, spec = ModelConfig(patch_size=patch, **MODEL), Spec(size, channels)
    config = mae.Config(target=target)
    objective = mae.build(config, model, spec)
    params, memory = objective.init(jax.random.key(0), spec)
    batch = stream_of(rng.normal(size=(3, *size, channels)).astype(np.float32))
    key = step_key(0, 5)
    loss, _ = objective.loss(params, memory, batch, key)

    patches = np.asarray(patchify(batch["main"]["image"], patch), np.float64)
    if target == "patch":
        centred = patches - patches.mean(-1, keepdims=True)
        patches = centred / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    mask = masking.uniform(example_keys(key, batch["main"]["example"]), patches.shape[1], 0.75)
    predicted = mae.Autoencoder(model, spec).predict(params, batch["main"]["image"], mask)
    errors = [
        ((np.asarray(predicted)[b, n] - patches[b, n]) ** 2).mean()
        for b in range(3)
        for n in np.asarray(mask.hide)[b]
    ]
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-4)


def test_visible_pixels_reach_the_loss_only_through_the_encoder(rng):
    """Hidden patches must not leak into the prediction."""
    model, spec = ModelConfig(patch_size=(4, 4), **MODEL), Spec((8, 8), 1)
    network = mae.Autoencoder(model, spec)
    params = network.init(jax.random.key(1), 0.75)
    image = rng.normal(size=(1, 8, 8, 1)).astype(np.float32)
    mask = masking.from_noise(jnp.asarray([[0.0, 1.0, 2.0, 3.0]]), 0.75)  # only patch 0, top left, is seen
    other = image.copy()
    other[:, 4:] += 5.0
    np.testing.assert_array_equal(network.predict(params, image, mask), network.predict(params, other, mask))
    other[:, :4, :4] += 5.0
    assert not np.allclose(network.predict(params, image, mask), network.predict(params, other, mask))


def test_padding_weighs_nothing(rng):
    model, spec = ModelConfig(patch_size=(4, 4), **MODEL), Spec((8, 8), 1)
    objective = mae.build(mae.Config(), model, spec)
    params, memory = objective.init(jax.random.key(0), spec)
    batch = stream_of(rng.normal(size=(4, 8, 8, 1)).astype(np.float32))
    key = step_key(0, 0)
    short = {"main": {k: v[:3] for k, v in batch["main"].items()}}
    batch["main"]["weight"] = jnp.asarray([1.0, 1.0, 1.0, 0.0])
    padded, alone = (objective.loss(params, memory, b, key)[0] for b in (batch, short))
    assert float(padded) == pytest.approx(float(alone), rel=1e-6)
