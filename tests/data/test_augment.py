import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vitmed import config
from vitmed.data import fields, mirrors
from vitmed.data.augment import AugmentConfig, augment, boxes
from vitmed.data.keys import example_keys, step_key
from vitmed.errors import InputError
from vitmed.objectives import semi_teacher

EVERYTHING = AugmentConfig(
    flip=(0, 1), shift=0.1, scale=(0.8, 1.25), rotate=20, crop=(0.5, 1.0),
    elastic=0.05, brightness=0.2, contrast=0.3, gamma=0.3, bias_field=0.3, blur=0.7, noise=0.1, cutout=0.1,
)  # fmt: skip


GOLDEN = 27.59986  # as drawn by the first release

jitted = jax.jit(augment, static_argnums=2)


def keys_of(n, step=0):
    return example_keys(step_key(0, step), np.arange(2 * n, dtype=np.uint32).reshape(n, 2))


def mirrored(volume, way):
    """(z, y, x, ...) reversed along z, x where ``way`` holds 1."""
    return volume[:: 1 - 2 * way[0], :, :: 1 - 2 * way[1]]


def smooth(shape, seed=0):
    """Images with features several voxels wide, so that linear interpolation is nearly exact."""
    noise = np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape).astype(np.float32)
    return ndimage.gaussian_filter(noise, (0, *(3,) * (len(shape) - 2), 0)) * 20


def test_off_by_default():
    # Evaluation and the plainest training must see the images as they are.
    images, masks = jnp.ones((2, 4, 4, 1)), jnp.ones((2, 4, 4), jnp.uint8)
    assert augment(images, keys_of(2), AugmentConfig()) is images
    assert augment(images, keys_of(2), AugmentConfig(), masks) == (images, masks)


@pytest.mark.parametrize("shape", [(6, 12, 10, 2), (6, 5, 9, 8, 1)], ids=["2D", "3D"])
def test_an_example_is_augmented_alike_in_any_batch(shape):
    # Else a run on other hosts, or resumed, would train on other images.
    images, keys = jnp.asarray(smooth(shape)), keys_of(6)
    masks = (images[..., 0] > 0).astype(jnp.uint8)
    whole, whole_masks = jitted(images, keys, EVERYTHING, masks)
    order = np.array([5, 2, 0, 1, 4, 3])
    moved, moved_masks = jitted(images[order], keys[order], EVERYTHING, masks[order])
    np.testing.assert_array_equal(moved, whole[order])
    np.testing.assert_array_equal(moved_masks, whole_masks[order])
    part, _ = jitted(images[2:4], keys[2:4], EVERYTHING, masks[2:4])
    np.testing.assert_array_equal(part, whole[2:4])
    assert not np.allclose(jitted(images, keys_of(6, step=1), EVERYTHING), whole)


def test_flips_are_exact_and_fair():
    # A mirrored image must be its mirror to the bit, along the axes asked for and no other, in half of the
    # cases.
    images = jnp.asarray(smooth((400, 3, 4, 5, 1)))
    masks = jnp.round(images[..., 0]).astype(jnp.uint8)
    out, out_masks = jitted(images, keys_of(400), AugmentConfig(flip=(0, 2)), masks)
    found = np.zeros((2, 2), int)
    both = zip(*map(np.asarray, (images, out, masks, out_masks)), strict=True)
    for before, after, mask, after_mask in both:
        ways = [way for way in np.ndindex(2, 2) if (mirrored(before, way) == after).all()]
        assert len(ways) == 1 and (mirrored(mask, ways[0]) == after_mask).all()
        found[ways[0]] += 1
    assert (np.abs(found - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)).all()


def test_geometry_agrees_with_scipy():
    # The composed map is checked against an independent resampling: its matrix is found from the image
    # itself, by augmenting the coordinates, then SciPy applies it to other images. A wrong sign or axis
    # order would show.
    size = (8, 21, 26)
    setting = AugmentConfig(flip=(1, 2), shift=0.05, scale=(0.9, 1.2), rotate=25, crop=(0.7, 1.0))
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).astype(np.float32)
    images = smooth((4, *size, 1))
    source = np.asarray(jitted(jnp.asarray(np.stack([grid] * 4)), keys_of(4), setting))
    out = np.asarray(jitted(jnp.asarray(images), keys_of(4), setting))[..., 0]
    masks = (images[..., 0] > 1).astype(np.uint8)
    _, out_masks = jitted(jnp.asarray(images), keys_of(4), setting, jnp.asarray(masks))
    for i in range(4):
        ours = source[i].reshape(-1, 3)
        rows = np.column_stack([grid.reshape(-1, 3), np.ones(len(ours))])
        inner = ((ours > 0.01) & (ours < np.array(size) - 1.01)).all(1)
        matrix = np.linalg.lstsq(rows[inner], ours[inner], rcond=None)[0]
        assert np.abs(rows[inner] @ matrix - ours[inner]).max() < 1e-3  # affine indeed
        linear = matrix[:3].T
        gram = linear @ linear.T  # a zoom times a rotation in the plane: no shear, one scale on all axes
        assert np.abs(gram - np.eye(3) * gram[0, 0]).max() < 1e-3 and np.abs(linear[0, 1:]).max() < 1e-3
        wanted = (rows @ matrix).T.reshape(3, *size)
        np.testing.assert_allclose(
            out[i], ndimage.map_coordinates(images[i, ..., 0], wanted, order=1, mode="nearest"), atol=2e-3
        )
        nearest = ndimage.map_coordinates(masks[i], wanted, order=0, mode="nearest")
        assert (np.asarray(out_masks)[i] != nearest).mean() < 0.002  # ties only


def test_both_resamplings_agree():
    # A rotation by nothing gathers neighbours; without rotation matrices interpolate. Same map, same image.
    images = jnp.asarray(smooth((5, 14, 11, 2)))
    setting = {"flip": (1,), "shift": 0.2, "scale": (0.7, 1.4), "crop": (0.5, 0.9)}
    masks = (images[..., 0] > 0).astype(jnp.uint8)
    a, am = jitted(images, keys_of(5), AugmentConfig(**setting), masks)
    b, bm = jitted(images, keys_of(5), AugmentConfig(**setting, rotate=1e-7), masks)
    np.testing.assert_allclose(a, b, atol=1e-4)
    assert (am != bm).mean() < 0.01


def test_rotation_turns_about_the_centre():
    # By up to 180 degrees every image of a centred disc stays that disc: a centre off by half a voxel would
    # show.
    y, x = np.mgrid[:31, :31] - 15
    disc = np.clip(10 - np.hypot(y, x), 0, 4).astype(np.float32)[None, ..., None].repeat(8, 0)
    out = jitted(jnp.asarray(disc), keys_of(8), AugmentConfig(rotate=180))
    assert np.abs(np.asarray(out) - disc).max() < 0.25


def test_outside_repeats_the_edge():
    # A border of any fixed value would be a cue that only augmented images carry.
    ramp = jnp.broadcast_to(jnp.arange(5.0, 15.0)[:, None, None], (50, 10, 6, 1))
    out = np.asarray(jitted(ramp, keys_of(50), AugmentConfig(shift=0.5, scale=(0.5, 0.5))))
    assert out.min() == 5 and out.max() == 14 and (out[:, :, :1] == out).all()


@pytest.mark.parametrize("area, ndim", [(0.2, 2), (0.9, 2), (0.4, 3)])
def test_crops_keep_the_area_asked_for_and_stay_inside(area, ndim):
    # A crop that reached over the edge would smear it; the area is what papers state.
    n = 16
    grid = np.stack(np.meshgrid(*[np.arange(n)] * ndim, indexing="ij"), -1).astype(np.float32)
    out = np.asarray(jitted(jnp.asarray(np.stack([grid] * 4)), keys_of(4), AugmentConfig(crop=(area, area))))
    step = area ** (1 / ndim)
    first, last = out[(slice(None), *[1] * ndim)], out[(slice(None), *[n - 2] * ndim)]
    np.testing.assert_allclose((last - first) / (n - 3), step, atol=1e-3)
    assert (first - 1.5 * step > -0.51).all() and (last + 1.5 * step < n - 0.49).all()


def test_intensity_changes_are_what_they_say():
    # Units matter: brightness in deviations of the data, contrast about the image's mean, gamma inside its
    # range.
    images, keys = jnp.asarray(smooth((64, 16, 16, 1))), keys_of(64)
    space = (1, 2, 3)
    bright = np.asarray(jitted(images, keys, AugmentConfig(brightness=0.5)) - images)
    assert np.ptp(bright, axis=space).max() < 1e-5 and 0.4 < np.abs(bright).max() <= 0.5
    contrast = np.asarray(jitted(images, keys, AugmentConfig(contrast=0.4)))
    np.testing.assert_allclose(contrast.mean(space), images.mean(space), atol=1e-4)
    ratio = contrast.std(space) / images.std(space)
    assert 0.6 <= ratio.min() < 0.7 and 1.3 < ratio.max() <= 1.4
    gamma = np.asarray(jitted(images, keys, AugmentConfig(gamma=0.5)))
    np.testing.assert_allclose(gamma.min(space), images.min(space), atol=1e-4)
    np.testing.assert_allclose(gamma.max(space), images.max(space), atol=1e-3)
    noise = np.asarray(jitted(images, keys, AugmentConfig(noise=0.5)) - images)
    level = noise.std(space)
    assert level.min() < 0.1 and 0.4 < level.max() < 0.6 and abs(noise.mean()) < 0.02
    constant = jitted(jnp.ones((2, 4, 4, 1)), keys_of(2), AugmentConfig(gamma=0.5, contrast=0.5))
    assert np.isfinite(np.asarray(constant)).all()


def test_cutout_removes_one_box_of_the_area():
    # It stands for the data's mean, 0 once normalised.
    out = np.asarray(jitted(jnp.ones((30, 40, 20, 2)), keys_of(30), AugmentConfig(cutout=0.25)))
    for image in out:
        rows, columns = (np.flatnonzero((image[..., 0] == 0).any(axis)) for axis in (1, 0))
        assert len(rows) in (20, 21) and len(columns) in (9, 10, 11)
        assert (image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 0).all()


def test_cutout_leaves_masks_whole():
    """Otherwise a network learns that there is no tumour where it is not shown, and every Dice loss of it is wrong."""
    masks = jnp.ones((4, 20, 20), jnp.uint8)
    images, kept = jitted(jnp.ones((4, 20, 20, 1)), keys_of(4), AugmentConfig(cutout=0.3), masks)
    assert (np.asarray(images) == 0).any() and (np.asarray(kept) == 1).all()


def test_a_mirror_that_no_patient_could_be_is_doubted():
    """Otherwise hearts lie on the right in half of all chest X-rays, and nobody hears of it."""
    wide = {"axes": [{}, {}, {}]}
    sections = {"config.augment": AugmentConfig(flip=(0, 1)), "config.objective": semi_teacher.Config()}

    def doubted(modality, size, spacings=None):
        sheet = {"modality": modality, "size": size, "spacings": spacings}
        return [said.split(" scans")[0] for said in mirrors.doubts(sections, sheet)]

    said = "config.augment.flip mirrors axis"
    assert doubted("xray", (8, 8)) == [f"{said} 0 of xray", f"{said} 1 of xray"]
    assert doubted("ultrasound", (8, 8)) == [f"{said} 0 of ultrasound"]
    assert doubted("ct", (8, 8, 8), wide) == [f"{said} 0 of ct", f"{said} 1 of ct"]
    assert doubted("mr", (8, 8, 8), wide) == [f"{said} 0 of mr", f"{said} 1 of mr"]
    assert doubted("mr", (8, 8, 8), {"axes": []}) == doubted("ct", (8, 8)) == []
    sections = {"config.augment": AugmentConfig(flip=(2,)), "config.objective": semi_teacher.Config()}
    assert doubted("ct", (8, 8, 8), wide) == []
    strong = semi_teacher.Config(strong=AugmentConfig(flip=(1,)))
    sections = {"config.augment": AugmentConfig(), "config.objective": strong}
    assert doubted("xray", (8, 8)) == ["config.objective.strong.flip mirrors axis 1 of xray"]


def test_a_change_draws_the_same_whatever_else_is_on():
    # Switching noise on must not move the crops: ablations compare one thing at a time.
    images, keys = jnp.asarray(smooth((4, 12, 12, 1))), keys_of(4)
    alone = jitted(images, keys, AugmentConfig(shift=0.3))
    both = jitted(images, keys, AugmentConfig(shift=0.3, brightness=1.0))
    assert np.ptp(np.asarray(both - alone), axis=(1, 2, 3)).max() < 1e-5


def test_what_an_example_draws_is_fixed_for_ever():
    # A row of random numbers that grew would silently change every published run's augmentation.
    ramp = jnp.arange(64.0).reshape(1, 64, 1, 1)
    out = jitted(ramp, keys_of(1), AugmentConfig(shift=0.25, brightness=1.0))
    assert abs(float(out[0, 32, 0, 0]) - GOLDEN) < 1e-3


@pytest.mark.parametrize("added", [{"blur": 1e-6}, {"bias_field": 1e-9}, {"elastic": 1e-9}], ids=str)
def test_the_later_changes_leave_the_draws_and_vanish_at_no_strength(added):
    # An ablation of one change must not move another's draws; a strength near nothing must do nothing.
    images, keys = jnp.asarray(smooth((4, 13, 12, 2))), keys_of(4)
    masks = (images[..., 0] > 0).astype(jnp.uint8)
    setting = {"shift": 0.2, "rotate": 15.0, "flip": (1,), "brightness": 0.5, "noise": 0.2, "cutout": 0.1}
    before, masks_before = jitted(images, keys, AugmentConfig(**setting), masks)
    after, masks_after = jitted(images, keys, AugmentConfig(**setting, **added), masks)
    np.testing.assert_allclose(after, before, atol=2e-5)
    assert (masks_before != masks_after).mean() < 0.01


def source_of(setting, size, examples, spacing=None):
    """(B, *S, n): where each output voxel comes from, seen by augmenting the coordinates themselves."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).astype(np.float32)
    images = jnp.asarray(np.stack([grid] * examples))
    return grid, np.asarray(jitted(images, keys_of(examples), setting, None, spacing))


@pytest.mark.parametrize("size, cells", [((64, 48), 4), ((64, 64), 1), ((24, 32, 28), 3)], ids=str)
def test_elastic_never_folds(size, cells):
    # A fold shows one piece of tissue twice. At the most that is allowed the map must keep its orientation
    # everywhere, and bend by what was asked and no more.
    most = fields.FOLD_FREE / cells
    grid, source = source_of(AugmentConfig(elastic=most, elastic_cells=cells), size, 40)
    moved = np.abs(source - grid) / np.array(size)
    assert 0.3 * most < moved.max() < most + 1e-5
    bend = (source - grid).reshape(40, -1, len(size)).std(1) / np.array(size)
    assert (bend > 0.0005).mean() > 0.9, "some examples or axes are not bent"
    assert determinants(source).min() > 0


def determinants(source):
    """Jacobian determinants by central differences, where neighbours lie inside the image."""
    axes = range(1, source.ndim - 1)
    slopes = np.stack([np.gradient(source, axis=axis) for axis in axes], -1)
    size = np.array(source.shape[1:-1])
    inside = ((source > 0.5) & (source < size - 1.5)).all(-1)
    for axis in axes:  # a neighbour that is clipped to the edge has no slope of its own
        inside &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    return np.linalg.det(slopes)[inside]


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_limit_of_elastic_holds_for_any_field(ndim):
    # Random fields seldom come near the worst, so control values at their limits, signs drawn, stand for it.
    cells, n = 4, 32
    signs = np.random.Generator(np.random.Philox(key=1)).choice(
        [-1.0, 1.0], (200, *(cells + 3,) * ndim, ndim)
    )
    at_most = fields.FOLD_FREE / cells * n
    grid = np.stack(np.meshgrid(*[np.arange(n)] * ndim, indexing="ij"), -1)
    for part in np.split(signs.astype(np.float32), 10):
        moved = np.asarray(fields.spread(jnp.asarray(part), (n,) * ndim)) * at_most
        slopes = np.stack([np.gradient(grid + moved, axis=a) for a in range(1, ndim + 1)], -1)
        assert np.linalg.det(slopes).min() > 0
        assert np.abs(moved).max() <= at_most * (1 + 1e-5)


def test_elastic_is_smooth_and_masks_follow_it():
    # A field that jumps tears tissue; a mask that does not follow labels the wrong voxels.
    setting = AugmentConfig(elastic=0.1, rotate=10, scale=(0.9, 1.1))
    _, source = source_of(setting, (40, 44), 6)
    bent = np.asarray(fields.field(keys_of(6), (40, 44), 4, 2)) * 0.1 * 40
    for axis in (1, 2):  # a tenth of the size over a quarter of it: no spline bends faster
        assert np.abs(np.diff(bent, 2, axis=axis)).max() < 0.17
    images = smooth((6, 40, 44, 1))
    masks = (images[..., 0] > 1).astype(np.uint8)
    out, out_masks = jitted(jnp.asarray(images), keys_of(6), setting, jnp.asarray(masks))
    for i in range(6):
        wanted = np.moveaxis(source[i], -1, 0)
        linear = ndimage.map_coordinates(images[i, ..., 0], wanted, order=1, mode="nearest")
        np.testing.assert_allclose(out[i, ..., 0], linear, atol=2e-3)
        nearest = ndimage.map_coordinates(masks[i], wanted, order=0, mode="nearest")
        assert (np.asarray(out_masks)[i] != nearest).mean() < 0.005


def test_blur_is_a_gaussian_of_the_width_drawn():
    # A width in other units, or a kernel cut short, is another augmentation than the one reported.
    images = smooth((60, 24, 30, 2))
    out = np.asarray(jitted(jnp.asarray(images), keys_of(60), AugmentConfig(blur=2.0)))
    widths = np.linspace(0.005, 2.0, 400)
    inner = (slice(8, -8), slice(8, -8))
    best = []
    for image, after in zip(images[:8], out[:8], strict=True):
        off = [
            np.abs(ndimage.gaussian_filter(image, (w, w, 0), truncate=8)[inner] - after[inner]).max()
            for w in widths
        ]
        best.append(widths[int(np.argmin(off))])
        assert min(off) < 0.02
    assert min(best) < 0.6 and max(best) > 1.4
    constant = jitted(jnp.full((3, 9, 8, 7, 1), 3.0), keys_of(3), AugmentConfig(blur=5.0))
    np.testing.assert_allclose(constant, 3.0, rtol=1e-5)  # edges are neither darkened nor wrapped


@pytest.mark.parametrize("size", [(32, 40), (12, 16, 14)], ids=str)
def test_bias_field_is_a_smooth_gain_on_what_lies_above_air(size):
    # A gain about any other value than air's would brighten the background, which no coil does.
    images = np.abs(smooth((40, *size, 1))) - 1.5
    images[:, :4] = -1.5  # air
    out = np.asarray(jitted(jnp.asarray(images), keys_of(40), AugmentConfig(bias_field=0.5)))
    np.testing.assert_allclose(out[:, :4], -1.5, atol=1e-5)
    tissue = images > -1.4
    gain = (out + 1.5)[tissue] / (images + 1.5)[tissue]
    assert gain.min() > 1 / 1.5 and gain.max() < 1.5 and gain.min() < 0.9 and gain.max() > 1.1
    flat = np.asarray(
        jitted(jnp.asarray(np.ones((40, *size, 1)) * [1.0]), keys_of(40), AugmentConfig(bias_field=0.5))
    )
    np.testing.assert_allclose(flat, 1.0, atol=1e-5)  # a constant image is all air: nothing to multiply
    ramp = np.ones((40, *size, 1), np.float32)
    ramp[:, 0] = 0
    gains = np.asarray(jitted(jnp.asarray(ramp), keys_of(40), AugmentConfig(bias_field=0.5)))[:, 1:]
    assert np.abs(np.diff(gains, axis=2)).max() < 0.2, "it jumps between neighbours"
    assert gains.std(tuple(range(1, gains.ndim))).max() > 0.03, "it is the same everywhere"


def test_bias_field_counts_from_air_that_a_crop_left_out():
    # After a crop the darkest voxel is tissue; a gain about it would not be a gain.
    images = np.full((30, 32, 32, 1), 2.0, np.float32)
    images[:, :1, :1] = 0
    setting = {"crop": (0.1, 0.1)}
    plain = np.asarray(jitted(jnp.asarray(images), keys_of(30), AugmentConfig(**setting)))
    out = np.asarray(jitted(jnp.asarray(images), keys_of(30), AugmentConfig(**setting, bias_field=0.5)))
    tissue = (plain == 2.0).all((1, 2, 3))
    assert tissue.sum() > 20 and (np.abs(out - plain)[tissue].max((1, 2, 3)) > 0.01).mean() > 0.9


@pytest.mark.parametrize("size", [(31, 41), (5, 31, 41)], ids=str)
def test_rotation_is_rigid_in_millimetres(size):
    # On pixels that are not square a rotation in voxels would shear the patient.
    n = len(size)
    mm = np.array([3.0, 2.0, 0.5][-n:], np.float32)
    spacing = jnp.asarray(np.stack([mm] * 5 + [np.full(n, np.nan, np.float32)]))
    grid, source = source_of(AugmentConfig(rotate=40), size, 6, spacing)
    turned = []
    for i in range(6):
        ours = source[i].reshape(-1, n)
        rows = np.column_stack([grid.reshape(-1, n), np.ones(len(ours))])
        inner = ((ours > 0.01) & (ours < np.array(size) - 1.01))[:, -2:].all(1)
        matrix = np.linalg.lstsq(rows[inner], ours[inner], rcond=None)[0]
        middle = (np.array(size) - 1) / 2
        np.testing.assert_allclose(np.append(middle, 1) @ matrix, middle, atol=1e-3)
        scale = mm if i < 5 else np.ones(n)
        rotation = (matrix[:n].T * scale[:, None]) / scale  # in millimetres, or in voxels where unknown
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=2e-3)
        if n == 3:
            np.testing.assert_allclose(rotation[0], [1, 0, 0], atol=1e-3)  # about z
        turned.append(np.degrees(np.arcsin(rotation[-1, -2])))
    assert np.abs(turned).max() <= 40.1 and np.ptp(turned) > 10
    again = source_of(AugmentConfig(rotate=40), size, 6)[1]
    np.testing.assert_allclose(again[5], source[5], atol=1e-4)  # square pixels where nothing is known
    assert np.abs(again[0] - source[0]).max() > 1


def test_impossible_settings_are_refused_by_name():
    for wrong, message in (
        ({"crop": (0.5,)}, "config.augment.crop is"),
        ({"scale": (1.2, 0.8)}, "config.augment.scale is"),
        ({"rotate": 400.0}, "config.augment.rotate is 400"),
        ({"noise": -1.0}, "config.augment.noise is -1"),
        ({"flip": (-1,)}, "config.augment.flip is"),
        ({"blur": -1.0}, "config.augment.blur is -1"),
        ({"bias_field": -0.1}, "config.augment.bias_field is -0.1"),
        ({"elastic_cells": 0}, "config.augment.elastic_cells is 0"),
        ({"elastic": 0.11}, "config.augment.elastic is 0.11; with elastic_cells 4 .* 0 and 0.1, .*fold"),
        ({"shfit": 0.1}, "did you mean config.augment.shift"),
    ):
        with pytest.raises(InputError, match=message):
            config.build(AugmentConfig, wrong, "config.augment")
    with pytest.raises(InputError, match="flip is .*config.augment.*2D.*0 to 1"):
        jitted(jnp.ones((2, 4, 4, 1)), keys_of(2), AugmentConfig(flip=(2,)))


@pytest.mark.parametrize("shape,size", [((20, 30), (8, 12)), ((12, 20, 16), (6, 10, 8))])
def test_boxes_are_parts_of_the_image_in_its_own_aspect(shape, size):
    # Of an image whose values are its coordinates, a view's values say where it was cut.
    ndim = len(shape)
    ramp = np.stack(np.indices(shape), axis=-1).astype(np.float32)
    views, length = boxes(jnp.asarray(np.stack([ramp] * 64)), keys_of(64), (0.1, 0.4), size)
    assert views.shape == (64, *size, ndim)
    middle = tuple(n // 2 for n in size)
    step, low = [], []
    for axis in range(ndim):
        inner = np.asarray(views)[
            (slice(None), *(slice(None) if a == axis else m for a, m in enumerate(middle)))
        ][..., axis]
        step.append((inner[:, 2] - inner[:, 1]) * size[axis] / shape[axis])  # share of the axis
        np.testing.assert_allclose(length[:, axis], inner[:, 2] - inner[:, 1], atol=1e-3)
        low.append(inner[:, 0])
    step = np.array(step)
    np.testing.assert_allclose(step, np.broadcast_to(step[0], step.shape), atol=1e-3)
    volume = step.prod(axis=0)
    assert 0.1 <= volume.min() + 1e-3 and volume.max() <= 0.4 + 1e-3 and np.ptp(volume) > 0.2
    assert min(a.min() for a in low) >= 0 and all(np.ptp(a) > 0.3 * n for a, n in zip(low, shape))
    whole, _ = boxes(jnp.asarray(ramp[None]), keys_of(1), (1.0, 1.0), shape)
    np.testing.assert_allclose(whole[0], ramp, atol=1e-4)
