"""Learning from masks: the loss and its gradient against NumPy, what nobody marked, both engines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy_masks import STRUCTURES, UNMARKED, reference

from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.objectives import registry, segmentation
from vitmed.objectives.interface import Spec


@pytest.fixture
def masked(rng):
    """Logits (4, 10, 4), classes (one structure absent, some unmarked, one example padding) and weights."""
    classes = rng.choice([0, 0, 1, 2, UNMARKED], (4, 10))
    return rng.normal(size=(4, 10, 4)), classes, np.array([1.0, 1.0, 1.0, 0.0])


def ours(logits, classes, weight, class_weights=(1.0,) * 4):
    known = classes != UNMARKED
    target, counts = jnp.where(known, classes, 0), known * weight[:, None]
    return segmentation.apart(logits, target, counts, 1.0, None, jnp.asarray(class_weights)).value


@pytest.mark.parametrize("class_weights", [(1.0,) * 4, (0.2, 3.0, 1.5, 1.0)], ids=["alike", "weighed"])
def test_loss_and_slopes_against_numpy(masked, class_weights):
    """Weights of the classes are the cross-entropy's: otherwise the rare structure is not lifted, or lifted twice."""
    logits, classes, weight = masked
    value, slopes = jax.value_and_grad(ours)(jnp.asarray(logits, jnp.float32), classes, weight, class_weights)

    def theirs(logits):
        return reference(logits, classes, weight, 1.0, class_weights)

    assert float(value) == pytest.approx(theirs(logits), rel=1e-5)
    step = 1e-5
    for place in np.ndindex(logits.shape):
        moved = np.zeros_like(logits)
        moved[place] = step
        slope = theirs(logits + moved) - theirs(logits - moved)
        assert float(slopes[place]) == pytest.approx(slope / (2 * step), rel=1e-3, abs=1e-6)


def test_nothing_marked_costs_nothing(masked):
    """A batch of scans without masks must neither divide by zero nor move anything."""
    logits, classes, weight = masked
    for nothing, counts in ((np.full_like(classes, UNMARKED), weight), (classes, np.zeros(4))):
        value, slopes = jax.value_and_grad(ours)(jnp.asarray(logits, jnp.float32), nothing, counts)
        assert float(value) == 0 and not np.any(slopes)


def test_a_perfect_mask_has_a_dice_of_one(masked):
    _, classes, weight = masked
    target = np.where(classes == UNMARKED, 0, classes)
    perfect = jax.nn.one_hot(target, 4)
    assert float(segmentation.dice(perfect, target, np.ones((4, 10)), None).value) == 1
    # All background finds nothing of the structures, however much background there is.
    empty = jax.nn.one_hot(np.zeros_like(target), 4)
    assert float(segmentation.dice(empty, target, np.ones((4, 10)), None).value) == 0


def test_the_whole_objective(rng, shape, mite, batch_of):
    """Values of masks become classes, unmarked voxels and padding are left out, in 2D and 3D."""
    size, patch, channels = shape
    mask = rng.choice([0, 0, 1, 3, 7, UNMARKED, 200], (3, *size)).astype(np.uint8)
    spec = Spec(size, channels, structures=STRUCTURES)
    model = mite(patch, width=4)
    weights = (0.5, 2.0, 1.0, 3.0)
    objective = segmentation.build(segmentation.Config(dice_weight=0.5, class_weights=weights), model, spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    assert set(params) == {"encoder", "segmenter"} and memory == {}
    image, weight = rng.normal(size=(3, *size, channels)).astype(np.float32), np.array([1.0, 1.0, 0.0])
    batch = batch_of(image, weight, mask=mask)
    loss = jax.jit(lambda batch: objective.loss(params, memory, batch, jax.random.key(1), train=False))
    value, (metrics, _) = loss(batch)
    logits = jax.jit(segmentation.Segmentation(model, spec).logits)(params, image)
    flat = np.asarray(logits, np.float64).reshape(3, -1, 4)
    classes = np.full(256, UNMARKED)
    classes[[0, 1, 3, 7, 9]] = 0, 1, 2, 2, 3
    expected = reference(flat, classes[mask].reshape(3, -1), weight, 0.5, weights)
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert 0 <= float(metrics["dice"].value) <= 1
    other = mask.copy()
    other[2] = 1
    assert float(loss(batch_of(image, weight, mask=other))[0]) == float(value)


def test_both_engines_sum_over_the_whole_batch(rng, mite, batch_of):
    """A mean of each device's own Dice is another loss: here most devices lack a structure, and some a mask."""
    size, patch = (8, 12), (4, 4)
    mask = np.zeros((16, *size), np.uint8)
    mask[3:5, 2:5, 1:9], mask[9, :4], mask[5:7] = 1, 3, UNMARKED
    weight = np.ones(16)
    weight[14:] = 0
    spec = Spec(size, 1, structures=STRUCTURES)
    objective = segmentation.build(segmentation.Config(), mite(patch, width=4), spec)
    params, _ = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    batch = batch_of(rng.normal(size=(16, *size, 1)).astype(np.float32), weight, mask=mask)

    def run(batch, axis):
        def loss(p):
            return objective.loss(p, {}, batch, jax.random.key(3), axis)

        (value, (metrics, _)), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        return value, metrics, slopes

    alone = jax.jit(lambda batch: run(batch, None))(batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    meshed = jax.jit(lambda batch: run(batch, None))(
        jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    )
    split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    value, metrics, slopes = jax.pmap(lambda batch: run(batch, "data"), axis_name="data")(split)
    first = jax.tree.map(lambda x: x[0], (value, metrics))
    replicas = *first, jax.tree.map(lambda x: x.mean(0), slopes)
    for other in (meshed, replicas):
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-5)


def test_the_task_chooses_the_objective():
    config = registry.section({"name": "supervised", "task": "segmentation", "dice_weight": 2.0})
    assert isinstance(config, segmentation.Config)
    with pytest.raises(InputError, match="config.objective.label_smoothing is of learning labels"):
        registry.section({"name": "supervised", "task": "segmentation", "label_smoothing": 0.1})
    with pytest.raises(ValueError, match="dice_weight is -1"):
        segmentation.Config(dice_weight=-1.0)
    for weights in ((1.0, -1.0), (0.0, 0.0)):
        with pytest.raises(
            ValueError, match="class_weights is .*one of them must be positive, none negative"
        ):
            segmentation.Config(class_weights=weights)


def test_the_weights_are_of_the_background_and_each_structure():
    model, spec = ModelConfig(variant="nano", patch_size=(4, 4)), Spec((8, 8), 1, structures=STRUCTURES)
    with pytest.raises(
        InputError,
        match="class_weights has 3 entries; voxels are of 4 classes: background, anterior, posterior",
    ):
        segmentation.build(segmentation.Config(class_weights=(1.0, 2.0, 3.0)), model, spec)


def test_weights_by_a_word_are_of_the_voxels_counted():
    """Balanced, each class as much as another, however small, and 1 of what is never shown; or the roots of that."""
    spec = Spec((8, 8), 1, structures=STRUCTURES[:2], counts=((96, 4), (4, 96), (0, 100)))
    weights = segmentation.class_weights_of(segmentation.Config(class_weights="balanced"), spec)
    np.testing.assert_allclose(weights, [100 / 192, 12.5, 1])
    roots = segmentation.class_weights_of(segmentation.Config(class_weights="root"), spec)
    np.testing.assert_allclose(roots / roots[2], np.sqrt([100 / 192, 12.5, 1]), rtol=1e-6)
    assert 0.96 * roots[0] + 0.04 * roots[1] == pytest.approx(1), "the loss is as large as it was"


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        ((), "the dataset's masks hold no structure"),
        ((("whole", (1, 2)), ("core", (2,))), "whole and core of the masks share the value 2"),
        ((("all", (0, 1)),), "the background and all of the masks share the value 0"),
    ],
)
def test_what_cannot_be_learned_is_refused(structures, message):
    model = ModelConfig(variant="nano", patch_size=(4, 4))
    with pytest.raises(InputError, match=message):
        segmentation.build(segmentation.Config(), model, Spec((8, 8), 1, structures=structures))
