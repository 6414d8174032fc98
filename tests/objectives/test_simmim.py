"""SimMIM: a token stands where a patch is hidden, and the loss is the absolute error there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest

from vitmed.data.keys import example_keys, step_key
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, encoder, segmenter
from vitmed.objectives import masking, simmim
from vitmed.objectives.interface import Spec


def test_loss_and_gradients_are_numpys(rng, shape, batch_of, mite):
    """The whole objective once more in float64; slopes by differences."""
    size, patch, channels = shape
    spec = Spec(size, channels)
    config = simmim.Config(target="patch" if channels == 3 else "raw")
    objective = simmim.build(config, mite(patch), spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    image = rng.normal(size=(3, *size, channels)).astype(np.float32)
    weight = np.array([1.0, 0.0, 1.0])
    batch, key = batch_of(image, weight), step_key(0, 5)
    loss, gradients = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key)[0]))(params)

    cells = tuple(s // p for s, p in zip(size, patch))
    hidden = np.asarray(masking.draw(config, example_keys(key, batch["main"]["example"]), cells).hidden)
    pixels = numpy_vit.patches(image, patch)
    if config.target == "patch":
        deviation = np.sqrt(pixels.var(-1, ddof=1, keepdims=True) + 1e-6)
        pixels = (pixels - pixels.mean(-1, keepdims=True)) / deviation

    def reference(p):
        tokens = numpy_vit.encode(p["encoder"], image, patch, hidden=hidden, token=p["mask_token"])
        error = np.abs(numpy_vit.linear(p["pixels"]["predict"], tokens[:, 1:]) - pixels).mean(-1)
        return (error * hidden * weight[:, None]).sum() / (hidden * weight[:, None]).sum()

    assert float(loss) == pytest.approx(reference(numpy_vit.double(params)), rel=1e-4)
    numpy_vit.assert_same_slopes(reference, params, gradients)


def test_hidden_pixels_do_not_reach_the_encoder(rng, mite):
    """Else it would copy what it is asked for."""
    network = encoder(mite((4, 4)), (8, 8))
    image = rng.normal(size=(1, 8, 8, 1)).astype(np.float32)
    params = network.init(jax.random.key(0), image)
    hidden, token = jnp.asarray([[False, True, True, True]]), jnp.ones(16)
    other = image.copy()
    other[:, 4:] += 5
    same = [network.apply(params, x, blanks=(hidden, token)) for x in (image, other)]
    np.testing.assert_array_equal(*same)
    assert not np.allclose(same[0], network.apply(params, image, blanks=(hidden, 2 * token)))


def test_paths_are_dropped_in_training_alone(batch_of):
    """Each example's by its own draw; a rate that is set and read by nobody would teach without it, unsaid."""
    spec, key = Spec((8, 8), 1), step_key(0, 5)
    losses = {}
    for rate in (0.0, 0.9):
        model = ModelConfig("custom", (4, 4), shape=(16, 3, 2, 24), drop_path=rate)
        objective = simmim.build(simmim.Config(), model, spec)
        params, _ = objective.init(jax.random.key(0), spec)
        batch = batch_of(np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32))
        for train in (True, False):
            losses[rate, train] = float(objective.loss(params, {}, batch, key, train=train)[0])
    assert losses[0.9, False] == losses[0.0, False] == losses[0.0, True] != losses[0.9, True]


def test_with_the_decoder_of_masks_as_head_the_loss_is_of_hidden_voxels_and_none_is_seen(rng, mite):
    """Its stem sees the image at full resolution: hidden voxels left in there would be copied, and nothing learned."""
    spec, key, patch = Spec((8, 12), 2), step_key(0, 5), (4, 4)
    model = dataclasses.replace(mite(patch), width=4)
    objective = simmim.build(simmim.Config(head="segmenter", mask="uniform"), model, spec)
    params, _ = objective.init(jax.random.key(0), spec)
    image = rng.normal(size=(2, 8, 12, 2)).astype(np.float32)
    batch = {"main": {"image": jnp.asarray(image), "example": jnp.zeros((2, 3), int), "weight": jnp.ones(2)}}
    loss = jax.jit(lambda batch: objective.loss(params, {}, batch, key)[0])

    keys = example_keys(key, batch["main"]["example"])
    hidden = np.asarray(masking.draw(simmim.Config(mask="uniform"), keys, (2, 3)).hidden)
    voxels = np.kron(hidden.reshape(2, 2, 3), np.ones((1, 4, 4))).astype(bool)
    network, (decoder, depths) = encoder(model, spec.size), segmenter(model, spec.size, 2)
    blanks = (jnp.asarray(hidden), params["mask_token"])
    _, features = network.apply({"params": params["encoder"]}, image, blanks=blanks, depths=depths)
    shown = np.where(voxels[..., None], 0, image)
    made = np.asarray(decoder.apply({"params": params["segmenter"]}, shown, features))
    assert float(loss(batch)) == pytest.approx(np.abs(made - image)[voxels].mean(), rel=1e-5)

    far = np.where(voxels[..., None], 100 + image, image)
    batch["main"]["image"] = jnp.asarray(far)
    assert float(loss(batch)) == pytest.approx(np.abs(made - far)[voxels].mean(), rel=1e-5)


def test_the_decoder_of_masks_needs_a_vit(mite):
    with pytest.raises(InputError, match="variant"):
        simmim.build(simmim.Config(head="segmenter"), ModelConfig("resnet18", ()), Spec((8, 8), 1))
