"""Starting from a run on another grid, patch, dimension or number of channels: by wish alone, exact, and said aloud."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import short_runs
from ml_collections import ConfigDict

from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.infer import Model
from vitmed.models.build import ModelConfig, encoder
from vitmed.models.transformer import stacked
from vitmed.runs import folder, load
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
from vitmed.runs.transfer import adaptations, start_from
from vitmed.scans.recipe import Recipe, normalise

MODEL = ModelConfig("custom", (4, 4), shape=(24, 2, 2, 48), positions="learned")
GREY = Recipe("xray", 1, (16, 8), None, "relative", (0.0, 1.0), (0.5,), (0.25,), (4, 4))


def fresh(model, recipe, seed=1):
    image = jnp.zeros((1, *recipe.size, recipe.channels))
    return encoder(model, recipe.size).init(jax.random.key(seed), image)["params"]


def a_run(path, model=MODEL, recipe=GREY):
    """A run folder of a fresh encoder, and that encoder."""
    params = jax.tree.map(np.asarray, fresh(model, recipe, seed=0))
    save(path, model, recipe, params)
    return params


def save(path, model, recipe, params):
    recipe = dataclasses.replace(recipe, model=dataclasses.asdict(model), patch_size=model.patch_size or None)
    folder.create(path, ConfigDict({"optim": {"ema": 0.0}}), recipe, {"format": 1})
    with Checkpoints(path, CheckpointConfig()) as checkpoints:
        checkpoints.save(0, {"params": {"encoder": params}, "memory": {}})


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


def in_volumes(positions):
    """The model that a 2D one of these positions is inflated to."""
    return dataclasses.replace(
        MODEL, patch_size=(2, 4, 4), positions=positions, learned_slices=positions != "learned"
    )


@pytest.mark.parametrize("positions", ["sincos", "learned", "rotary"])
@pytest.mark.parametrize("slices", [1, 3])
def test_a_volume_of_one_slice_repeated_has_the_slices_tokens(tmp_path, capsys, positions, slices):
    """Through all layers: they are the tokens of the slice of which each patch is shown as often."""
    flat = dataclasses.replace(MODEL, positions=positions)
    params = a_run(tmp_path / "run", flat)
    model = in_volumes(positions)
    volumes = dataclasses.replace(GREY, size=(2 * slices, 16, 8))
    with pytest.raises(
        InputError, match="dimension is 2D here and 3D there.*config.init_adapt=inflate adapts"
    ):
        begun(tmp_path / "run", model, volumes)
    former, made = begun(tmp_path / "run", model, volumes, "inflate")
    assert former.recipe.modality == "xray"
    image = np.random.default_rng(0).normal(size=(2, 16, 8, 1)).astype(np.float32)
    solid = tokens(model, made, np.repeat(image[:, None], 2 * slices, axis=1))
    shown = jnp.tile(jnp.arange(8), (2, slices))
    alike = encoder(flat, (16, 8)).apply({"params": params}, jnp.asarray(image), shown)
    np.testing.assert_allclose(solid, alike, atol=1e-5)
    np.testing.assert_allclose(
        solid[:, 1:].reshape(2, slices, 8, 24), np.repeat(solid[:, None, 1:9], slices, 1), atol=1e-5
    )
    if slices == 1:
        np.testing.assert_allclose(solid, tokens(flat, params, image), atol=1e-5)
    said = capsys.readouterr().err
    assert "2D patches inflated to 2x4x4" in said
    assert ("all slices start with the same" if positions == "learned" else "tells slices apart") in said


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_positions_of_an_image_are_not_shared_out_anew_over_a_volume(tmp_path, positions):
    """Three axes would leave each other channels and frequencies than the 2D encoder knows."""
    a_run(tmp_path / "run", dataclasses.replace(MODEL, positions=positions))
    model = dataclasses.replace(in_volumes(positions), learned_slices=False)
    volumes = dataclasses.replace(GREY, size=(2, 16, 8))
    with pytest.raises(InputError, match="init_adapt=inflate with config.model.learned_slices=True adapts"):
        begun(tmp_path / "run", model, volumes)
    with pytest.raises(InputError, match=f"{positions} positions of .* set config.model.learned_slices=True"):
        begun(tmp_path / "run", model, volumes, "inflate")


def test_an_inflated_run_starts_another(tmp_path):
    """With its slices, on another grid too; and whoever leaves them out is told."""
    model, volumes = in_volumes("sincos"), dataclasses.replace(GREY, size=(4, 16, 8))
    params = jax.tree.map(np.asarray, fresh(model, volumes))
    save(tmp_path / "run", model, volumes, {**params, "slices": params["slices"] + np.arange(2.0)[:, None]})
    _, made = begun(tmp_path / "run", model, dataclasses.replace(volumes, size=(8, 16, 8)))
    np.testing.assert_allclose(made["slices"][:, 0], [-0.25, 0.25, 0.75, 1.25], atol=1e-6)
    with pytest.raises(InputError, match="learned_slices is False, but .* needs True here"):
        begun(tmp_path / "run", dataclasses.replace(model, learned_slices=False), volumes)


def train_inflated(volumes, folder, flat, patch, **keys):
    """A short training on volumes from the 2D run in ``folder / "former"``, of the model ``flat``."""
    model = dict(variant="custom", shape=flat.shape, patch_size=patch, learned_slices=True)
    short_runs.train(
        short_runs.CLASSIFY,
        volumes,
        folder / "run",
        init_from=folder / "former",
        init_adapt="inflate",
        **{f"model__{key}": value for key, value in model.items()},
        **keys,
    )


def test_whoever_opens_an_inflated_run_has_the_model_that_was_trained(tiny_volumes, tmp_path):
    """What places its patches is in its config and recipe: its features are the 2D run's of the mean slice."""
    flat = dataclasses.replace(MODEL, positions="sincos")
    slices = dataclasses.replace(GREY, modality="mr", size=(16, 16))
    params = a_run(tmp_path / "former", flat, slices)
    train_inflated(tiny_volumes, tmp_path, flat, (16, 4, 4), train__steps=1, optim__lr=1e-12)
    model = Model.open(tmp_path / "run")
    data = Dataset.open(tiny_volumes)
    volumes = data.read("test", np.arange(4))
    image = normalise(*(volumes[name] for name in ("image", "scale", "offset")), model.recipe)
    seen = tokens(flat, params, image.mean(1))[:, 1:].mean(1)
    np.testing.assert_allclose(model.features(data, "test"), seen, atol=1e-4)
    assert model.recipe.model["learned_slices"] and model.config["model"]["learned_slices"]


def test_an_inflated_encoder_learns_the_order_of_slices_by_low_rank_changes_too(tiny_volumes, tmp_path):
    """Else its table of slices stays at zero, in the run or in its average, and only the sentence tells them apart."""
    flat = dataclasses.replace(MODEL, positions="sincos")
    params = a_run(tmp_path / "former", flat, dataclasses.replace(GREY, modality="mr", size=(16, 16)))
    train_inflated(
        tiny_volumes, tmp_path, flat, (4, 4, 4), train__steps=2, optim__ema=0.5, finetune__method="lora"
    )
    made = load(tmp_path / "run")["encoder"]
    assert (np.ptp(made["slices"], axis=0) > 0).any()
    np.testing.assert_array_equal(made["patches"]["bias"], params["patches"]["bias"])


# --- another spacing -------------------------------------------------------------------------------------------------

AT_TWO = dataclasses.replace(GREY, spacing=(2.0, 2.0))
FINER = dataclasses.replace(GREY, size=(32, 16), spacing=(1.0, 1.0))  # of the same extent


@pytest.mark.parametrize("positions", ["sincos", "learned", "rotary"])
@pytest.mark.parametrize("wish", ["", "millimetres"])
def test_at_the_same_size_and_spacing_positions_stay_to_the_bit(tmp_path, capsys, positions, wish):
    model = dataclasses.replace(MODEL, positions=positions)
    params = a_run(tmp_path / "run", model, AT_TWO)
    _, made = begun(tmp_path / "run", model, AT_TWO, wish)
    jax.tree.map(np.testing.assert_array_equal, made, params)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "positions,how",
    [("sincos", "count patches"), ("learned", "span the image"), ("rotary", "span the image")],
)
def test_another_spacing_is_said(tmp_path, capsys, positions, how):
    model = dataclasses.replace(MODEL, positions=positions)
    a_run(tmp_path / "run", model, AT_TWO)
    begun(tmp_path / "run", model, dataclasses.replace(AT_TWO, spacing=(1.0, 1.0)))
    assert (
        f"spacing is 1x1 mm here and 2x2 mm there: {positions} positions {how}, whatever that measures "
        "(config.init_adapt=millimetres keeps their millimetres)" in capsys.readouterr().err
    )
    begun(tmp_path / "run", model, dataclasses.replace(AT_TWO, size=(32, 16), spacing=None))
    assert "size is 32x16 here and 16x8 there, spacing is not known here" in capsys.readouterr().err


def test_counted_patches_of_half_the_millimetres_lie_at_half_steps(tmp_path, capsys):
    """The key that says so is asked for by its value, and the run after that needs it too."""
    model = dataclasses.replace(MODEL, positions="sincos")
    a_run(tmp_path / "run", model, AT_TWO)
    with pytest.raises(InputError, match=r"position_scale is \(1.0, 1.0\), but .* needs \(0.5, 0.5\) here"):
        begun(tmp_path / "run", model, FINER, "millimetres")
    half = dataclasses.replace(model, position_scale=(0.5, 0.5))
    with pytest.raises(InputError, match=r"position_scale is \(0.5, 0.5\), but .* needs \(1.0, 1.0\) here"):
        begun(tmp_path / "run", half, FINER)
    begun(tmp_path / "run", half, FINER, "millimetres")
    assert "sincos positions keep their millimetres" in capsys.readouterr().err
    a_run(tmp_path / "next", half, FINER)
    begun(tmp_path / "next", half, FINER)
    begun(tmp_path / "next", model, AT_TWO, "millimetres")


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_of_a_recipe_that_names_no_model_positions_keep_their_millimetres_too(tmp_path, positions):
    """It is older than scales and slices: otherwise none is asked for, and it is said that they keep them."""
    model = dataclasses.replace(MODEL, positions=positions)
    a_run(tmp_path / "run", model, AT_TWO)
    path = tmp_path / "run" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": None}))
    middle = dataclasses.replace(AT_TWO, spacing=(1.0, 1.0))
    with pytest.raises(InputError, match=r"position_scale is \(1.0, 1.0\), but .* needs \(0.5, 0.5\) here"):
        begun(tmp_path / "run", model, middle, "millimetres")
    half = dataclasses.replace(model, position_scale=(0.5, 0.5))
    begun(tmp_path / "run", half, middle, "millimetres")
    with pytest.raises(InputError, match=r"position_scale is \(0.5, 0.5\), but .* needs \(1.0, 1.0\) here"):
        begun(tmp_path / "run", half, AT_TWO)
    begun(tmp_path / "run", model, AT_TWO)


def test_turned_patches_of_half_the_image_turn_by_half(tmp_path):
    """The same number of patches at half the spacing: what is seen is the middle of what the run saw."""
    model = dataclasses.replace(MODEL, positions="rotary")
    a_run(tmp_path / "run", model, AT_TWO)
    begun(tmp_path / "run", model, FINER, "millimetres")  # of the same extent
    middle = dataclasses.replace(AT_TWO, spacing=(2.0, 1.0))
    with pytest.raises(InputError, match=r"needs \(1.0, 0.5\) here"):
        begun(tmp_path / "run", model, middle, "millimetres")
    begun(tmp_path / "run", dataclasses.replace(model, position_scale=(1.0, 0.5)), middle, "millimetres")


def test_a_learned_table_is_read_at_the_millimetres(tmp_path):
    """Of half the extent: the middle of the table, at half steps; of the same: the linear interpolation."""
    ramp = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 24), np.float32)
    params = {**jax.tree.map(np.asarray, fresh(MODEL, AT_TWO)), "positions": ramp}
    save(tmp_path / "ramp", MODEL, AT_TWO, params)
    _, made = begun(tmp_path / "ramp", MODEL, FINER, "millimetres")
    np.testing.assert_allclose(made["positions"][:, 0, 0], np.arange(8) / 2 - 0.25, atol=1e-6)
    np.testing.assert_allclose(made["positions"].mean((0, 1)), ramp.mean((0, 1)), atol=1e-6)
    middle = dataclasses.replace(AT_TWO, spacing=(1.0, 2.0))
    _, made = begun(tmp_path / "ramp", MODEL, middle, "millimetres")
    np.testing.assert_allclose(made["positions"][:, 0, 0], [0.75, 1.25, 1.75, 2.25], atol=1e-6)
    _, made = begun(tmp_path / "ramp", MODEL, middle)
    np.testing.assert_array_equal(made["positions"], ramp)


def test_millimetres_need_a_spacing(tmp_path):
    a_run(tmp_path / "run", MODEL, AT_TWO)
    with pytest.raises(InputError, match="has 'millimetres', but the spacing of this dataset is not known"):
        begun(tmp_path / "run", MODEL, GREY, "millimetres")


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
    assert (
        "patches of 4x4 there, of 8x8 here: each is seen as resampled to 4x4, the mean preserved"
        in capsys.readouterr().err
    )


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


def test_an_encoder_goes_on_with_the_window_it_learned_from(tmp_path):
    """Otherwise it is fed other grey levels than it knows, without a word."""
    ct = dataclasses.replace(GREY, modality="ct", unit="HU", window=(-1000.0, 1000.0))
    seen = ct.through((0.0, 80.0))
    a_run(tmp_path / "run", recipe=seen)
    with pytest.raises(InputError, match=r"window is .*; config.data.window=\(0,80\) is that run's$"):
        begun(tmp_path / "run", MODEL, ct)
    former, _ = begun(tmp_path / "run", MODEL, seen)
    assert former.recipe.window == (0.0, 80.0)


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


RESNET = ModelConfig("resnet10", width=8)


@pytest.mark.parametrize(
    "stem,side,now,at,says",
    [
        ("full", 32, "half", 32, "stem is 'half', .* half resolution at 32x32.* full .*set it to 'auto' or 'full'"),
        ("auto", 32, "half", 32, "half resolution at 32x32.* full resolution; set it to 'auto' or 'full'"),
        ("half", 32, "auto", 32, "stem is 'auto', which keeps full resolution.*set it to 'half'"),
        ("auto", 32, "auto", 64, "stem is 'auto', which keeps quarter resolution at 64x64.*set it to 'full'"),
        ("auto", 64, "auto", 32, "full resolution at 32x32.* quarter resolution; give scans of at least 64 a side"),
        ("auto", 64, "full", 64, "trained with a stem that keeps quarter resolution; set it to 'auto'"),
    ],
)  # fmt: skip
def test_a_stem_that_keeps_another_resolution_is_another_network(tmp_path, stem, side, now, at, says):
    """Otherwise features are taken from an image twice as fine as the weights know, which no parameter's shape tells."""
    recipe = dataclasses.replace(GREY, size=(side, side), patch_size=None)
    a_run(tmp_path / "run", dataclasses.replace(RESNET, stem=stem), recipe)
    with pytest.raises(InputError, match=says):
        begun(
            tmp_path / "run",
            dataclasses.replace(RESNET, stem=now),
            dataclasses.replace(recipe, size=(at, at)),
        )


@pytest.mark.parametrize("stem,now", [("full", "auto"), ("auto", "full"), ("half", "half")])
def test_a_stem_of_another_name_that_keeps_as_much_goes_on(tmp_path, stem, now):
    recipe = dataclasses.replace(GREY, size=(32, 32), patch_size=None)
    params = a_run(tmp_path / "run", dataclasses.replace(RESNET, stem=stem), recipe)
    larger = dataclasses.replace(recipe, size=(48, 40))
    _, made = begun(tmp_path / "run", dataclasses.replace(RESNET, stem=now), larger)
    jax.tree.map(np.testing.assert_array_equal, made, params)


def test_an_unknown_wish_names_the_nearest():
    with pytest.raises(InputError, match="inflat is not an init_adapt; did you mean inflate"):
        adaptations("patch+inflat")
