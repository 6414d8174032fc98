"""Starting from a run on another grid, patch, dimension or number of channels: by wish alone, exact, and said aloud."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, encoder
from vitmed.models.transformer import stacked
from vitmed.runs import folder
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
from vitmed.runs.transfer import adaptations, start_from
from vitmed.scans.recipe import Recipe

MODEL = ModelConfig("custom", (4, 4), shape=(24, 2, 2, 48), positions="learned")
GREY = Recipe("xray", 1, (16, 8), None, "relative", (0.0, 1.0), (0.5,), (0.25,), (4, 4))


def fresh(model, recipe, seed=1):
    image = jnp.zeros((1, *recipe.size, recipe.channels))
    return encoder(model, recipe.size).init(jax.random.key(seed), image)["params"]


def a_run(path, model=MODEL, recipe=GREY):
    """A run folder of a fresh encoder, and that encoder."""
    params = jax.tree.map(np.asarray, fresh(model, recipe, seed=0))
    recipe = dataclasses.replace(recipe, model=dataclasses.asdict(model), patch_size=model.patch_size)
    folder.create(path, ConfigDict({"optim": {"ema": 0.0}}), recipe, {"format": 1})
    with Checkpoints(path, CheckpointConfig()) as checkpoints:
        checkpoints.save(0, {"params": {"encoder": params}, "memory": {}})
    return params


def tokens(model, params, image):
    return encoder(model, image.shape[1:-1]).apply({"params": params}, jnp.asarray(image))


def begun(path, model, recipe, wish=""):
    former = start_from(str(path), recipe, model, adaptations(wish))
    return former, former.encoder(jax.eval_shape(lambda: fresh(model, recipe)))


def test_on_the_same_grid_every_bit_is_kept_and_nothing_is_said(tmp_path, capsys):
    params = a_run(tmp_path / "run")
    scanned = dataclasses.replace(MODEL, scan=True)
    _, made = begun(tmp_path / "run", scanned, GREY)
    jax.tree.map(np.testing.assert_array_equal, made, stacked(params))
    assert not capsys.readouterr().err


def test_positions_go_along_to_another_size(tmp_path, capsys):
    params = a_run(tmp_path / "run")
    larger = dataclasses.replace(GREY, size=(32, 16))
    _, made = begun(tmp_path / "run", MODEL, larger)
    blocks = made["positions"].reshape(4, 2, 2, 2, 24).mean((1, 3))
    np.testing.assert_allclose(blocks, params["positions"], atol=1e-6)
    assert "positions resampled from 4x2 to 8x4 patches" in capsys.readouterr().err


def test_a_table_may_start_from_sine_and_cosine(tmp_path, capsys):
    """The tokens are those of the run: only now the table learns."""
    plain = dataclasses.replace(MODEL, positions="sincos")
    params = a_run(tmp_path / "run", plain)
    _, made = begun(tmp_path / "run", MODEL, GREY)
    image = np.random.default_rng(0).normal(size=(1, 16, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(tokens(MODEL, made, image), tokens(plain, params, image), atol=1e-6)
    assert "start as the sine-cosine table" in capsys.readouterr().err


def test_a_volume_of_one_slice_repeated_has_the_slices_embeddings(tmp_path, capsys):
    """With their positions; layers are left out, in which the class token would see each patch three times."""
    params = a_run(tmp_path / "run")
    model = dataclasses.replace(MODEL, patch_size=(2, 4, 4))
    volumes = dataclasses.replace(GREY, size=(6, 16, 8))
    with pytest.raises(
        InputError, match="dimension is 2D here and 3D there.*config.init_adapt=inflate adapts"
    ):
        begun(tmp_path / "run", model, volumes)
    former, made = begun(tmp_path / "run", model, volumes, "inflate")
    assert former.recipe.modality == "xray"
    image = np.random.default_rng(0).normal(size=(2, 16, 8, 1)).astype(np.float32)
    flat, solid = (
        tokens(of, {**p, "transformer": jax.tree.map(np.zeros_like, p["transformer"])}, x)
        for of, p, x in ((MODEL, params, image), (model, made, np.repeat(image[:, None], 6, axis=1)))
    )
    np.testing.assert_allclose(
        solid[:, 1:].reshape(2, 3, 8, 24), np.repeat(flat[:, None, 1:], 3, 1), atol=1e-5
    )
    assert "2D patches inflated to 2x4x4" in capsys.readouterr().err


def test_grey_and_colour_show_each_other_the_same(tmp_path, capsys):
    colour = dataclasses.replace(GREY, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    params = a_run(tmp_path / "run", recipe=colour)
    with pytest.raises(InputError, match="channels is 3 here and 1 there.*config.init_adapt=channels adapts"):
        begun(tmp_path / "run", MODEL, GREY)
    former, made = begun(tmp_path / "run", MODEL, GREY, "channels")
    assert len(former.recipe.mean) == len(former.recipe.std) == former.recipe.channels == 1
    grey = np.random.default_rng(0).uniform(size=(2, 16, 8, 1)).astype(np.float32)

    def normed(image, recipe):
        return ((image - np.asarray(recipe.mean)) / np.asarray(recipe.std)).astype(np.float32)

    np.testing.assert_allclose(
        tokens(MODEL, made, normed(grey, former.recipe)),
        tokens(MODEL, params, normed(grey.repeat(3, -1), colour)),
        atol=1e-4,
    )
    assert "each of its 3 channels sees the mean of 1" in capsys.readouterr().err


def test_larger_patches_of_a_larger_image_have_the_same_tokens(tmp_path, capsys):
    params = a_run(tmp_path / "run")
    model = dataclasses.replace(MODEL, patch_size=(8, 8))
    larger = dataclasses.replace(GREY, size=(32, 16))
    with pytest.raises(InputError, match="patch_size is .*config.init_adapt=patch adapts"):
        begun(tmp_path / "run", model, larger)
    _, made = begun(tmp_path / "run", model, larger, "patch")
    image = np.random.default_rng(0).normal(size=(2, 16, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(
        tokens(model, made, image.repeat(2, 1).repeat(2, 2)), tokens(MODEL, params, image), atol=1e-4
    )
    assert "patches of 8x8 resampled to 4x4, the mean preserved" in capsys.readouterr().err


def test_all_at_once(tmp_path):
    """2D colour at patch 4 to grey volumes at patch 2, on another grid."""
    colour = dataclasses.replace(GREY, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    a_run(tmp_path / "run", recipe=colour)
    model = dataclasses.replace(MODEL, patch_size=(2, 2, 2))
    volumes = dataclasses.replace(GREY, size=(4, 6, 10))
    with pytest.raises(InputError, match=r"config.init_adapt=inflate\+channels\+patch adapts"):
        begun(tmp_path / "run", model, volumes)
    _, made = begun(tmp_path / "run", model, volumes, "patch+inflate+channels")
    assert np.isfinite(tokens(model, made, np.ones((1, 4, 6, 10, 1), np.float32))).all()


@pytest.mark.parametrize(
    "model,recipe,says",
    [
        (
            dict(positions="rotary"),
            {},
            "config.model.positions is 'rotary', but .* was trained with 'learned'",
        ),
        (dict(epsilon=1e-5), {}, "config.model.epsilon is 1e-05"),
        (
            dict(norm="rms"),
            {},
            "of another architecture; norm/bias is absent in config.model and shape \\(24,\\)",
        ),
        (dict(mlp="swiglu"), {}, "of another architecture; transformer/block_0/mlp1/bias is shape"),
        (
            dict(registers=2),
            {},
            "another architecture; registers is shape \\(1, 2, 24\\) in config.model and absent",
        ),
        (
            {},
            dict(modality="mr", channels=3),
            "modality is xray here and mr there; channels is 1 here and 3 there .*\\)$",
        ),
    ],
)
def test_what_is_no_adaptation_is_refused_by_name(tmp_path, model, recipe, says):
    a_run(tmp_path / "run")
    with pytest.raises(InputError, match=says):
        begun(tmp_path / "run", dataclasses.replace(MODEL, **model), dataclasses.replace(GREY, **recipe))


def test_an_unknown_wish_names_the_nearest():
    with pytest.raises(InputError, match="inflat is not an init_adapt; did you mean inflate"):
        adaptations("patch+inflat")
