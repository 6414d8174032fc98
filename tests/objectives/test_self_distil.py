"""Self-distillation: the whole loss held to NumPy, its views and masks, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest

from vitmed.data.augment import AugmentConfig
from vitmed.data.keys import step_key
from vitmed.errors import InputError
from vitmed.objectives import self_distil
from vitmed.objectives.interface import Spec

SMALL = dict(locals=2, prototypes=6, hidden=12, bottleneck=5, mask_block=1)


def project(p, x):
    x = numpy_vit.gelu(numpy_vit.linear(p["mlp1"], x))
    x = numpy_vit.linear(p["mlp3"], numpy_vit.gelu(numpy_vit.linear(p["mlp2"], x)))
    directions = p["prototypes"] / np.linalg.norm(p["prototypes"], axis=0)
    return x / np.linalg.norm(x, axis=-1, keepdims=True) @ directions


def assigned(scores, weight, temperature):
    """Sinkhorn's iteration as DINOv2 writes it, on the rows that count."""
    made = np.full(scores.shape, np.nan)
    q = np.exp(scores[weight > 0] / temperature).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * len(q)
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    made[weight > 0] = (q * q.shape[1]).T
    return made


def test_loss_and_gradients_are_numpys(rng, shape, batch_of, mite):
    """DINO over all pairs of views, iBOT at hidden patches, KoLeo, padding; slopes by differences."""
    size, patch, channels = shape
    spec = Spec(size, channels, steps=10)
    config = self_distil.Config(**SMALL, masked=0.5, mask_ratio=(0.2, 0.6), temperature_warmup=1.0)
    model = mite(patch)
    objective = self_distil.build(config, model, spec)
    params, _ = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    _, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(1), spec)
    memory = {**memory, "updates": jnp.asarray(5)}  # half-way: a temperature of 0.055
    image = rng.normal(size=(4, *size, channels)).astype(np.float32)
    weight = np.array([1.0, 1.0, 0.0, 1.0])
    batch, key = batch_of(image, weight), step_key(0, 5)

    @jax.jit
    def run(params):
        return jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key), has_aux=True)(params)

    (loss, (metrics, _)), gradients = run(params)

    stream, cells = batch["main"], tuple(s // p for s, p in zip(size, patch))
    small = self_distil.local_size(config, model, spec)
    large = self_distil.views(config, stream, key, range(2), (0.32, 1.0), size)
    little = self_distil.views(config, stream, key, range(2, 4), (0.05, 0.32), small)
    large, little = np.asarray(large), np.asarray(little)
    most = int(np.ceil(0.6 * np.prod(cells)))
    each = jnp.stack([self_distil._keys(key, v, self_distil._MASK, stream["example"]) for v in range(2)], 1)
    hidden = np.asarray(self_distil.mask(config, each.reshape(-1), cells, most)[0])
    assert 0 < hidden.mean() < 0.6 and not hidden.any(axis=1).all(), "the case tests nothing"
    slow = numpy_vit.double(memory["teacher"])
    told = numpy_vit.encode(slow["encoder"], large, patch)
    twice = np.repeat(weight, 2)
    target = assigned(project(slow["image"], told[:, 0]), twice, 0.055).reshape(4, 2, -1)
    counts = (hidden * twice[:, None]).ravel()
    wanted = assigned(project(slow["patches"], told[:, 1:]).reshape(-1, 6), counts, 0.055).reshape(
        *hidden.shape, 6
    )

    def parts(p):
        seen = numpy_vit.encode(p["encoder"], large, patch, hidden=hidden, token=p["mask_token"])
        other = numpy_vit.encode(p["encoder"], little, patch)
        guess = np.log(numpy_vit.softmax(project(p["image"], seen[:, 0]) / 0.1)).reshape(4, 2, -1)
        less = np.log(numpy_vit.softmax(project(p["image"], other[:, 0]) / 0.1)).reshape(4, 2, -1)
        guess = np.concatenate([guess, less], axis=1)
        pairs = [-(target[:, t] * guess[:, s]).sum(-1) for t in range(2) for s in range(4) if s != t]
        dino = (np.mean(pairs, axis=0)[weight > 0]).mean()
        filled = np.log(numpy_vit.softmax(project(p["patches"], seen[:, 1:]) / 0.1))
        ibot = []
        for row in np.flatnonzero(twice):
            at = hidden[row]
            ibot.append(-(wanted[row, at] * filled[row, at]).sum(-1).mean() if at.any() else 0.0)
        cls = seen[:, 0].reshape(4, 2, -1)
        cls = cls / np.linalg.norm(cls, axis=-1, keepdims=True)
        koleo = 0.0
        for view in range(2):
            x = cls[weight > 0, view]
            distance = np.linalg.norm(x[:, None] - x[None], axis=-1) + 10 * np.eye(len(x))
            koleo -= np.log(distance.min(axis=1)).mean()
        return {"dino": dino, "ibot": np.mean(ibot), "koleo": koleo}

    def reference(p):
        made = parts(p)
        return made["dino"] + made["ibot"] + 0.1 * made["koleo"]

    for name, value in parts(numpy_vit.double(params)).items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert float(loss) == pytest.approx(reference(numpy_vit.double(params)), rel=1e-3)
    numpy_vit.assert_same_slopes(reference, params, gradients)


def test_views_belong_to_the_example_and_differ(rng, batch_of):
    """Each view is another box of the scan, the same wherever the example stands in the batch."""
    image = rng.normal(size=(3, 8, 12, 1)).astype(np.float32)
    stream = batch_of(image)["main"]
    turned = {name: value[::-1] for name, value in stream.items()}
    config = self_distil.Config(**SMALL)
    made, other = (
        np.asarray(self_distil.views(config, s, step_key(0, 1), range(3), (0.2, 0.9), (4, 8)))
        for s in (stream, turned)
    )
    assert made.shape == (9, 4, 8, 1)
    np.testing.assert_array_equal(made.reshape(3, 3, -1), other.reshape(3, 3, -1)[::-1])
    assert len(np.unique(made.reshape(9, -1), axis=0)) == 9


@pytest.mark.parametrize("spacing", [(3.0, 1.0), (np.nan, np.nan)], ids=["3x1mm", "unknown"])
@pytest.mark.parametrize("size", [(16, 48), (24, 24)], ids=["aspect kept", "square"])
def test_views_turn_rigidly_whatever_the_shape_of_their_pixels(batch_of, spacing, size):
    """Otherwise anatomy is sheared where pixels are not square, which those of a view may be where a scan's are not."""
    shape = (16, 48)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float32)
    stream = batch_of(np.stack([places] * 6), spacing=np.tile(np.float32(spacing), (6, 1)))["main"]
    config = self_distil.Config(**SMALL, views=AugmentConfig(rotate=30))
    made = self_distil.views(config, stream, step_key(0, 1), range(1), (0.999, 1.0), size)
    pixel = np.nan_to_num(spacing, nan=1.0)
    side = pixel * np.array(shape) / np.array(size)  # of a view's pixel, mm
    turned = 0
    for view in np.asarray(made, np.float64):
        down, across = ((view[1:, :-1] - view[:-1, :-1]), (view[:-1, 1:] - view[:-1, :-1]))
        inner = np.all((view > 0.5) & (view < np.array(shape) - 1.5), axis=-1)[:-1, :-1]
        matrix = np.stack([np.median(d[inner], axis=0) for d in (down, across)], axis=1)
        millimetres = pixel[:, None] * matrix / side  # how far the scan goes by for a millimetre in the view
        np.testing.assert_allclose(millimetres.T @ millimetres, np.eye(2), atol=0.01)
        turned += abs(millimetres[0, 1]) > 0.1
    assert turned > 2, "the case tests nothing"


def test_masks_hide_blocks_by_each_views_own_ratio():
    config = self_distil.Config(mask_ratio=(0.1, 0.5), masked=0.5)
    keys = jax.random.split(jax.random.key(0), 400)
    shown, places, last = (np.asarray(x) for x in self_distil.mask(config, keys, (6, 7), 21))
    share = shown.mean(axis=1)
    assert 0.4 < (share == 0).mean() < 0.6
    assert 0.08 < share[share > 0].min() < 0.15 and 0.42 < share.max() <= 0.5
    for row in range(20):
        assert set(places[row][last[row] > 0]) == set(np.flatnonzero(shown[row]))


def test_the_teacher_follows_and_counts_its_updates(mite):
    spec = Spec((8, 8), 1, steps=100)
    objective = self_distil.build(self_distil.Config(**SMALL, momentum=(0.8, 1.0)), mite((4, 4)), spec)
    memory = {"teacher": {"encoder": {"w": jnp.zeros(3)}}, "updates": jnp.asarray(0)}
    params = {"encoder": {"w": jnp.ones(3)}, "mask_token": jnp.ones(2)}
    for step, moved in ((0, 0.2), (50, 0.1), (100, 0.0)):
        after = objective.after_update(params, memory, jnp.asarray(step))
        np.testing.assert_allclose(after["teacher"]["encoder"]["w"], moved, atol=1e-6)
        assert int(after["updates"]) == step and set(after["teacher"]) == {"encoder"}


@pytest.mark.parametrize(
    "keys,message",
    [
        (dict(local_size=(2, 8)), "local_size is \\(2, 8\\), smaller than a patch \\(4, 4\\)"),
        (dict(local_size=(8, 6)), "local_size: patch_size \\(4, 4\\) does not divide the size \\(8, 6\\)"),
        (dict(local_size=(8, 16)), "does not lie within the scans' \\(8, 12\\)"),
        (dict(local_size=(8,)), "does not lie within"),
    ],
)
def test_small_views_that_do_not_fit_are_refused(mite, keys, message):
    with pytest.raises(InputError, match=message):
        self_distil.build(self_distil.Config(**SMALL, **keys), mite((4, 4)), Spec((8, 12), 1))
