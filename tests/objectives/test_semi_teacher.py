"""Pseudo-labels: the whole loss held to NumPy, alignment over the whole batch, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_semi_masked import numpy_logits, two_streams, with_scores

from vitmed.data.augment import AugmentConfig, augment
from vitmed.data.keys import example_keys, step_key
from vitmed.errors import InputError
from vitmed.objectives import semi_teacher
from vitmed.objectives.interface import Spec

STRONG = AugmentConfig(brightness=0.5, contrast=0.5, cutout=0.2)


def made(shape, mite, **keys):
    """The objective, a student, and the memory of a teacher that is another model, with means that are uneven."""
    spec = Spec(shape[0], shape[2], "multiclass", 3)
    objective = semi_teacher.build(semi_teacher.Config(strong=STRONG, **keys), mite(shape[1]), spec)
    init = jax.jit(objective.init, static_argnums=1)
    params, _ = init(jax.random.key(0), spec)
    teacher, memory = init(jax.random.key(1), spec)
    memory = {
        "teacher": with_scores(teacher, 3),
        "labels": jnp.asarray([0.2, 0.3, 0.5]),
        "guesses": jnp.asarray([0.5, 0.3, 0.2]),
    }
    return objective, with_scores(params), memory


@pytest.mark.parametrize("mixup", [True, False])
def test_loss_and_gradients_are_numpys(rng, shape, batch_of, mite, mixup):
    """Weak and strong view, alignment, threshold and mixing by confidence, with padding in both streams."""
    _, params, memory = made(shape, mite)
    weight, decay = np.array([1.0, 0.0, 1.0]), 0.9
    batch, key = two_streams(rng, batch_of, shape, [[2], [0], [2]], weight, more=6), step_key(0, 5)
    counts = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    batch["unlabelled"]["weight"] = jnp.asarray(counts)

    image = np.asarray(batch["unlabelled"]["image"], np.float64)
    guess = numpy_vit.softmax(numpy_logits(numpy_vit.double(memory["teacher"]), image, shape[1]))
    labels = decay * np.array([0.2, 0.3, 0.5]) + (1 - decay) * np.array([0, 0, 1.0])
    guesses = decay * np.array([0.5, 0.3, 0.2]) + (1 - decay) * np.average(guess, axis=0, weights=counts)
    guess = guess * labels / guesses
    guess /= guess.sum(-1, keepdims=True)
    keys = example_keys(jax.random.fold_in(key, semi_teacher._STRONG), batch["unlabelled"]["example"])
    strong = np.asarray(augment(batch["unlabelled"]["image"], keys, STRONG), np.float64)
    assert np.abs(strong - image).max() > 0.1, "the two views are one"
    sure = guess.max(-1)
    if mixup:
        seen, wanted, surest, both = strong.copy(), guess.copy(), sure.copy(), counts.copy()
        for i, j in ((0, 1), (1, 0), (2, 3), (3, 2), (4, 5), (5, 4)):
            share = sure[i] / (sure[i] + sure[j])
            seen[i] = share * strong[i] + (1 - share) * strong[j]
            wanted[i] = share * guess[i] + (1 - share) * guess[j]
            surest[i], both[i] = max(sure[i], sure[j]), counts[i] * counts[j]
        strong, guess, sure, counts = seen, wanted, surest, both
    low, high = np.unique(sure[counts > 0])[:2]  # so that the threshold parts what counts
    assert high - low > 1e-3, "rounding may decide"
    threshold = float((low + high) / 2)
    kept = (sure >= threshold).astype(float)

    objective, _, _ = made(
        shape, mite, threshold=threshold, alignment=decay, unlabelled_weight=0.7, pseudo_mixup=mixup
    )

    @jax.jit
    def run(params):
        return jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key), has_aux=True)(params)

    (loss, (metrics, after)), gradients = run(params)
    np.testing.assert_allclose(after["labels"], labels, rtol=1e-5)
    np.testing.assert_allclose(after["guesses"], guesses, rtol=1e-4)

    def reference(p):
        scores = numpy_logits(p, np.asarray(batch["main"]["image"], np.float64), shape[1])
        known = -np.log(numpy_vit.softmax(scores))[np.arange(3), [2, 0, 2]]
        each = -(guess * np.log(numpy_vit.softmax(numpy_logits(p, strong, shape[1])))).sum(-1)
        return np.average(known, weights=weight) + 0.7 * (each * kept * counts).sum() / counts.sum()

    assert float(loss) == pytest.approx(reference(numpy_vit.double(params)), rel=1e-4)
    assert float(metrics["kept"]) == pytest.approx((kept * counts).sum() / counts.sum())
    numpy_vit.assert_same_slopes(reference, params, gradients)


def test_guesses_are_aligned_with_the_budgets_own_frequencies_where_they_are_known(rng, batch_of, mite):
    """Batches drawn class by class say that all are equally frequent, which would lift every rare class."""
    shape = ((8, 12), (4, 4), 3)
    spec = Spec(shape[0], shape[2], "multiclass", 3, frequencies=(0.1, 0.3, 0.6))
    objective = semi_teacher.build(semi_teacher.Config(alignment=0.9), mite(shape[1]), spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    np.testing.assert_allclose(memory["labels"], [0.1, 0.3, 0.6], rtol=1e-6)
    batch = two_streams(rng, batch_of, shape, [[0], [1], [2], [0]], np.ones(4), more=4)
    _, (_, after) = jax.jit(lambda p: objective.loss(p, memory, batch, step_key(0, 5)))(params)
    np.testing.assert_array_equal(after["labels"], memory["labels"])


def test_both_engines_align_and_pair_over_the_whole_batch(rng, batch_of, mite):
    """Eight devices see what one does: losses, gradients and the running means."""
    shape = ((8, 12), (4, 4), 3)
    objective, params, memory = made(shape, mite, threshold=0.5)
    label, weight = rng.integers(0, 3, (16, 1)), np.ones(16)
    weight[[3, 14, 15]] = 0
    batch, key = two_streams(rng, batch_of, shape, label, weight, more=16), step_key(0, 5)
    batch["unlabelled"]["weight"] = jnp.asarray(np.roll(weight, 5))

    def run(batch, axis):
        def loss(p):
            return objective.loss(p, memory, batch, key, axis)

        (value, (_, after)), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        return value, {name: after[name] for name in ("labels", "guesses")}, slopes

    alone = jax.jit(lambda batch: run(batch, None))(batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    meshed = jax.jit(lambda batch: run(batch, None))(placed)
    split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    value, means, slopes = jax.pmap(lambda batch: run(batch, "data"), axis_name="data")(split)
    replicas = value[0], jax.tree.map(lambda x: x[0], means), jax.tree.map(lambda x: x.mean(0), slopes)
    for other in (meshed, replicas):
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-5)


def test_the_place_in_the_batch_does_not_matter(rng, batch_of, mite):
    """What is random belongs to the example: pairs that change places give the same loss."""
    shape = ((4, 8, 6), (2, 4, 3), 1)
    objective, params, memory = made(shape, mite, threshold=0.5)
    batch = two_streams(rng, batch_of, shape, [[2], [0]], np.ones(2), more=4)
    loss = jax.jit(lambda batch: objective.loss(params, memory, batch, step_key(1, 1))[0])
    turned = {**batch, "unlabelled": {k: v[np.array([2, 3, 0, 1])] for k, v in batch["unlabelled"].items()}}
    assert float(loss(turned)) == pytest.approx(float(loss(batch)), rel=1e-5)


def test_alignment_lifts_the_class_that_is_guessed_too_rarely():
    guess = jnp.asarray([[0.9, 0.1], [0.6, 0.4]])
    even = jnp.asarray([0.5, 0.5])
    np.testing.assert_allclose(semi_teacher.aligned(guess, even, even), guess, rtol=1e-6)
    moved = semi_teacher.aligned(guess, even, jnp.asarray([0.75, 0.25]))
    np.testing.assert_allclose(moved, [[0.75, 0.25], [1 / 3, 2 / 3]], rtol=1e-5)


def test_the_teacher_follows_is_validated_and_learns_nothing_itself(rng, batch_of, mite):
    shape = ((8, 12), (4, 4), 3)
    objective, params, memory = made(shape, mite, momentum=0.75)
    after = objective.after_update(params, memory, jnp.asarray(1))
    for slow, was, student in zip(*map(jax.tree.leaves, (after["teacher"], memory["teacher"], params))):
        np.testing.assert_allclose(slow, 0.75 * was + 0.25 * student, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(after["guesses"], memory["guesses"])
    batch = two_streams(rng, batch_of, shape, [[2], [0]], np.ones(2))
    alone = {"main": batch["main"]}
    value, (_, kept) = objective.loss(params, memory, alone, jax.random.key(0), train=False)
    scores = numpy_logits(numpy_vit.double(memory["teacher"]), np.asarray(batch["main"]["image"]), (4, 4))
    entropy = -np.log(numpy_vit.softmax(scores))[[0, 1], [2, 0]].mean()
    assert float(value) == pytest.approx(entropy, rel=1e-4) and kept is memory


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"threshold": 1.0}, r"threshold is 1.0; a fraction in \[0, 1\)"),
        ({"threshold": -0.1}, "threshold is -0.1"),
        ({"alignment": 1.0}, "alignment is 1.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"unlabelled_weight": -1.0}, "unlabelled_weight is -1.0"),
    ],
)
def test_impossible_keys_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        semi_teacher.Config(**keys)


def test_what_has_no_classes_is_refused(rng, batch_of, mite):
    for task in ("regression", "multilabel"):
        with pytest.raises(InputError, match=f"guesses one class a scan, .* {task!r}; use 'semi_masked'"):
            semi_teacher.build(semi_teacher.Config(), mite((4, 4)), Spec((8, 8), 1, task, 2))
    shape = ((8, 12), (4, 4), 3)
    objective, params, memory = made(shape, mite)
    batch = two_streams(rng, batch_of, shape, [[2], [0]], np.ones(2), more=3)
    with pytest.raises(
        InputError, match="pseudo_mixup mixes pairs, but a device has 3 examples; choose config.data"
    ):
        objective.loss(params, memory, batch, jax.random.key(0))
