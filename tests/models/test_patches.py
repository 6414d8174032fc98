"""Patches: cutting and gluing are exact inverses in 1D, 2D and 3D, in MAE's order."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitmed.errors import InputError
from vitmed.models.patches import grid, patchify, unpatchify

shapes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(axes=shapes, channels=st.integers(1, 4), batch=st.integers(1, 3))
def test_unpatchify_inverts_patchify(axes, channels, batch):
    cells, patch = tuple(g for g, _ in axes), tuple(p for _, p in axes)
    size = tuple(g * p for g, p in axes)
    image = np.arange(batch * np.prod(size) * channels, dtype=np.float32).reshape(batch, *size, channels)
    tokens = patchify(image, patch)
    assert tokens.shape == (batch, np.prod(cells), np.prod(patch) * channels)
    assert np.array_equal(unpatchify(tokens, cells, patch, channels), image), (
        "a pixel came back at another place"
    )


def test_a_token_is_one_block_of_the_image_in_row_major_order(rng):
    image = rng.normal(size=(1, 4, 6, 10, 2)).astype(np.float32)
    tokens = patchify(jnp.asarray(image), (2, 3, 5))
    n = 0
    for z in range(2):
        for y in range(2):
            for x in range(2):
                block = image[0, 2 * z : 2 * z + 2, 3 * y : 3 * y + 3, 5 * x : 5 * x + 5]
                assert np.array_equal(tokens[0, n], block.reshape(-1)), (
                    f"token {n} is not the block at {z, y, x}"
                )
                n += 1


def test_the_order_is_that_of_mae(rng):
    """MAE's own formula for square colour images, as weights trained with it expect."""
    image = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    theirs = np.einsum("nchpwq->nhwpqc", image.reshape(2, 3, 2, 4, 2, 4)).reshape(2, 4, 48)
    assert np.array_equal(patchify(image.transpose(0, 2, 3, 1), (4, 4)), theirs)


@pytest.mark.parametrize(
    ("size", "patch", "says"),
    [
        ((28, 28), (16, 16), "the nearest one that does is (14, 14)"),
        ((30, 28), (7, 7), "the nearest one that does is (6, 7)"),
        ((28, 28), (4, 4, 4), "has 3 axes but the scans have 2"),
        ((28, 28), (0, 4), "the nearest one that does is (1, 4)"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_with_the_nearest(size, patch, says):
    with pytest.raises(InputError, match="patch_size") as refused:
        grid(size, patch)
    assert says in str(refused.value)
