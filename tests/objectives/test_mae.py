"""Masked autoencoding: the mask's properties, and a loss that sees the hidden patches and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_vit
import pytest
import scipy.fft

from vitmed.data.keys import example_keys, step_key
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.models.patches import patchify
from vitmed.objectives import frequency, mae, masking, simmim
from vitmed.objectives.interface import Spec, weighted_mean

MODEL = dict(variant="nano", decoder_dim=32, decoder_depth=1, decoder_heads=4, scan=True)


def stream_of(image):
    n = len(image)
    example = np.stack([np.arange(n), np.arange(n) * 7 + 1], axis=1).astype(np.uint32)
    return {"main": {"image": jnp.asarray(image), "weight": jnp.ones(n), "example": jnp.asarray(example)}}


def masked(keys, patches, ratio):
    return masking.draw(masking.MaskConfig(mask_ratio=ratio), keys, (patches,))


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.75, 0.99])
def test_mask_is_a_partition_with_its_inverse(ratio):
    keys = jax.random.split(jax.random.key(0), 5)
    mask = masked(keys, 12, ratio)
    order = np.concatenate([mask.keep, mask.hide], axis=1)
    assert 1 <= mask.keep.shape[1] <= 11
    for row, restore in zip(order, np.asarray(mask.restore)):
        assert sorted(row) == list(range(12))
        assert (row[restore] == np.arange(12)).all()


def test_mask_belongs_to_the_example_not_to_its_place():
    """Else a resumed run on other hosts would see other masks."""
    example = jnp.asarray([[1, 2], [3, 4], [5, 6]], jnp.uint32)
    key = step_key(3, 11)
    whole = masked(example_keys(key, example), 16, 0.75)
    turned = masked(example_keys(key, example[::-1]), 16, 0.75)
    np.testing.assert_array_equal(whole.keep, turned.keep[::-1])
    later = masked(example_keys(step_key(3, 12), example), 16, 0.75)
    assert not np.array_equal(whole.keep, later.keep)


@pytest.mark.parametrize(
    "size,patch,channels", [((8, 12), (4, 4), 1), ((8, 8), (4, 2), 3), ((4, 8, 6), (2, 4, 3), 1)]
)
@pytest.mark.parametrize("target", ["patch", "raw"])
def test_loss_is_the_mean_error_on_hidden_patches(rng, size, patch, channels, target):
    """Against NumPy: normalised within each patch with the unbiased variance, hidden patches alone."""
    model, spec = ModelConfig(patch_size=patch, **MODEL), Spec(size, channels)
    config = mae.Config(target=target)
    objective = mae.build(config, model, spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    batch = stream_of(rng.normal(size=(3, *size, channels)).astype(np.float32))
    key = step_key(0, 5)
    loss, _ = objective.loss(params, memory, batch, key)

    patches = np.asarray(patchify(batch["main"]["image"], patch), np.float64)
    if target == "patch":
        centred = patches - patches.mean(-1, keepdims=True)
        patches = centred / np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    mask = masked(example_keys(key, batch["main"]["example"]), patches.shape[1], 0.75)
    predicted = mae.Autoencoder(model, spec).predict(params, batch["main"]["image"], mask)
    errors = [
        ((np.asarray(predicted)[b, n] - patches[b, n]) ** 2).mean()
        for b in range(3)
        for n in np.asarray(mask.hide)[b]
    ]
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.mark.parametrize("target", ["patch", "raw"])
def test_of_the_brightest_patches_some_are_shown_and_the_others_predicted(rng, target):
    """Otherwise air is shown, predicted or paid for, or a prediction is compared with another patch."""
    model = ModelConfig(patch_size=(4, 4), **MODEL, brightest_patches=4)
    spec, config, key = Spec((8, 16), 1), mae.Config(target=target, mask_ratio=0.5), step_key(0, 5)
    objective, network = mae.build(config, model, spec), mae.Autoencoder(model, spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    image = rng.normal(-5, 0.1, (3, 8, 16, 1)).astype(np.float32)
    bright = np.array([[0, 3, 5, 6], [1, 2, 4, 7], [0, 1, 2, 7]])
    for one, which in zip(image, bright):
        for n in which:
            one[4 * (n // 4) : 4 * (n // 4) + 4, 4 * (n % 4) : 4 * (n % 4) + 4] += 3 + rng.random((4, 4, 1))
    batch = stream_of(image)
    loss, _ = objective.loss(params, memory, batch, key)
    among = masked(example_keys(key, batch["main"]["example"]), 4, 0.5)
    keep, hide = (np.take_along_axis(bright, np.asarray(part), axis=1) for part in (among.keep, among.hide))
    mask = masking.Mask(jnp.asarray(keep), jnp.asarray(hide), among.restore, jnp.asarray(bright))
    predicted = np.asarray(network.predict(params, batch["main"]["image"], mask))
    targets = np.asarray(mae.target_patches(batch["main"]["image"], (4, 4), target))
    errors = [
        ((predicted[b, i] - targets[b, bright[b, i]]) ** 2).mean()
        for b in range(3)
        for i in np.asarray(among.hide)[b]
    ]
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-4)
    other = np.where(image < -3, image - 1, image)  # darker still
    again, _ = objective.loss(params, memory, stream_of(other.astype(np.float32)), key)
    assert float(again) == float(loss)
    with pytest.raises(InputError, match="mask is 'block', which hides neighbours of the whole grid"):
        mae.build(mae.Config(mask="block"), model, spec)
    with pytest.raises(InputError, match="needs at least 2: one is shown, one predicted"):
        mae.build(config, dataclasses.replace(model, brightest_patches=1), spec)


def test_all_patches_in_order_are_the_whole_grid(rng):
    """Otherwise the decoder puts what takes part somewhere else."""
    model, spec = ModelConfig(patch_size=(4, 4), **MODEL), Spec((8, 12), 1)
    network = mae.Autoencoder(model, spec)
    params = network.init(jax.random.key(1), 0.5)
    image = rng.normal(size=(2, 8, 12, 1)).astype(np.float32)
    mask = masking.from_noise(jnp.asarray(rng.random((2, 6))), 0.5)
    every = jnp.tile(jnp.arange(6), (2, 1))
    np.testing.assert_allclose(
        network.predict(params, image, mask._replace(places=every)),
        network.predict(params, image, mask),
        rtol=1e-5,
        atol=1e-6,
    )
    turned = every[:, ::-1]  # the same patches, told in another order
    other = masking.Mask(mask.keep, mask.hide, mask.restore[:, ::-1], turned)
    np.testing.assert_allclose(
        network.predict(params, image, other)[:, ::-1],
        network.predict(params, image, mask),
        rtol=1e-4,
        atol=1e-5,
    )


def test_visible_pixels_reach_the_loss_only_through_the_encoder(rng):
    """Hidden patches must not leak into the prediction."""
    model, spec = ModelConfig(patch_size=(4, 4), **MODEL), Spec((8, 8), 1)
    network = mae.Autoencoder(model, spec)
    params = network.init(jax.random.key(1), 0.75)
    image = rng.normal(size=(1, 8, 8, 1)).astype(np.float32)
    mask = masking.from_noise(jnp.asarray([[0.0, 1.0, 2.0, 3.0]]), 0.75)  # only patch 0, top left, is seen
    other = image.copy()
    other[:, 4:] += 5.0
    np.testing.assert_array_equal(network.predict(params, image, mask), network.predict(params, other, mask))
    other[:, :4, :4] += 5.0
    assert not np.allclose(network.predict(params, image, mask), network.predict(params, other, mask))


def test_padding_weighs_nothing(rng):
    model, spec = ModelConfig(patch_size=(4, 4), **MODEL), Spec((8, 8), 1)
    objective = mae.build(mae.Config(), model, spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    batch = stream_of(rng.normal(size=(4, 8, 8, 1)).astype(np.float32))
    key = step_key(0, 0)
    short = {"main": {k: v[:3] for k, v in batch["main"].items()}}
    batch["main"]["weight"] = jnp.asarray([1.0, 1.0, 1.0, 0.0])
    padded, alone = (objective.loss(params, memory, b, key)[0] for b in (batch, short))
    assert float(padded) == pytest.approx(float(alone), rel=1e-6)


# --- what is hidden, what counts, and how ---------------------------------------------------------------------------


def test_defaults_are_what_they_were_to_the_bit(rng, batch_of, mite):
    """Loss and gradients of a run that sets none of the later keys, against the former text of the objective."""
    model, spec = mite((4, 4)), Spec((8, 12), 1)
    objective = mae.build(mae.Config(), model, spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    network = mae.Autoencoder(model, spec)
    batch, key = batch_of(rng.normal(size=(3, 8, 12, 1)).astype(np.float32)), step_key(0, 5)

    def former(params):
        stream = batch["main"]
        patches = patchify(stream["image"], (4, 4))
        variance = patches.var(axis=-1, keepdims=True, ddof=1)
        targets = (patches - patches.mean(axis=-1, keepdims=True)) / jnp.sqrt(variance + 1e-6)
        keys = example_keys(key, stream["example"])
        shuffle = jnp.argsort(jax.vmap(lambda k: jax.random.uniform(k, (6,)))(keys), axis=1)
        restore = jnp.argsort(shuffle, axis=1)
        mask = masking.Mask(shuffle[:, :1], shuffle[:, 1:], restore)
        predicted = network.predict(params, stream["image"], mask)
        hidden = (restore >= 1) * stream["weight"][:, None]
        return weighted_mean(jnp.mean((predicted - targets) ** 2, axis=-1), hidden, None)

    now = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key)[0]))(params)
    then = jax.jit(jax.value_and_grad(former))(params)
    for a, b in zip(jax.tree.leaves(now), jax.tree.leaves(then), strict=True):
        np.testing.assert_array_equal(a, b)


SPECTRAL = dict(mask="tube", high_frequency=3.0, target="raw", mask_ratio=0.5)
COUNTED = dict(mask="block", foreground=0.2, exclude=("face",), mask_ratio=0.6)


@pytest.mark.parametrize(
    "shape,keys",
    [
        (((8, 12), (4, 2), 3), {}),
        (((4, 8, 6), (2, 4, 3), 1), {}),
        (((8, 4, 12), (4, 2, 4), 1), SPECTRAL),
        (((8, 12), (4, 4), 1), COUNTED),
        (((4, 8, 6), (2, 4, 3), 3), COUNTED),
    ],
    ids=["2D", "3D", "spectral", "counted-2D", "counted-3D"],
)
def test_loss_and_gradients_are_numpys(rng, batch_of, mite, shape, keys):
    """The whole objective once more in float64: targets, networks, spectrum, what counts; slopes by differences."""
    size, patch, channels = shape
    spec = Spec(size, channels, window=((-1.0, 1.0),) * channels, structures=(("face", (2, 3)),))
    objective = mae.build(mae.Config(**keys), mite(patch), spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    image = rng.uniform(-1, 0, size=(4, *size, channels)).astype(np.float32)
    image -= 0.5 * (np.indices(size)[0] < size[0] // 2)[..., None].astype(np.float32)  # half of it dark
    marked = (rng.uniform(size=(4, *size)) < 0.02) * rng.integers(1, 4, size=(4, *size))
    batch = batch_of(image, np.array([1.0, 1, 0, 1]), mask=marked.astype(np.uint8))
    key = step_key(0, 5)
    loss, gradients = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key)[0]))(params)

    cells = tuple(s // p for s, p in zip(size, patch))
    pixels = numpy_vit.patches(image, patch)
    counts = np.ones(pixels.shape[:2], bool)
    if "foreground" in keys:
        means = (pixels.reshape(*counts.shape, -1, channels).mean(2) + 1) / 2
        counts = (means > 0.2).any(-1) & ~np.isin(numpy_vit.patches(marked[..., None], patch), (2, 3)).any(-1)
        assert 0.1 < counts.mean() < 0.9, "the case tests nothing"
    drawn = masking.draw(
        mae.Config(**keys),
        example_keys(key, batch["main"]["example"]),
        cells,
        jnp.asarray(counts) if keys == COUNTED else None,
    )
    hidden = np.ones(counts.shape, bool)
    np.put_along_axis(hidden, np.asarray(drawn.keep), False, axis=1)
    weight = hidden * counts * np.array([1.0, 1, 0, 1])[:, None]
    if keys.get("target") != "raw":
        deviation = np.sqrt(pixels.var(-1, ddof=1, keepdims=True) + 1e-6)
        pixels = (pixels - pixels.mean(-1, keepdims=True)) / deviation

    def reference(p):
        tokens = numpy_vit.encode(p["encoder"], image, patch, drawn.keep)
        error = numpy_vit.decode(p["decoder"], tokens, drawn.keep, cells) - pixels
        square = error**2
        if "high_frequency" in keys:
            error = error.reshape(*error.shape[:2], *patch, channels)
            power = scipy.fft.dctn(error, axes=range(2, 2 + len(patch)), norm="ortho") ** 2
            place = np.meshgrid(*(np.arange(n) / (n - 1) for n in patch), indexing="ij")
            by = 1 + 3.0 * sum(c**2 for c in place) / len(patch)
            square = (power * (by / by.mean())[..., None]).reshape(*weight.shape, -1)
        return (square.mean(-1) * weight).sum() / weight.sum()

    assert float(loss) == pytest.approx(reference(numpy_vit.double(params)), rel=1e-4)
    numpy_vit.assert_same_slopes(reference, params, gradients)


def test_without_strength_the_spectrum_is_the_mean_squared_error(rng):
    error = rng.normal(size=(2, 5, 4 * 3 * 2)).astype(np.float32)
    found = frequency.weighted_square(jnp.asarray(error), (4, 3), 0.0)
    np.testing.assert_allclose(found, (error**2).mean(-1), rtol=1e-5)
    flat = np.ones_like(error)
    assert (frequency.weighted_square(jnp.asarray(flat), (4, 3), 5.0) < 0.5).all(), "a mean is no detail"


@pytest.mark.parametrize("cells,block", [((6, 8), 2), ((4, 6, 5), 2), ((3, 7), 3)])
def test_blocks_hide_neighbours_together(cells, block):
    """Most neighbours along each axis share their fate, where of single patches few do."""
    keys = jax.random.split(jax.random.key(0), 200)
    together = {}
    for name in ("uniform", "block"):
        config = mae.Config(mask=name, mask_block=block, mask_ratio=0.5)
        hidden = np.asarray(masking.draw(config, keys, cells).hidden)
        assert (hidden.sum(1) == hidden[0].sum()).all() and abs(hidden.mean() - 0.5) < 0.05
        assert 0.3 < hidden.mean(0).min() and hidden.mean(0).max() < 0.7, (
            "some place is hidden more than others"
        )
        hidden = hidden.reshape(-1, *cells)
        together[name] = [np.mean(np.diff(hidden, axis=a + 1) == 0) for a in range(len(cells))]
    assert all(b > u + 0.15 for u, b in zip(together["uniform"], together["block"]))


@pytest.mark.parametrize("cells", [(5, 6), (4, 3, 5)])
def test_tubes_run_through_the_first_axis(cells):
    keys = jax.random.split(jax.random.key(0), 20)
    hidden = np.asarray(masking.draw(mae.Config(mask="tube"), keys, cells).hidden).reshape(20, *cells)
    assert (hidden == hidden[:, :1]).all() and 0.6 < hidden.mean() < 0.85
    assert len(np.unique(hidden.reshape(20, -1), axis=0)) >= 5, "tubes lie at random"


def test_visible_patches_are_spent_on_the_foreground():
    """Air is shown only where at least half of the foreground would be shown otherwise, and there is one rule for all."""
    counted = np.zeros((3, 16), bool)
    counted[0, 3:13], counted[1, :2], counted[2] = True, True, True
    keys = jax.random.split(jax.random.key(1), 3)
    for kind in ("uniform", "block", "tube"):
        config = mae.Config(mask=kind, mask_ratio=0.75)
        keep = np.asarray(masking.draw(config, keys, (4, 4), jnp.asarray(counted)).keep)
        assert keep.shape == (3, 4)
        if kind == "uniform":
            assert counted[0, keep[0]].all() and counted[1, keep[1]].sum() == 1
        same = np.asarray(masking.draw(config, keys, (4, 4)).keep)
        np.testing.assert_array_equal(keep[2], same[2], "where all count nothing changes")


@pytest.mark.parametrize(("kind", "block"), [("tube", (4, 1, 1)), ("block", (2, 2, 2))])
@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_blocks_and_tubes_stay_whole_where_air_does_not_count(kind, block, ratio):
    """Else a hidden patch is read off what is shown of its own tube, which tubes are there to prevent."""
    cells, keys = (4, 4, 4), jax.random.split(jax.random.key(2), 30)
    counted = np.zeros((30, *cells), bool)
    counted[:, 1:, :2] = True
    counted = counted.reshape(30, -1)
    config = mae.Config(mask=kind, mask_ratio=ratio)
    hidden = np.asarray(masking.draw(config, keys, cells, jnp.asarray(counted)).hidden)
    noise = np.asarray(masking.grouped(keys, cells, block))
    for tile, count, gone in zip(np.floor(noise), counted, hidden):
        groups = [tile == number for number in np.unique(tile)]
        cut = [group for group in groups if 0 < gone[group].sum() < group.sum()]
        assert len(cut) <= (kind == "block"), "of blocks one is cut, so that all scans show as many patches"
        first = np.isin(tile, tile[count])
        assert gone[first].mean() >= 0.5
        if kind == "tube":  # 8 of 16 tubes count, of which four may be shown
            assert first.sum() == 32 and gone[first].sum() == 16 and (~gone).sum() == 64 * (1 - ratio)


def test_air_neither_rewards_nor_costs(rng, batch_of, mite):
    """Whatever is predicted for air, the loss is the same; the foreground's share is told."""
    model, spec = mite((4, 4)), Spec((8, 12), 1, window=((-2.0, 2.0),))
    image = np.full((2, 8, 12, 1), -2.0, np.float32)
    image[:, :, :8] = rng.normal(size=(2, 8, 8, 1))
    found = {}
    for name, noise in (("still", 0.0), ("noisy", 0.05)):
        noisy = image + noise * (np.arange(12) >= 8)[:, None] * np.abs(rng.normal(size=image.shape)).astype(
            np.float32
        )
        objective = mae.build(mae.Config(foreground=0.05, mask_ratio=0.7), model, spec)
        params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
        found[name], (metrics, _) = jax.jit(objective.loss)(params, memory, batch_of(noisy), step_key(0, 0))
        assert float(metrics["counted"].value) == pytest.approx(4 / 6)
    assert float(found["still"]) == pytest.approx(float(found["noisy"]), rel=1e-5)


@pytest.mark.parametrize(
    "keys,message",
    [
        (dict(mask="tube"), "'tube' needs patches beside the first axis.*is \\(2, 1\\)"),
        (dict(foreground=0.1), "foreground needs the recipe"),
        (dict(exclude=("face",)), "names the structure 'face'.*they hold skull"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mite, keys, message):
    spec = Spec((8, 4), 1, structures=(("skull", (1,)),))
    with pytest.raises(InputError, match=message):
        mae.build(mae.Config(**keys), mite((4, 4)), spec)


@pytest.mark.parametrize("objective", [mae, simmim])
def test_patches_of_one_value_are_not_normalised(mite, objective):
    """One value has no variance: the loss would be no number from the first step on."""
    model = mite((1, 1))
    with pytest.raises(InputError, match="target is 'patch', but a patch of \\(1, 1\\) has one value"):
        objective.build(objective.Config(target="patch"), model, Spec((4, 4), 1))
    objective.build(objective.Config(target="patch"), model, Spec((4, 4), 2))
    objective.build(objective.Config(target="raw"), model, Spec((4, 4), 1))


def test_excluded_structures_without_masks_are_refused(rng, batch_of, mite):
    spec = Spec((8, 8), 1, structures=(("face", (1,)),))
    objective = mae.build(mae.Config(exclude=("face",)), mite((4, 4)), spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)
    with pytest.raises(InputError, match="these scans have no masks"):
        objective.loss(params, memory, batch_of(np.zeros((2, 8, 8, 1), np.float32)), step_key(0, 0))
