"""Learning from labels: each task's loss against an independent computation, missing labels, mixup."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.models.vit import ViT
from vitmed.objectives import semi_masked, semi_teacher, supervised
from vitmed.objectives.interface import Spec

VIT = ModelConfig(variant="nano", patch_size=(4, 4), scan=True)
RESNET = ModelConfig(variant="resnet10", width=8)


def batch_of(rng, label, weight, size=(8, 8)):
    n = len(label)
    return {
        "main": {
            "image": jnp.asarray(rng.normal(size=(n, *size, 1)).astype(np.float32)),
            "weight": jnp.ones(n),
            "label": jnp.asarray(label, jnp.float32),
            "label_weight": jnp.asarray(weight, jnp.float32),
            "example": jnp.asarray(np.stack([np.arange(n)] * 2, 1), jnp.uint32),
        }
    }


GRADES = ("severe", "none", "mild", "moderate")
UPWARDS = ("none", "mild", "moderate", "severe")


def loss_and_logits(rng, kind, outputs, label, weight, model=VIT, counts=(), label_scale=(), **keys):
    spec = Spec((8, 8), 1, kind, outputs, classes=GRADES[:outputs], counts=counts, label_scale=label_scale)
    objective = supervised.build(supervised.Config(**keys), model, spec)
    params, memory = objective.init(jax.random.key(0), spec)
    params["head"]["scores"]["kernel"] = jax.random.normal(
        jax.random.key(1), params["head"]["scores"]["kernel"].shape
    )
    batch = batch_of(rng, label, weight)
    loss, (metrics, _) = objective.loss(params, memory, batch, jax.random.key(0), train=False)
    network = supervised.classifier(supervised.Config(**keys), model, spec)
    logits = network.logits(params, batch["main"]["image"])
    return float(loss), np.asarray(logits, np.float64), metrics


@pytest.mark.parametrize("model", [VIT, RESNET])
def test_multiclass(rng, model):
    label = np.array([[0], [2], [1], [2]])
    loss, logits, metrics = loss_and_logits(
        rng, "multiclass", 3, label, np.ones((4, 1)), model, label_smoothing=0.1
    )
    target = np.eye(3)[label[:, 0]] * 0.9 + 0.1 / 3
    assert loss == pytest.approx(-(target * log_softmax(logits, -1)).sum(-1).mean(), rel=1e-4)
    assert float(metrics["accuracy"].value) == pytest.approx((logits.argmax(-1) == label[:, 0]).mean())


def test_an_attentive_pool_has_the_heads_of_the_encoder_whatever_its_shape(rng):
    """Published encoders of other shapes than the named variants are "custom"."""
    model = ModelConfig("custom", (4, 4), shape=(24, 1, 3, 48), pool="attentive")
    spec = Spec((8, 8), 1, "multiclass", 2)
    objective = supervised.build(supervised.Config(), model, spec)
    params, _ = objective.init(jax.random.key(0), spec)
    assert params["head"]["attention"]["query"].shape == (3, 8)
    loss, _ = objective.loss(params, {}, batch_of(rng, [[0], [1]], [[1], [1]]), jax.random.key(0))
    assert float(loss) == pytest.approx(np.log(2), rel=1e-5), "the head starts at zero"


@pytest.mark.parametrize("pool", ["mean", "attentive"])
def test_only_the_brightest_patches_are_looked_at(rng, pool):
    """Otherwise air is paid for, or what is looked at depends on it."""
    model = ModelConfig("custom", (4, 4), shape=(24, 2, 3, 48), pool=pool)
    spec = Spec((8, 12), 2, "multiclass", 2)
    network, chosen = (
        supervised.classifier(supervised.Config(), dataclasses.replace(model, brightest_patches=n), spec)
        for n in (0, 2)
    )
    params = network.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, chosen.init(jax.random.key(0))) == jax.tree.map(jnp.shape, params)
    image = rng.normal(-3, 0.1, (2, 8, 12, 2)).astype(np.float32)
    image[0, :4, 4:8] += 1  # patches 1 and 5
    image[0, 4:, 8:] += 2
    image[1, 4:, :4, 0] += 5  # patches 3 and 0
    image[1, :4, :4, 1] += 4
    features = np.asarray(chosen.features(params, image))
    tokens = ViT(model.vit, (4, 4)).apply({"params": params["encoder"]}, image, jnp.asarray([[1, 5], [0, 3]]))
    if pool == "mean":
        np.testing.assert_allclose(features, tokens[:, 1:].mean(1), rtol=1e-5, atol=1e-6)
    image[:, :4, 8:] -= rng.random((2, 4, 4, 2)).astype(np.float32)  # patch 2
    np.testing.assert_array_equal(chosen.features(params, image), features)
    assert not np.allclose(network.features(params, image), features, atol=1e-3)
    with pytest.raises(InputError, match="brightest_patches is 6, but a scan has 6 patches"):
        supervised.classifier(supervised.Config(), dataclasses.replace(model, brightest_patches=6), spec)


def test_class_weights(rng):
    label = np.array([[0], [1], [1]])
    loss, logits, _ = loss_and_logits(rng, "multiclass", 2, label, np.ones((3, 1)), class_weights=(3.0, 1.0))
    each = -log_softmax(logits, -1)[np.arange(3), label[:, 0]] * np.array([3.0, 1.0, 1.0])
    assert loss == pytest.approx(each.mean(), rel=1e-4)


def test_balanced_weights_are_of_the_counts_given(rng):
    """scikit-learn's n / (K n_k); of several labels the ratio of its two sides. A class that is never shown has none."""
    label = np.array([[0], [1], [1]])
    counts = ((10, 90), (60, 40), (30, 70), (0, 100))
    loss, logits, _ = loss_and_logits(
        rng, "multiclass", 4, label, np.ones((3, 1)), class_weights="balanced", counts=counts
    )
    weights = 100 / (3 * np.array([10.0, 60.0, 60.0]))
    assert loss == pytest.approx(
        (-log_softmax(logits, -1)[np.arange(3), label[:, 0]] * weights).mean(), rel=1e-4
    )

    label = np.array([[0, 1], [1, 1]])
    loss, logits, _ = loss_and_logits(
        rng, "multilabel", 2, label, np.ones((2, 2)), class_weights="balanced", counts=((5, 20), (7, 0))
    )
    p, positive = expit(logits), np.array([4.0, 1.0])
    assert loss == pytest.approx(
        -(positive * label * np.log(p) + (1 - label) * np.log(1 - p)).mean(), rel=1e-4
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ordinal(rng, smoothing):
    """The likelihood of the cumulative-logit model, whatever order the dataset has its classes in; the median is said."""
    label = np.array([[0], [3], [1], [2]])
    loss, logits, metrics = loss_and_logits(
        rng, "multiclass", 4, label, np.ones((4, 1)), task="ordinal", order=UPWARDS, label_smoothing=smoothing
    )
    chance = np.exp(logits)
    np.testing.assert_allclose(chance.sum(-1), 1, rtol=1e-5)
    target = np.eye(4)[label[:, 0]] * (1 - smoothing) + smoothing / 4
    assert loss == pytest.approx(-(target * logits).sum(-1).mean(), rel=1e-4)
    upwards = chance[:, [GRADES.index(name) for name in UPWARDS]]
    above = 1 - np.cumsum(upwards, axis=1)[:, :3]  # log odds differ between scans by one number
    odds = np.log(above / (1 - above))
    assert np.ptp(odds[:, 0]) > 1e-3
    np.testing.assert_allclose(odds - odds[:, :1], np.tile((odds - odds[:, :1])[0], (4, 1)), atol=1e-4)
    median = np.array([GRADES.index(UPWARDS[k]) for k in (above > 0.5).sum(axis=1)])
    assert float(metrics["accuracy"].value) == pytest.approx((median == label[:, 0]).mean())


def test_multilabel_leaves_missing_labels_out(rng):
    label = np.array([[0, 1], [1, np.nan], [1, 0]])
    weight = np.array([[1, 1], [1, 0], [1, 1]])
    loss, logits, _ = loss_and_logits(rng, "multilabel", 2, label, weight)
    p = expit(logits)
    each = -(np.nan_to_num(label) * np.log(p) + (1 - np.nan_to_num(label)) * np.log(1 - p))
    assert loss == pytest.approx(each[weight > 0].mean(), rel=1e-4)


def test_several_labels_are_smoothed_each_towards_a_half(rng):
    """Otherwise a key that the shipped config sets does nothing to findings; a missing label must not become a half."""
    label = np.array([[0, 1], [1, np.nan], [1, 0]])
    weight = np.array([[1, 1], [1, 0], [1, 1]])
    keys = dict(label_smoothing=0.2, class_weights=(3.0, 1.0))
    loss, logits, metrics = loss_and_logits(rng, "multilabel", 2, label, weight, **keys)
    p = expit(logits)
    target = np.where(label == 1, 0.9, 0.1)
    each = -(np.array([3.0, 1.0]) * target * np.log(p) + (1 - target) * np.log(1 - p))
    assert loss == pytest.approx(each[weight > 0].mean(), rel=1e-4)
    assert float(metrics["accuracy"].value) == pytest.approx(((p > 0.5) == label)[weight > 0].mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_regression(rng, smoothing):
    """Otherwise the smoothing that the shipped config sets for classes pulls numbers somewhere."""
    label = np.array([[0.5, 2.0], [1.5, np.nan]])
    weight = np.array([[1, 1], [1, 0]])
    loss, logits, _ = loss_and_logits(rng, "regression", 2, label, weight, label_smoothing=smoothing)
    assert loss == pytest.approx(((logits - label)[weight > 0] ** 2).mean(), rel=1e-4)


def test_numbers_are_learned_in_deviations_from_their_mean_and_judged_in_their_unit(rng):
    """Otherwise a rate that suits ages in years never reaches a volume in mm3, and one column is all of the loss."""
    mean, deviation = np.array([170.0, 5e5]), np.array([10.0, 2e4])
    label = np.array([[165.0, 4.8e5], [183.0, np.nan]])
    weight = np.array([[1, 1], [1, 0]])
    scale = tuple(zip(mean.tolist(), deviation.tolist()))
    loss, logits, metrics = loss_and_logits(rng, "regression", 2, label, weight, label_scale=scale)
    off = (logits - (label - mean) / deviation)[weight > 0]
    assert loss == pytest.approx((off**2).mean(), rel=1e-4)
    away = np.abs(logits * deviation + mean - label)[weight > 0]
    assert float(metrics["mae"].value) == pytest.approx(away.mean(), rel=1e-4)


def test_mixup_mixes_neighbours_by_each_examples_draw(rng):
    """Neighbours only, so that pmap (which sees a slice of the batch) and jit mix the same pairs."""
    image = jnp.asarray(rng.normal(size=(4, 2, 2, 1)).astype(np.float32))
    target, weight = jnp.eye(4), jnp.ones((4, 1)).at[3].set(0)
    keys = jax.random.split(jax.random.key(0), 4)
    mixed, mixed_target, mixed_weight = supervised.mix(image, target, weight, keys, 0.4)
    for i, j in ((0, 1), (1, 0), (2, 3), (3, 2)):
        share = float(mixed_target[i, i])
        np.testing.assert_allclose(mixed[i], share * image[i] + (1 - share) * image[j], rtol=1e-5, atol=1e-6)
        assert float(mixed_target[i, j]) == pytest.approx(1 - share, abs=1e-6)
    assert mixed_weight[:, 0].tolist() == [1, 1, 0, 0]
    half = supervised.mix(image[:2], target[:2], weight[:2], keys[:2], 0.4)[0]
    np.testing.assert_array_equal(half, mixed[:2])


THREE = Spec((8, 8), 1, "multiclass", 3, classes=GRADES[:3])


@pytest.mark.parametrize(
    "spec,keys,message",
    [
        (Spec((8, 8), 1), {}, "has no labels"),
        (Spec((8, 8), 1, "multiclass", 2), {"task": "regression"}, "config.objective.task"),
        (Spec((8, 8), 1, "multiclass", 2), {"class_weights": (1.0,)}, "class_weights has 1 entries"),
        (Spec((8, 8), 1, "multilabel", 2), {"task": "ordinal"}, "config.objective.task is 'ordinal'"),
        (
            THREE,
            {"task": "ordinal"},
            "order is empty: name the classes .*; the dataset has severe, none, mild",
        ),
        (THREE, {"task": "ordinal", "order": ("none", "mild")}, "name each class of the dataset once"),
        (Spec((8, 8), 1, "multiclass", 2), {"order": ("a", "b")}, "two classes, which have no ranks"),
        (Spec((8, 8), 1, "regression", 1), {"class_weights": "balanced"}, "no meaning for regression"),
    ],
)
def test_what_does_not_fit_is_refused(spec, keys, message):
    with pytest.raises(InputError, match=message):
        supervised.build(supervised.Config(**keys), VIT, spec)


@pytest.mark.parametrize("config", [supervised.Config, semi_masked.Config, semi_teacher.Config])
@pytest.mark.parametrize("weights", [(1.0, -1.0), (0.0, 0.0)])
def test_class_weights_that_teach_the_opposite_or_nothing_are_refused(config, weights):
    with pytest.raises(ValueError, match="class_weights is .*one of them must be positive, none negative"):
        config(class_weights=weights)


def test_a_probe_places_its_parameters_once(rng):
    """Otherwise the whole encoder travels to the device again with every batch of the training set."""
    spec = Spec((8, 8), 1, "multiclass", 2)
    network = supervised.classifier(supervised.Config(), VIT, spec)
    params = jax.device_get(network.init(jax.random.key(0)))
    batches = [batch_of(rng, [[0], [1]], np.ones((2, 1))) for _ in range(2)]
    with jax.transfer_guard_host_to_device("disallow"):
        found = network.probed(params, iter(batches), spec)
    assert np.any(found["head"]["scores"]["kernel"])
