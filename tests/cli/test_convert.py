"""``vitmed convert``: published weights to a run that training starts from, and a run's weights out and in again."""

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_runs import CLASSIFY, same, settings

import vitmed.runs
from vitmed.cli.main import main
from vitmed.config import build
from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.models.build import ModelConfig
from vitmed.models.build import encoder as network
from vitmed.runs import folder
from vitmed.scans.recipe import normalise

sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))  # numpy_published, by name
import numpy_published  # noqa: E402

IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def weights():
    return numpy_published.random_weights(
        np.random.default_rng(0), cells=(4, 4), registers="register_tokens", scale=True
    )


@pytest.fixture(scope="module")
def source(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dinov2.npz"
    np.savez(path, **weights, mask_token=np.zeros((1, 16), np.float32))
    return path


def converted(capsys, *words):
    code = main(["convert", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out.strip().splitlines()[-1]), err


@pytest.mark.parametrize("modality,low,high", [("xray", 0.0, 1.0), ("ct", -1000.0, 1000.0)])
def test_a_grey_scan_gives_the_tokens_of_the_picture_that_repeats_it(
    source, weights, tmp_path, capsys, modality, low, high
):
    """From stored integers by the recipe, against the published network on ImageNet's normalisation of RGB."""
    run = tmp_path / "run"
    words = (source, "--out", run, "--modality", modality, "--channels", 1, "--heads", 2)
    result, said = converted(capsys, *words)
    assert result["layout"] == "DINOv2 (facebookresearch)" and result["left_out"] == ["mask_token"]
    assert "each of its 3 channels is shown the mean of 1" in said and "left out: mask_token" in said
    recipe = folder.recipe_of(run)
    assert (recipe.modality, recipe.channels, recipe.window) == (modality, 1, (low, high))

    grey = np.random.default_rng(1).uniform(size=(16, 16))
    scale = (high - low) / 60000
    stored = np.round(grey * 60000).astype(np.int32)[None, ..., None]
    image = normalise(stored, np.full((1, 1), scale), np.full((1, 1), low), recipe)
    model = build(ModelConfig, recipe.model, "model")
    params = vitmed.runs.load(run)["encoder"]
    made = network(model, (16, 16)).apply({"params": params}, jnp.asarray(image))[0]
    colour = np.stack([(grey - m) / s for m, s in zip(*IMAGENET)])
    double = {name: value.astype(np.float64) for name, value in weights.items()}
    np.testing.assert_allclose(made, numpy_published.tokens(double, colour, 2), atol=2e-4)

    again, _ = converted(capsys, *words)
    assert again == result, "the same command finds the run as it is"


def test_training_starts_from_it_by_the_keys_it_prints(source, tiny_dataset, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["convert", source, "--out", run, "--modality", "xray", "--channels", 1, "--heads", 2]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out.strip().splitlines()[-1].split()
    keys = dict(word.removeprefix("--config.").split("=", 1) for word in printed)
    keys = {key: value.strip('"') for key, value in keys.items()}
    assert keys["init_from"] == str(run) and keys["model.patch_size"] == "(4,4)"
    # Asked for what it cannot say, a run of weights alone says what to do, and names no key that nobody set.
    for verb in (["evaluate", run], ["predict", run, tiny_dataset, "--out", tmp_path / "out"]):
        assert main([str(word) for word in verb]) == 2
        assert "fine-tune it" in capsys.readouterr().err
    job = Job(check(settings(CLASSIFY, tiny_dataset, **keys, **{"model.scan": False})))
    assert job.recipe.mean == folder.recipe_of(run).mean
    state = job.with_former(job.engine.to_host(job.engine.init(job.fresh_state, job.seed)))
    assert same(state["params"]["encoder"], vitmed.runs.load(run)["encoder"])


def test_a_run_in_place_of_a_file_is_told_how_it_goes_out(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert main(["convert", str(tmp_path / "run"), "--out", str(tmp_path / "w.safetensors")]) == 2
    assert "is a run; to write its weights to a file give --to safetensors" in capsys.readouterr().err


def test_a_runs_weights_go_out_and_come_in_with_their_recipe(source, tmp_path, capsys):
    run, file, back = (tmp_path / name for name in ("run", "w.safetensors", "back"))
    converted(capsys, source, "--out", run, "--modality", "mr", "--heads", 2)
    out, _ = converted(capsys, run, "--to", "safetensors", "--out", file)
    assert out["parameters"] == sum(x.size for x in jax.tree.leaves(vitmed.runs.load(run)))
    result, _ = converted(capsys, file, "--out", back)
    assert result["layout"] == "vitmed"
    assert same(vitmed.runs.load(run), vitmed.runs.load(back))
    assert folder.recipe_of(run) == folder.recipe_of(back)


@pytest.mark.parametrize(
    "words,says",
    [
        ((), "--modality is missing"),
        (("--modality", "xray", "--channels", "0"), "--channels is 0"),
        (("--modality", "x2ray"), "modality 'x2ray' is not known"),
        (("--modality", "xray", "--mean", "0.5"), "--mean and --std belong together"),
        (("--modality", "xray", "--mean", "0.5", "--std", "0.5"), "are not one a channel of 3"),
        (("--modality", "xray", "--size", "16by16"), "--size is '16by16'; numbers with commas"),
        (("--modality", "xray", "--size", "16,24"), "give --size"),
        (("--to", "safetensors"), "not a run"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(source, tmp_path, capsys, words, says):
    assert main(["convert", str(source), "--out", str(tmp_path / "run"), "--heads", "2", *words]) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_where_the_epsilon_of_the_norms_comes_from_is_said(source, tmp_path, capsys):
    """No array tells it, and a network that is another layout's twin in names may have been trained with another."""
    words = (source, "--out", tmp_path / "run", "--modality", "xray", "--heads", 2)
    result, said = converted(capsys, *words)
    assert "norms with epsilon 1e-06, as usual for this layout, told by no config.json beside it" in said
    assert result["model"]["epsilon"] == 1e-6
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(source, beside)
    (beside / "config.json").write_text(json.dumps({"model_type": "x", "layer_norm_eps": 1e-12}))
    result, said = converted(capsys, beside / source.name, "--out", tmp_path / "other", *words[3:])
    assert "norms with epsilon 1e-12, by the config.json beside it" in said
    assert result["model"]["epsilon"] == 1e-12


def test_weights_that_do_not_say_how_their_images_were_normalised(weights, tmp_path, capsys):
    """timm's have one of two usual ways, which no name tells."""
    plain = {name: value for name, value in weights.items() if name != "register_tokens"}
    np.savez(tmp_path / "timm.npz", **plain)
    words = ["convert", tmp_path / "timm.npz", "--out", tmp_path / "run", "--modality", "xray", "--heads", 2]
    assert main([str(word) for word in words]) == 2
    assert "weights of ViT (timm) do not say how their images were normalised" in capsys.readouterr().err
    converted(capsys, *words[1:], "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5")
    assert folder.recipe_of(tmp_path / "run").std == (0.5, 0.5, 0.5)
