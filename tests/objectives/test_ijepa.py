"""I-JEPA: where blocks lie, a loss held to NumPy, and a teacher that follows by its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest

from vitmed.data.keys import example_keys, step_key
from vitmed.errors import InputError
from vitmed.objectives import ijepa
from vitmed.objectives.interface import Spec


@pytest.mark.parametrize("cells", [(7, 9), (4, 6, 5), (12, 3)])
def test_blocks_have_their_counts_and_the_context_shows_no_target(cells):
    config = ijepa.Config()
    blocks = ijepa.draw(config, jax.random.split(jax.random.key(0), 50), cells)
    shown, each = ijepa.counts(config, cells)
    assert blocks.context.shape == (50, shown) and blocks.targets.shape == (50, 4, each)
    assert shown + 4 * each == np.prod(cells)
    for context, targets in zip(np.asarray(blocks.context), np.asarray(blocks.targets)):
        assert len(set(context)) == shown and not set(context) & set(targets.ravel())
        assert all(len(set(block)) == each for block in targets)


@pytest.mark.parametrize("cells,scale", [((12, 14), 0.175), ((8, 9, 7), 0.15)])
def test_a_target_is_a_box_on_the_grid(cells, scale):
    """Its bounding box holds little else, its sides are in the range asked for, and it may lie anywhere."""
    low, high = 0.75, 1.5
    config = ijepa.Config(targets=1, target_scale=scale)
    targets = np.asarray(ijepa.draw(config, jax.random.split(jax.random.key(1), 400), cells).targets)[:, 0]
    places = np.stack(np.unravel_index(targets, cells), axis=-1)
    sides = np.ptp(places, axis=1) + 1
    assert (targets.shape[1] / sides.prod(axis=1)).mean() > 0.8
    ratio = sides[:, 0] / sides[:, -1]
    assert low - 0.3 < ratio.min() < 1 < ratio.max() < high + 0.6 and np.std(ratio) > 0.1
    seen = np.bincount(targets.ravel(), minlength=np.prod(cells))
    assert (seen > 0).mean() > 0.98, "some place is never a target"


def test_blocks_belong_to_the_example_not_to_its_place():
    example = jnp.asarray([[1, 2], [3, 4], [5, 6]], jnp.uint32)
    whole, turned = (
        ijepa.draw(ijepa.Config(), example_keys(step_key(0, 3), e), (6, 7)) for e in (example, example[::-1])
    )
    for a, b in zip(whole, turned):
        np.testing.assert_array_equal(a, b[::-1])


def test_loss_and_gradients_are_numpys(rng, shape, batch_of, mite):
    """The whole objective once more in float64; slopes by differences; the teacher is no student."""
    size, patch, channels = shape
    spec = Spec(size, channels, steps=10)
    config = ijepa.Config(targets=2)
    objective = ijepa.build(config, mite(patch), spec)
    params, _ = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    _, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(1), spec)
    image = rng.normal(size=(3, *size, channels)).astype(np.float32)
    weight = np.array([1.0, 0.0, 1.0])
    batch, key = batch_of(image, weight), step_key(0, 5)
    loss, gradients = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key)[0]))(params)

    cells = tuple(s // p for s, p in zip(size, patch))
    blocks = ijepa.draw(config, example_keys(key, batch["main"]["example"]), cells)
    context, targets = (np.asarray(x) for x in blocks)
    wanted = numpy_vit.encode(numpy_vit.double(memory["teacher"]["encoder"]), image, patch)[:, 1:]
    wanted = (wanted - wanted.mean(-1, keepdims=True)) / np.sqrt(wanted.var(-1, keepdims=True) + 1e-5)

    def reference(p):
        tokens = numpy_vit.encode(p["encoder"], image, patch, context)[:, 1:]
        guess, places = p["predictor"], numpy_vit.positions(cells, 16)
        tokens = numpy_vit.linear(guess["embed"], tokens) + places[context]
        total = np.zeros(3)
        for block in range(targets.shape[1]):
            at = targets[:, block]
            x = np.concatenate([tokens, guess["mask_token"] + places[at]], axis=1)
            x = numpy_vit.transformer(guess["transformer"], x)[:, context.shape[1] :]
            error = numpy_vit.linear(guess["predict"], numpy_vit.norm(guess["norm"], x))
            error = np.abs(error - numpy_vit.gather(wanted, at))
            total += np.where(error < 1, error**2 / 2, error - 0.5).mean((1, 2)) / targets.shape[1]
        return (total * weight).sum() / weight.sum()

    assert float(loss) == pytest.approx(reference(numpy_vit.double(params)), rel=1e-4)
    numpy_vit.assert_same_slopes(reference, params, gradients)


def test_the_teacher_follows_by_the_schedule(mite):
    spec = Spec((8, 8), 1, steps=100)
    objective = ijepa.build(ijepa.Config(targets=1, momentum=(0.9, 1.0)), mite((4, 4)), spec)
    params = {"encoder": {"w": jnp.ones(3)}, "predictor": {"v": jnp.ones(2)}}
    memory = {"teacher": {"encoder": {"w": jnp.zeros(3)}}}
    for step, moved in ((0, 0.1), (50, 0.05), (100, 0.0), (150, 0.0)):
        after = objective.after_update(params, memory, jnp.asarray(step))
        np.testing.assert_allclose(after["teacher"]["encoder"]["w"], moved, atol=1e-6)
        assert set(after["teacher"]) == {"encoder"}


@pytest.mark.parametrize(
    "keys,message",
    [
        (
            dict(targets=6),
            "targets is 6: so many blocks of 1 patches .* may cover all 6 of the grid \\(2, 3\\)",
        ),
        (dict(target_scale=0.3), "target_scale 0.3\\) may cover"),
    ],
)
def test_targets_that_leave_no_context_are_refused(mite, keys, message):
    with pytest.raises(InputError, match=message):
        ijepa.build(ijepa.Config(**keys), mite((4, 4)), Spec((8, 12), 1))
