"""Weights resampled to another grid, patch, dimension or number of channels: exact where there is an exact answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.models.adapt import another_patch, inflated, other_channels, resampling, resized
from vitmed.models.patches import patchify


@pytest.mark.parametrize("old,new", [(4, 7), (7, 4), (5, 5), (14, 16), (3, 1), (1, 3), (2, 9)])
def test_constants_means_and_ramps_stay(old, new):
    """Of the means over cells: a constant, the mean over the line, and a linear function read on the other cells."""
    matrix = resampling(old, new)
    np.testing.assert_allclose(matrix @ np.ones(old), 1, atol=1e-12)
    np.testing.assert_allclose(matrix.mean(0), 1 / old, atol=1e-12)
    if old > 1:
        middles = [(np.arange(n) + 0.5) / n for n in (old, new)]
        np.testing.assert_allclose(matrix @ middles[0], middles[1], atol=1e-12)


@pytest.mark.parametrize("times", [2, 3, 5])
def test_whole_factors_are_exact(times):
    """Down: the mean of each block. Up and down again: what it was."""
    down, up = resampling(4 * times, 4), resampling(4, 4 * times)
    np.testing.assert_allclose(down, np.kron(np.eye(4), np.full(times, 1 / times)), atol=1e-12)
    np.testing.assert_allclose(down @ up, np.eye(4), atol=1e-12)
    neighbours = np.diff(up @ np.arange(4.0))
    assert (neighbours > 0).all(), "patches of a finer grid must not share their positions"


@pytest.mark.parametrize("old,new,extent", [(4, 4, 0.5), (6, 4, 0.5), (4, 6, 1.5), (1, 2, 2.0), (5, 3, 0.3)])
def test_part_of_a_line_and_more_than_it(old, new, extent):
    """A ramp is read where the new cells lie, about the middle; beyond its ends it stays as it is there."""
    matrix = resampling(old, new, extent)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    if old > 1:
        fine = np.clip(((np.arange(1000 * new) + 0.5) / (1000 * new) - 0.5) * extent + 0.5, 0, 1)
        read = matrix @ ((np.arange(old) + 0.5) / old)
        np.testing.assert_allclose(read, fine.reshape(new, 1000).mean(1), atol=1e-6)


def test_a_table_on_its_own_grid_is_left_to_the_bit(rng):
    table = rng.normal(size=(3, 4, 5, 8)).astype(np.float32)
    assert np.array_equal(resized(table, (3, 4, 5)), table)
    made = resized(table, (3, 8, 5))
    assert made.dtype == np.float32 and np.array_equal(
        made, np.asarray(resized(jnp.asarray(table), (3, 8, 5)))
    )
    np.testing.assert_allclose(made.mean((0, 1, 2)), table.mean((0, 1, 2)), atol=1e-6)


def test_axes_are_not_mixed_up():
    """A table that varies along one axis alone must vary along that axis alone."""
    table = np.broadcast_to(np.arange(3.0)[:, None, None], (3, 4, 2)).copy()
    made = resized(table, (6, 5))
    np.testing.assert_allclose(made, np.broadcast_to(made[:, :1, :1], (6, 5, 2)), atol=1e-12)
    np.testing.assert_allclose(made[:, 0, 0], np.arange(6) / 2 - 0.25, atol=1e-12)


def embed(image, kernel):
    patch = kernel.shape[: image.ndim - 2]
    return np.asarray(patchify(jnp.asarray(image), patch)) @ kernel.reshape(-1, kernel.shape[-1])


@pytest.mark.parametrize("times", [2, 3])
def test_a_patch_shown_larger_has_the_same_embedding(rng, times):
    kernel = rng.normal(size=(4, 3, 2, 5))
    image = rng.normal(size=(2, 8, 6, 2))
    larger = image.repeat(times, 1).repeat(times, 2)
    np.testing.assert_allclose(
        embed(larger, another_patch(kernel, (4 * times, 3 * times))), embed(image, kernel), atol=1e-5
    )


@pytest.mark.parametrize("patch", [(2, 2, 2), (3, 5, 4), (8, 4, 6)])
def test_constant_and_ramp_patches_keep_their_embedding_at_any_size(rng, patch):
    kernel = rng.normal(size=(4, 4, 4, 1, 5))

    def ramp(size):
        axes = np.meshgrid(*((np.arange(n) + 0.5) / n for n in size), indexing="ij")
        return (1 + axes[0] - 2 * axes[1] + 0.5 * axes[2])[None, ..., None]

    for make in (ramp, lambda size: np.ones((1, *size, 1))):
        np.testing.assert_allclose(
            embed(make(patch), another_patch(kernel, patch)), embed(make((4, 4, 4)), kernel), atol=1e-5
        )
    assert another_patch(kernel, (4, 4, 4)) is kernel


def test_a_volume_that_is_one_slice_repeated_has_its_embedding(rng):
    kernel, image = rng.normal(size=(4, 2, 3, 5)), rng.normal(size=(2, 8, 6, 3))
    volume = np.repeat(image[:, None], 6, axis=1)
    made = embed(volume, inflated(kernel, 3)).reshape(2, 2, 6, 5)
    np.testing.assert_allclose(made, np.repeat(embed(image, kernel)[:, None], 2, 1), atol=1e-5)


@pytest.mark.parametrize("old,new", [(3, 1), (1, 3), (3, 2), (2, 4)])
def test_an_image_alike_in_all_channels_keeps_its_embedding(rng, old, new):
    """Also through the normalisation, which is of each channel's own and is folded in."""
    kernel, bias = rng.normal(size=(4, 4, old, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    mean, std = rng.uniform(0.3, 0.6, old), rng.uniform(0.2, 0.3, old)
    grey = rng.uniform(size=(2, 8, 8, 1))

    def tokens(kernel, bias, mean, std, channels):
        return embed((grey.repeat(channels, -1) - np.asarray(mean)) / np.asarray(std), kernel) + bias

    made = other_channels(kernel, bias, mean, std, new)
    assert made[0].shape == (4, 4, new, 5) and made[0].dtype == np.float32 and len(made[2]) == new
    np.testing.assert_allclose(tokens(*made, new), tokens(kernel, bias, mean, std, old), atol=1e-4)


def test_resampling_is_differentiable():
    """A learned table is resampled in the forward pass of small views, and must learn from them."""
    slopes = jax.grad(lambda table: (resized(table, (3, 5)) ** 2).sum())(jnp.ones((4, 4, 2)))
    assert np.isfinite(slopes).all() and np.abs(slopes).min() > 0
