"""Position embeddings: MAE's table in 2D, and the same idea in any number of dimensions."""

import numpy as np
import pytest

from vitmed.models.positions import rotary, sincos


def by_hand(cells, dim):
    """The formula read from the paper, one number at a time: each axis its share, the last axis first."""
    per, rows = dim // len(cells), []
    for place in np.ndindex(*cells):
        row = []
        for coordinate in reversed(place):
            angles = [coordinate / 10000 ** (2 * i / per) for i in range(per // 2)]
            row += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("cells", "dim"), [((14,), 16), ((3, 5), 32), ((2, 3, 4), 24)])
def test_the_table_is_the_formula(cells, dim):
    table = sincos(cells, dim)
    assert table.dtype == np.float32
    assert not table[0].any(), "the class token has no place"
    np.testing.assert_allclose(table[1:], by_hand(cells, dim), atol=1e-6)
    assert np.array_equal(sincos(cells, dim, cls=False), table[1:])


def test_channels_that_cannot_be_shared_out_are_zero():
    table = sincos((2, 3, 4), 128, cls=False)  # 128 = 6 * 21 + 2
    assert not table[:, 126:].any()
    assert len(np.unique(table.round(5), axis=0)) == 24, "two places of the grid look the same"


def test_half_the_scale_is_half_a_step():
    """Two neighbours of half a patch each lie half a step apart, about the middle of the whole one."""
    fine = sincos((6,), 16, cls=False, scale=(0.5,))
    places = np.arange(6) / 2 - 0.25
    np.testing.assert_allclose(np.arctan2(fine[:, 0], fine[:, 8]), places, atol=1e-6)
    table = sincos((3, 4), 24, cls=False)
    assert np.array_equal(sincos((3, 4), 24, cls=False, scale=(1.0, 1.0)), table)
    stretched = sincos((3, 4), 24, cls=False, scale=(2.0, 1.0))
    assert np.array_equal(stretched[:, :12], table[:, :12]), "the last axis comes first"
    assert not np.allclose(stretched[:, 12:], table[:, 12:])


def test_the_middle_of_an_image_turns_as_it_did_in_the_whole():
    """The inner four of eight patches, seen as an image of half the length."""
    whole, middle = rotary((8, 3), 8), rotary((4, 3), 8, scale=(0.5, 1.0))
    np.testing.assert_allclose(middle.reshape(4, 3, 4), whole.reshape(8, 3, 4)[2:6], atol=1e-6)
    assert np.array_equal(rotary((8, 3), 8, scale=(1.0, 1.0)), whole)
