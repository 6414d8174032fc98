"""Masked modelling beside labels: the whole loss held to NumPy, every scan counting once."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest

from vitmed.data.keys import example_keys, step_key
from vitmed.objectives import mae, masking, semi_masked
from vitmed.objectives.interface import Spec


def two_streams(rng, batch_of, shape, label, weight, more=4):
    """``main`` with labels and ``more`` unlabelled scans, of other identities."""
    size, _, channels = shape
    label = np.asarray(label, np.float32).reshape(len(weight), -1)
    draw = lambda n: rng.normal(size=(n, *size, channels)).astype(np.float32)  # noqa: E731
    main = batch_of(draw(len(label)), weight, label=label, label_weight=np.ones_like(label))["main"]
    unlabelled = batch_of(draw(more), spacing=np.ones((more, len(size)), np.float32))["main"]
    unlabelled["example"] = unlabelled["example"] + 100
    return {"main": main, "unlabelled": unlabelled}


def numpy_logits(p, image, patch):
    """The classifier in float64."""
    features = numpy_vit.encode(p["encoder"], image, patch)[:, 1:].mean(axis=1)
    return numpy_vit.linear(p["head"]["scores"], numpy_vit.norm(p["head"]["norm"], features))


def with_scores(params, seed=2):
    """A head that has an opinion: a fresh one is zero."""
    kernel = params["head"]["scores"]["kernel"]
    drawn = 0.3 * jax.random.normal(jax.random.key(seed), kernel.shape)
    return {**params, "head": {**params["head"], "scores": {**params["head"]["scores"], "kernel": drawn}}}


@pytest.mark.parametrize("train,exclude", [(True, ()), (False, ()), (True, ("face",))])
def test_loss_and_gradients_are_numpys(rng, shape, batch_of, mite, train, exclude):
    """Both losses and their weights; in training over the scans of both streams, in validation over ``main``.

    Excluded structures teach nothing in either stream.
    """
    size, patch, channels = shape
    spec = Spec(size, channels, "multiclass", 3, structures=(("face", (2,)),))
    config = semi_masked.Config(
        masked=mae.Config(mask_ratio=0.5, exclude=exclude),
        supervised_weight=0.7,
        masked_weight=0.4,
        label_smoothing=0.1,
    )
    objective = semi_masked.build(config, mite(patch), spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    params, weight = with_scores(params), np.array([1.0, 0.0, 1.0])
    batch, key = two_streams(rng, batch_of, shape, [[2], [0], [1]], weight), step_key(0, 5)
    batch = batch if train else {"main": batch["main"]}
    for stream in batch.values() if exclude else ():
        stream["mask"] = jnp.asarray(2 * (rng.uniform(size=(len(stream["weight"]), *size)) < 0.01), jnp.uint8)

    @jax.jit
    def run(params):
        return jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key, train=train), has_aux=True)(
            params
        )

    (loss, (metrics, _)), gradients = run(params)
    own = jax.random.fold_in(key, semi_masked._PIXELS)
    cells = tuple(s // p for s, p in zip(size, patch))
    keep, counts = {}, {}
    for name, stream in batch.items():
        if exclude:
            held = numpy_vit.patches(np.asarray(stream["mask"])[..., None], patch)
            counts[name] = ~(held == 2).any(-1)
            assert 0.3 < counts[name].mean() < 1, "the case tests nothing"
        keys = example_keys(own, stream["example"])
        counted = jnp.asarray(counts[name]) if exclude else None
        keep[name] = masking.draw(config.masked, keys, cells, counted).keep
    target = np.eye(3)[[2, 0, 1]] * 0.9 + 0.1 / 3

    def reference(p):
        losses, scans = [], []
        for name, stream in batch.items():
            image = np.asarray(stream["image"], np.float64)
            pixels = numpy_vit.patches(image, patch)
            wanted = pixels - pixels.mean(-1, keepdims=True)
            wanted = wanted / np.sqrt(pixels.var(-1, ddof=1, keepdims=True) + 1e-6)
            tokens = numpy_vit.encode(p["encoder"], image, patch, keep=keep[name])
            error = ((numpy_vit.decode(p["decoder"], tokens, keep[name], cells) - wanted) ** 2).mean(-1)
            counted = np.ones(error.shape) * np.asarray(stream["weight"])[:, None]
            np.put_along_axis(counted, np.asarray(keep[name]), 0, axis=1)
            losses.append(np.average(error, weights=counted * counts.get(name, 1.0)))
            scans.append(np.asarray(stream["weight"]).sum())
        scores = numpy_logits(p, np.asarray(batch["main"]["image"], np.float64), patch)
        entropy = -(target * np.log(numpy_vit.softmax(scores))).sum(-1)
        labels = (entropy * weight).sum() / weight.sum()
        return 0.7 * labels + 0.4 * np.average(losses, weights=scans)

    assert float(loss) == pytest.approx(reference(numpy_vit.double(params)), rel=1e-4)
    parts = 0.7 * metrics["supervised"].value + 0.4 * metrics["masked"].value
    assert float(metrics["loss"].value) == pytest.approx(float(parts), rel=1e-5)
    if train:
        numpy_vit.assert_same_slopes(reference, params, gradients)


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_regression_and_findings_learn_too(rng, shape, batch_of, mite, task):
    """Whatever the supervised objective can learn."""
    spec = Spec(shape[0], shape[2], task, 2)
    objective = semi_masked.build(semi_masked.Config(), mite(shape[1]), spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    batch = two_streams(rng, batch_of, shape, [[0, 1], [1, 1]], np.ones(2))
    loss = lambda p: objective.loss(with_scores(p), memory, batch, jax.random.key(0))[0]  # noqa: E731
    slopes = jax.jit(jax.grad(loss))(params)
    for part in ("encoder", "head", "decoder"):
        assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slopes[part])) > 0, part


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, -1.0)])
def test_weights_of_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="one of them must be positive, none negative"):
        semi_masked.Config(supervised_weight=weights[0], masked_weight=weights[1])
