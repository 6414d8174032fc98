"""Position embeddings: MAE's table in 2D, and the same idea in any number of dimensions."""

import numpy as np
import pytest

from vitmed.models.positions import sincos


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
