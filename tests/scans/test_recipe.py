import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.scans import recipe
from vitmed.scans.recipe import Recipe, normalise, to_units

CHEST = Recipe(
    modality="xray",
    channels=2,
    size=(3, 4),
    spacing=None,
    unit="relative",
    window=(0.0, 1.0),
    mean=(0.5, 0.25),
    std=(0.2, 0.1),
    patch_size=(1, 2),
    model={"variant": "ti"},
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DX", "xray"),
        ("x-ray", "xray"),
        ("CT", "ct"),
        ("MRI", "mr"),
        ("us", "ultrasound"),
        ("unknown", "unknown"),
    ],
)
def test_usual_names_of_modalities(text, name):
    """Otherwise a user who writes what DICOM writes is turned away."""
    assert recipe.modality(text) == name


def test_an_unknown_modality_is_refused_with_the_choices():
    """Otherwise a typing mistake becomes a normalisation nobody chose."""
    with pytest.raises(InputError, match="'PETT'.*xray, ct, mr, ultrasound, unknown"):
        recipe.modality("PETT")


def test_json_gives_the_same_recipe_back(tmp_path):
    """Otherwise a run cannot say how its input was prepared."""
    path = tmp_path / "recipe.json"
    path.write_text(CHEST.to_json())
    assert Recipe.from_json(path) == CHEST


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 2}', '{"format": 1, "modality": "ct"}'])
def test_what_is_no_recipe_is_named(tmp_path, text):
    """Otherwise a damaged run ends in a traceback."""
    path = tmp_path / "recipe.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"recipe\.json"):
        Recipe.from_json(path)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("modality", "ct", "modality is xray here and ct there"),
        ("channels", 3, "channels is 2 here and 3 there"),
        ("size", (3, 4, 5), "dimension is 2D here and 3D there"),
        ("unit", "HU", "unit is relative here and HU there"),
        ("window", (-1000.0, 1000.0), "window"),
        ("patch_size", (2, 2), r"patch_size is (1, 2) here and (2, 2) there"),
    ],
)
def test_each_mismatch_is_named_with_both_sides(key, value, word):
    """Otherwise weights are used on numbers that mean something else."""
    (found,) = CHEST.differences(dataclasses.replace(CHEST, **{key: value}))
    assert word in found


def test_what_may_differ_does_not_count():
    """Otherwise a pretrained model fits no other dataset: means differ between any two."""
    other = dataclasses.replace(CHEST, size=(6, 8), mean=(0.1, 0.1), std=(1.0, 1.0), spacing=(1.0, 1.0))
    assert CHEST.differences(other) == []


def test_normalise_is_the_formula_and_equal_in_jax(rng):
    """Otherwise the model sees other numbers in the compiled step than outside it."""
    image = rng.integers(0, 4000, (5, 3, 4, 2)).astype(np.uint16)
    scale = rng.uniform(1e-4, 5e-4, (5, 2)).astype(np.float32)
    offset = rng.uniform(-0.1, 0.1, (5, 2)).astype(np.float32)
    units = np.clip(image * scale[:, None, None] + offset[:, None, None], 0, 1)
    wanted = (units - [0.5, 0.25]) / [0.2, 0.1]
    ours = normalise(image, scale, offset, CHEST)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    compiled = jax.jit(lambda *a: normalise(*a, CHEST))(jnp.asarray(image), scale, offset)
    np.testing.assert_allclose(compiled, ours, atol=1e-5)
    np.testing.assert_allclose(to_units(ours, CHEST), units, atol=1e-5)
    np.testing.assert_allclose(normalise(image[0], scale[0], offset[0], CHEST), ours[0], atol=1e-6)


def test_named_windows_are_those_of_radiologists():
    """Otherwise a name promises another window than every viewer has under it."""
    assert recipe.ends_of("lung") == (-1350, 150) and recipe.ends_of("brain") == (0, 80)
    assert recipe.ends_of("abdomen") == (-150, 250) and recipe.ends_of("bone") == (-500, 1300)
    assert recipe.ends_of((-160, 240)) == (-160, 240)
    for wrong in ("lungs", (), (1.0,), (240, -160), (0, float("nan"))):
        with pytest.raises(ValueError, match="^window is"):
            recipe.ends_of(wrong)


def test_a_chosen_window_fills_the_models_range():
    """Otherwise a narrow window is normalised by the spread of another one, and all that it shows is flattened."""
    ct = dataclasses.replace(
        CHEST, modality="ct", unit="HU", window=(-1000.0, 1000.0), channels=1, mean=(-300.0,), std=(500.0,)
    )
    seen = ct.through(recipe.ends_of("brain"))
    image = np.array([-1000, 0, 40, 80, 900], np.int16).reshape(1, 5, 1)
    made = normalise(image, np.ones(1), np.zeros(1), seen)
    np.testing.assert_allclose(made.ravel(), [-1, -1, 0, 1, 1])
    assert ct.differences(seen) == ["window is (-1000.0, 1000.0) here and (0.0, 80.0) there"]
