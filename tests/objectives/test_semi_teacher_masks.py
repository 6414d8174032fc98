"""Pseudo-labels of voxels: the loss against its parts put together by hand, what is unsure, the shared geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_masks import STRUCTURES, reference

from vitmed.data.augment import AugmentConfig
from vitmed.objectives import registry, segmentation, semi_teacher_masks
from vitmed.objectives.interface import Spec


def made(shape, mite, **keys):
    """An objective, its parameters, and a teacher that is another network than its student."""
    size, patch, channels = shape
    spec, model = Spec(size, channels, structures=STRUCTURES), mite(patch, width=4)
    objective = semi_teacher_masks.build(semi_teacher_masks.Config(**keys), model, spec)
    init = jax.jit(objective.init, static_argnums=1)
    (params, _), (other, _) = (init(jax.random.key(n), spec) for n in (0, 1))
    return objective, params, {"teacher": other}, segmentation.Segmentation(model, spec)


def two_streams(rng, batch_of, shape):
    size, _, channels = shape
    batch = batch_of(
        rng.normal(size=(2, *size, channels)).astype(np.float32),
        mask=rng.choice([0, 1, 3, 255], (2, *size)).astype(np.uint8),
    )
    more = batch_of(rng.normal(size=(3, *size, channels)).astype(np.float32), np.array([1.0, 1.0, 0.0]))
    spacing = jnp.ones((3, len(size)))
    return {**batch, "unlabelled": {**more["main"], "spacing": spacing}}


def test_sure_voxels_are_learned_from_by_their_share(rng, shape, mite, batch_of):
    """Otherwise guesses that are no better than chance are learned, or all weigh alike however few are sure."""
    batch, key = two_streams(rng, batch_of, shape), jax.random.key(5)
    _, params, memory, network = made(shape, mite)
    logits = jax.jit(network.logits)
    scores = np.asarray(logits(memory["teacher"], batch["unlabelled"]["image"]), np.float64)
    guess = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    low, high = np.sort(guess[:2].max(-1).ravel())[[-20, -19]]
    weights = (0.4, 1.0, 2.0, 3.0)
    keys = dict(threshold=float((low + high) / 2), unlabelled_weight=0.7, class_weights=weights)
    objective, _, _, _ = made(shape, mite, **keys)
    run = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key), has_aux=True))
    (value, (metrics, after)), slopes = run(params)

    # Without drop path and a strong view, the student sees what the teacher does.
    def both(p):
        return tuple(network.logits(p, batch[name]["image"]) for name in ("main", "unlabelled"))

    target = np.where(guess.max(-1) >= (low + high) / 2, guess.argmax(-1), 255).reshape(3, -1)
    share, counts = 19 / target[:2].size, np.array([1.0, 1.0, 0.0])
    class_of = np.full(256, 255)
    class_of[[0, 1, 3]] = 0, 1, 2
    true = class_of[np.asarray(batch["main"]["mask"])].reshape(2, -1)

    def theirs(labelled, student):
        pseudo = share * reference(student.reshape(3, -1, 4), target, counts, 1.0, weights)
        known = reference(labelled.reshape(2, -1, 4), true, np.ones(2), 1.0, weights)
        return known + 0.7 * pseudo, pseudo

    forward = jax.jit(both)
    expected, pseudo = theirs(*(np.asarray(x, np.float64) for x in forward(params)))
    assert float(metrics["kept"]) == pytest.approx(share)
    assert float(metrics["pseudo"]) == pytest.approx(pseudo, rel=1e-3)
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert after is memory or jax.tree.all(jax.tree.map(np.array_equal, after, memory))

    # By finite differences, the guesses as they are: nothing flows through them or their share.
    for part in ("encoder", "segmenter"):
        leaves, tree = jax.tree.flatten(params[part])
        slope = [np.asarray(g, np.float64) for g in jax.tree.leaves(slopes[part])]
        drawn = [g * rng.uniform(0.2, 1.8, g.shape) for g in slope]
        length = np.sqrt(sum((d**2).sum() for d in drawn))
        ends = []
        for step in (1e-3 / length, -1e-3 / length):
            moved = [np.float32(leaf + step * d) for leaf, d in zip(leaves, drawn)]
            there = forward({**params, part: tree.unflatten(moved)})
            ends.append(theirs(*(np.asarray(x, np.float64) for x in there))[0])
        along = sum((g * d).sum() for g, d in zip(slope, drawn)) / length
        assert along == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-2), part


def test_the_strong_view_changes_what_the_student_sees_and_not_the_guess(rng, mite, batch_of):
    shape = ((8, 12), (4, 4), 3)
    batch, key = two_streams(rng, batch_of, shape), jax.random.key(5)
    plain, params, memory, _ = made(shape, mite, threshold=0.0)
    strong, _, _, _ = made(shape, mite, threshold=0.0, strong=AugmentConfig(brightness=1.0, cutout=0.3))
    one, other = (
        jax.jit(lambda p, o=o: o.loss(p, memory, batch, key)[1][0])(params) for o in (plain, strong)
    )
    assert float(one["supervised"]) == float(other["supervised"]) and float(one["kept"]) == 1
    assert abs(float(one["pseudo"]) - float(other["pseudo"])) > 1e-3


def test_the_teacher_follows_and_is_validated(rng, mite, batch_of):
    shape = ((8, 12), (4, 4), 3)
    objective, params, memory, _ = made(shape, mite, momentum=0.75)
    after = objective.after_update(params, memory, jnp.asarray(1))
    for slow, was, student in zip(*map(jax.tree.leaves, (after["teacher"], memory["teacher"], params))):
        np.testing.assert_allclose(slow, 0.75 * was + 0.25 * student, rtol=1e-5, atol=1e-7)
    batch = {"main": two_streams(rng, batch_of, shape)["main"]}
    judged = jax.jit(lambda p, t: objective.loss(p, {"teacher": t}, batch, jax.random.key(0), train=False)[0])
    value, swapped = judged(params, memory["teacher"]), judged(memory["teacher"], params)
    assert float(value) == float(judged(memory["teacher"], memory["teacher"])) != float(swapped)


def test_impossible_keys_are_refused():
    section = {"name": "semi_teacher", "task": "segmentation", "threshold": 0.5}
    assert isinstance(registry.section(section), semi_teacher_masks.Config)
    for keys, message in (
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"unlabelled_weight": -1.0}, "unlabelled_weight is -1.0"),
        ({"strong": AugmentConfig(rotate=5.0)}, "strong.rotate is 5.0, which moves the student's view"),
        ({"strong": AugmentConfig(flip=(0,))}, "strong.flip is .0,., which moves"),
    ):
        with pytest.raises(ValueError, match=message):
            semi_teacher_masks.Config(**keys)
