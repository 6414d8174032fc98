"""Segmentation from end to end: through the one loop, from a pretrained encoder, and back onto the scans' grid."""

from pathlib import Path

import jax
import numpy as np
import pytest
from short_runs import MAE, PROJECT, settings, train

from vitmed.apply.predict import predict
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate.evaluate import evaluate
from vitmed.infer import Model, truth
from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.objectives.segmentation import Segmentation
from vitmed.runs import load
from vitmed.scans.recipe import normalise

SEGMENT = str(PROJECT / "configs" / "finetune_segment.py")
FLAT, DEEP = {"model__patch_size": (4, 4)}, {"model__patch_size": (4, 4, 4)}


@pytest.fixture(scope="module")
def pretrained(marked_dataset, tmp_path_factory):
    return train(MAE, marked_dataset, tmp_path_factory.mktemp("segment") / "mae", **FLAT)["run"]


@pytest.fixture(scope="module")
def finetuned(marked_dataset, pretrained, tmp_path_factory):
    run = tmp_path_factory.mktemp("segment") / "run"
    keys = dict(FLAT, init_from=pretrained, train__val_every=2)
    return train(f"{SEGMENT}:tiny", marked_dataset, run, **keys)


@pytest.fixture(scope="module")
def of_crops(marked_volumes, tmp_path_factory):
    """A U-Net trained on boxes of volumes."""
    run = tmp_path_factory.mktemp("segment") / "run"
    keys = dict(train__batch_size=8, model__width=4, data__crop=(8, 8, 8))
    return train(f"{SEGMENT}:unet", marked_volumes, run, **keys)["run"]


def test_it_starts_from_a_masked_autoencoder(marked_dataset, pretrained):
    """The encoder's tree is the same in every objective: otherwise no pretraining can be of use."""
    job = Job(check(settings(f"{SEGMENT}:tiny", marked_dataset, init_from=pretrained, **FLAT)))
    state = job.with_former(job.fresh_state(job.seed))
    theirs = load(pretrained)["encoder"]
    assert jax.tree.all(jax.tree.map(np.array_equal, state["params"]["encoder"], theirs))


def test_training_validates_on_what_is_marked(finetuned, marked_dataset):
    assert {"dice", "cross_entropy", "val/dice", "val/loss"} <= set(finetuned["metrics"])
    job = Job(check(settings(f"{SEGMENT}:tiny", marked_dataset, **FLAT)))
    assert job.examples == 11, "a scan without a mask is trained on"
    few = Job(check(settings(f"{SEGMENT}:tiny", marked_dataset, data__labels=4, **FLAT)))
    assert few.examples == 4


def test_what_is_balanced_are_the_structures_of_the_masks(marked_dataset):
    """And not the labels of the set, if it has some; else small structures are drawn and weighed as they come."""
    weighed, job = (
        Job(check(settings(f"{SEGMENT}:tiny", marked_dataset, **{key: "balanced"}, **FLAT)))
        for key in ("objective__class_weights", "data__sampling")
    )
    rooted = Job(check(settings(f"{SEGMENT}:tiny", marked_dataset, objective__class_weights="root", **FLAT)))
    assert rooted.spec.counts == weighed.spec.counts
    (part,) = job.feeds["main"].parts
    masks = job.dataset.read("train", part.members)["mask"]
    shown = np.bincount(masks.ravel(), minlength=256)[:3]
    assert weighed.spec.counts == tuple((int(n), int(shown.sum() - n)) for n in shown)
    with_box = (masks == 1).any(axis=(1, 2))
    assert 2 * with_box.sum() != len(masks)
    drawn = next(job.batches(0))["main"]["mask"]
    assert 2 * (drawn == 1).any(axis=(1, 2)).sum() == len(drawn)


def test_counting_the_voxels_of_many_masks_says_how_far_it_is(marked_dataset, monkeypatch, capsys):
    """The shipped config weighs by them: of thousands of volumes a training would begin with minutes of silence."""
    config = check(settings(f"{SEGMENT}:tiny", marked_dataset, **FLAT))
    Job(config, quiet=False)
    assert "counting" not in capsys.readouterr().err, "a dozen take no time"
    monkeypatch.setattr("vitmed.job.truth._TOLD", 1)
    Job(config, quiet=False)
    assert "counting voxels: 11/11 masks" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["marked_dataset", "marked_volumes"])
def test_masks_follow_the_augmented_scans(name, request):
    """What is moved or mirrored in the image and not in the mask teaches the wrong place."""
    path = request.getfixturevalue(name)
    job = Job(
        check(
            settings(
                f"{SEGMENT}:unet",
                path,
                model__width=4,
                augment={"flip": (0, 1), "rotate": 20.0, "shift": 0.1, "scale": (0.8, 1.2)},
            )
        )
    )
    batch = {"main": job.dataset.read("train", job.feeds["main"].parts[0].members[:8])}
    batch["main"]["mask"][batch["main"]["mask"] == 255] = 0
    plain = job._prepare(batch, None)["main"]
    moved = job._prepare(batch, jax.random.key(3))["main"]
    assert (np.asarray(moved["mask"]) != batch["main"]["mask"]).mean() > 0.05

    def brightness(stream, k):
        return np.asarray(stream["image"])[..., 0][np.asarray(stream["mask"]) == k].mean()

    # Structure 1 is the brightest, 2 lies between it and what surrounds them: as before, but for mixed edges.
    levels = [[brightness(stream, k) for k in (0, 2, 1)] for stream in (plain, moved)]
    spread = levels[0][2] - levels[0][0]
    np.testing.assert_allclose(levels[1], levels[0], atol=0.25 * spread)


def test_masks_come_out_on_the_datasets_grid_in_order(finetuned, marked_dataset):
    model, dataset = Model.open(finetuned["run"]), Dataset.open(marked_dataset)
    assert model.gives_masks and not model.has_head and model.structures == ["1", "2"]
    made = dict(model.probabilities(dataset, "val"))
    assert list(made) == list(range(dataset.size("val")))
    stream = dataset.read("val", np.arange(len(made)))
    image = normalise(stream["image"], stream["scale"], stream["offset"], model.recipe)
    logits = Segmentation(model._model, model._spec).logits(model.params, image)
    for index, probability in made.items():
        assert probability.shape == (16, 24, 3)
        np.testing.assert_allclose(probability, jax.nn.softmax(logits[index]), atol=1e-5)
    turned = list(model.segment(dataset, "val", np.array([2, 0])))
    assert [index for index, _ in turned] == [2, 0]
    for index, labels in turned:
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, made[index].argmax(-1))


def test_a_model_of_crops_slides_over_whole_scans_and_small_ones(of_crops, marked_volumes, tmp_path):
    from vitmed.data.ingest import ingest

    model, dataset = Model.open(of_crops), Dataset.open(marked_volumes)
    ((index, probability),) = model.probabilities(dataset, "test", np.array([1]))
    assert index == 1 and probability.shape == (8, 16, 12, 3)
    np.testing.assert_allclose(probability.sum(-1), 1, atol=1e-4)
    scans = Path(marked_volumes).parent / "scans.csv"
    ingest(scans, tmp_path / "small", modality="mr", size=(4, 16, 6), workers=1)
    small = Dataset.open(tmp_path / "small")
    assert [labels.shape for _, labels in model.segment(small, "val")] == [(4, 16, 6)] * small.size("val")
    with pytest.raises(InputError, match="does not lie within the 4,16,6"):
        model.features(small, "val")
    # Masks are made of scans that are smaller than a box, by every command that makes some.
    assert 0 <= evaluate(of_crops, dataset=tmp_path / "small", split="val")["metrics"]["dice"]["value"] <= 1
    assert predict(of_crops, [tmp_path / "small"], tmp_path / "out", split="val")["examples"] == small.size("val")


def test_the_truth_is_in_the_same_classes(marked_dataset, tiny_dataset):
    dataset = Dataset.open(marked_dataset)
    ids = dataset.ids("train")
    masks = {name: truth(dataset, "train", n) for n, name in enumerate(ids)}
    assert sum(mask is None for mask in masks.values()) == 1
    known = [mask for mask in masks.values() if mask is not None]
    assert set(np.unique(known)) == {0, 1, 2, 255} and sum((mask == 255).any() for mask in known) == 1
    assert truth(Dataset.open(tiny_dataset), "val", 0) is None


def test_what_does_not_fit_is_refused(finetuned, pretrained, marked_dataset, tiny_dataset):
    dataset = Dataset.open(marked_dataset)
    with pytest.raises(InputError, match="is a 'mae' run, which gives no masks"):
        next(Model.open(pretrained).segment(dataset, "val"))
    model = Model.open(finetuned["run"])
    with pytest.raises(InputError, match="size is"):
        next(model.segment(Dataset.open(tiny_dataset), "val"))
    with pytest.raises(InputError, match="crop_foreground is 0.3, but 'mae' does not learn from masks"):
        Job(check(settings(MAE, marked_dataset, data__crop=(8, 8), data__crop_foreground=0.3, **FLAT)))
    dataset.datasheet["structures"] = {"liver": [1]}
    with pytest.raises(InputError, match="hold 1, liver, 2, but the run .* learned 1, 2"):
        next(model.segment(dataset, "val"))
    with pytest.raises(InputError, match="has no masks; ingest it with some"):
        Job(check(settings(f"{SEGMENT}:tiny", tiny_dataset, **FLAT)))
