"""A run opened for use: answers do not depend on the batch they come in, and a run is fed what it was made for."""

import dataclasses

import numpy as np
import pytest

from vitmed import config
from vitmed.data import loader
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.infer import Model
from vitmed.models.build import ModelConfig
from vitmed.models.patches import brightest, grid, patchify
from vitmed.train import train

CONFIGS = __file__.rsplit("/tests/", 1)[0] + "/configs"


def trained(name, dataset, run, **keys):
    keys = {"data.path": str(dataset), "train.steps": "2", "train.val_every": "0", **keys}
    train(config.load(f"{CONFIGS}/{name}.py:tiny", keys), run, quiet=True)
    return run


@pytest.fixture(scope="module")
def classifier(tiny_dataset, tmp_path_factory):
    return trained("finetune_classify", tiny_dataset, tmp_path_factory.mktemp("infer") / "classifier")


@pytest.fixture(scope="module")
def autoencoder(tiny_dataset, tmp_path_factory):
    return trained("pretrain_mae", tiny_dataset, tmp_path_factory.mktemp("infer") / "mae")


def test_answers_are_in_the_splits_order_whatever_the_batch(classifier, tiny_dataset, monkeypatch):
    """A padded last batch, or another batch size, must not shift or change a row."""
    dataset, model = Dataset.open(tiny_dataset), Model.open(classifier)
    whole = model.logits(dataset, "train")
    assert whole.shape == (dataset.size("train"), 2)
    np.testing.assert_allclose(model.logits(dataset, "train", np.array([5, 2])), whole[[5, 2]], atol=1e-5)
    monkeypatch.setattr("vitmed.infer.BATCH", 7)
    np.testing.assert_allclose(Model.open(classifier).logits(dataset, "train"), whole, atol=1e-5)
    assert model.features(dataset, "val").shape == (dataset.size("val"), 128)


def test_large_scans_are_asked_about_a_few_at_once(classifier, tiny_dataset, monkeypatch):
    """Otherwise evaluation runs out of memory where training did not; the answers are the same to rounding."""
    dataset, model, sizes = Dataset.open(tiny_dataset), Model.open(classifier), []
    whole, plain = model.logits(dataset, "val"), loader.sweep

    def sweep(dataset, split, batch_size, **keys):
        sizes.append(batch_size)
        return plain(dataset, split, batch_size, **keys)

    monkeypatch.setattr(loader, "sweep", sweep)
    tokens = np.prod(grid(model.recipe.size, model.recipe.patch_size))
    monkeypatch.setattr("vitmed.infer.TOKENS", 3 * tokens + 1)
    np.testing.assert_allclose(model.logits(dataset, "val"), whole, atol=1e-5)
    assert model.features(dataset, "val").shape == (len(whole), 128)
    assert sizes == [3, 3]


@pytest.mark.parametrize(
    ("size", "model", "masks", "batch"),
    [
        ((224, 224), ("b", (16, 16)), False, 128),
        ((160, 160, 160), ("b", (8, 8, 8)), False, 4),
        ((512, 512, 512), ("b", (8, 8, 8)), False, 1),
        ((64, 64, 64), ("resnet18", ()), False, 4),
        ((64, 64, 64), ("b", (8, 8, 8)), True, 4),
        ((16, 16), ("resnet18", ()), False, 128),
    ],
)
def test_a_batch_is_what_the_size_of_the_scans_leaves_memory_for(classifier, size, model, masks, batch):
    """Otherwise 128 volumes at once want 25 GB for attention scores, or small scans are asked about one by one."""
    asked = Model.open(classifier)
    asked.recipe, asked._model = dataclasses.replace(asked.recipe, size=size), ModelConfig(*model)
    if masks:
        asked.config = config.load(f"{CONFIGS}/finetune_segment.py:tiny")
    assert asked.batch == batch


def test_reconstruction_pastes_what_is_visible_and_changes_what_is_hidden(autoencoder, tiny_dataset):
    """Users of masked autoencoders ask why visible patches look bad: here they are the image's own."""
    stream = Dataset.open(tiny_dataset).read("val", np.arange(4))
    made = Model.open(autoencoder).reconstruct(stream)
    hidden = made["mask"][..., None].astype(bool)
    assert hidden.mean() == pytest.approx(0.75)
    np.testing.assert_allclose(made["reconstruction"][~hidden], made["image"][~hidden], atol=1e-5)
    assert not np.allclose(made["reconstruction"][hidden], made["image"][hidden], atol=1e-3)
    assert np.isnan(made["masked"][hidden]).all() and not np.isnan(made["masked"][~hidden]).any()
    stored = stream["image"] * stream["scale"][:, None, None] + stream["offset"][:, None, None]
    np.testing.assert_allclose(made["image"], stored.clip(0, 1), atol=1e-4)


def test_what_a_run_does_not_look_at_is_neither_hidden_nor_changed(tiny_dataset, tmp_path):
    """Of a run that sees the brightest patches alone the picture would be made up of others."""
    model = Model.open(
        trained("pretrain_mae", tiny_dataset, tmp_path / "run", **{"model.brightest_patches": "10"})
    )
    made = model.reconstruct(Dataset.open(tiny_dataset).read("val", np.arange(4)))
    hidden = made["mask"][..., None].astype(bool)
    patch = model.recipe.patch_size
    assert hidden.sum() == 4 * 8 * np.prod(patch), "of ten patches, three quarters"
    np.testing.assert_allclose(made["reconstruction"][~hidden], made["image"][~hidden], atol=1e-5)
    dark = np.asarray(brightest(-made["image"], patch, 3))
    cut = np.asarray(patchify(hidden.astype(np.float32), patch)).max(-1)
    assert not np.take_along_axis(cut, dark, axis=1).any(), "the darkest are not looked at"


def test_what_is_hidden_is_what_the_run_hides(autoencoder, tiny_dataset):
    """Otherwise a model trained on tubes is shown single patches, which it never had to fill in."""
    model = Model.open(autoencoder)
    model.config["objective"]["mask"] = "tube"
    hidden = model.reconstruct(Dataset.open(tiny_dataset).read("val", np.arange(4)))["mask"]
    assert (hidden == hidden[:, :1]).all() and hidden.mean() == pytest.approx(0.75)


def test_masks_in_evaluation_belong_to_the_example(autoencoder, tiny_dataset):
    dataset, model = Dataset.open(tiny_dataset), Model.open(autoencoder)
    together = model.reconstruct(dataset.read("val", np.array([0, 1, 2])))["mask"]
    alone = model.reconstruct(dataset.read("val", np.array([2])))["mask"]
    np.testing.assert_array_equal(together[2], alone[0])


def test_what_a_run_cannot_answer_is_refused(autoencoder, classifier, tiny_dataset, tiny_volumes, tmp_path):
    dataset = Dataset.open(tiny_dataset)
    with pytest.raises(InputError, match="is a 'mae' run, which gives no scores"):
        Model.open(autoencoder).logits(dataset, "val")
    with pytest.raises(InputError, match="reconstructs nothing"):
        Model.open(classifier).reconstruct(dataset.read("val", np.arange(1)))
    with pytest.raises(InputError, match="modality is xray here and mr there"):
        Model.open(classifier).logits(Dataset.open(tiny_volumes), "val")
    with pytest.raises(InputError, match=str(tmp_path)):
        Model.open(tmp_path)


def test_a_run_asks_about_other_scans_through_its_own_window(classifier, tiny_dataset):
    """Otherwise a run that learned from a lung window cannot be evaluated at all, or sees scans through another."""
    dataset, model = Dataset.open(tiny_dataset), Model.open(classifier)
    dataset.datasheet = dataset.datasheet | {"modality": "ct", "unit": "HU", "window": [-1000, 1000]}
    model.recipe = dataclasses.replace(dataset.recipe(), window=(-1350.0, 150.0))
    model.check(dataset)
    model.recipe = dataclasses.replace(model.recipe, unit="relative")
    with pytest.raises(InputError, match="unit is relative here and HU there; window is"):
        model.check(dataset)


def test_a_run_on_crops_is_asked_about_the_centre(tiny_volumes, tmp_path):
    """Otherwise a model of crops cannot be evaluated on the volumes that it learned from, or by luck only."""
    dataset = Dataset.open(tiny_volumes)
    whole = dataset.recipe().size
    crop = tuple(n // 2 for n in whole)
    patch = (4,) * 3
    run = trained(
        "pretrain_mae",
        tiny_volumes,
        tmp_path / "run",
        **{"data.crop": str(crop), "model.patch_size": str(patch), "train.val_every": "2"},
    )
    model = Model.open(run)
    assert model.recipe.size == model.crop == crop
    stream = model.read(dataset, "train", np.arange(2))
    place = tuple(slice((n - c) // 2, (n - c) // 2 + c) for n, c in zip(whole, crop))
    np.testing.assert_array_equal(
        stream["image"], dataset.read("train", np.arange(2))["image"][(slice(None), *place)]
    )
    assert model.reconstruct(stream)["image"].shape[1:-1] == crop
    assert model.features(dataset, "train").shape[0] == dataset.size("train")
    small = tmp_path / "small"
    trained("pretrain_mae", tiny_volumes, small, **{"model.patch_size": str(patch)})
    assert Model.open(small).crop is None
