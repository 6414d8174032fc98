"""Overlapping windows: what a model says comes out where it was seen, whatever the scan's size."""

import numpy as np
import pytest

from vitmed.models.sliding import blended, starts, weights


def itself(window, seen=None):
    """A model that returns its input, and notes how much it was asked."""

    def function(parts):
        assert parts.shape[1:-1] == window
        if seen is not None:
            seen.append(len(parts))
        return parts

    return function


@pytest.mark.parametrize("size", [(10, 13), (4, 6), (3, 9), (2, 3), (9, 4, 11), (3, 3, 3)])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_model_that_returns_its_input_gives_the_input_to_the_bit(rng, size, batch):
    """A window in the wrong place, a weight that is not made up for, or padding left in would change voxels."""
    window = (4, 6, 5)[: len(size)]
    scans = [rng.normal(size=(*size, 2)).astype(np.float32) for _ in range(3)]
    made = list(blended(scans, itself(window), window, batch))
    assert len(made) == 3
    for ours, scan in zip(made, scans):
        np.testing.assert_array_equal(ours, scan)


def test_windows_cover_the_scan_from_edge_to_edge_and_overlap_by_half():
    assert starts((8,), (8,)) == [(0,)] and starts((5,), (8,)) == [(0,)]
    assert starts((12,), (8,)) == [(0,), (4,)] and starts((13,), (8,)) == [(0,), (2,), (5,)]
    assert len(starts((16, 12, 8), (8, 8, 8))) == 3 * 2 * 1
    for n in range(8, 60):
        begin = [a for (a,) in starts((n,), (8,))]
        assert begin[0] == 0 and begin[-1] == n - 8 and max(np.diff(begin), default=0) <= 4


def test_scans_fill_batches_together():
    """Otherwise a thousand small pictures are a thousand calls, each padded to the full batch."""
    seen = []
    scans = [np.full((4, 4, 1), n, np.float32) for n in range(6)]
    made = list(blended(iter(scans), itself((4, 4), seen), (4, 4), batch=4))
    assert [float(m[0, 0, 0]) for m in made] == list(range(6)) and seen == [4, 4]


def test_small_scans_are_padded_with_their_own_air(rng):
    scan = rng.uniform(5, 9, (2, 3, 1)).astype(np.float32)
    parts = []
    list(blended([scan], lambda x: parts.append(x) or x, (4, 4), batch=1))
    np.testing.assert_array_equal(parts[0][0, 1:3, 0:3], scan)
    assert (np.delete(parts[0][0, :, :, 0].ravel(), [4, 5, 6, 8, 9, 10]) == scan.min()).all()


def test_the_middle_of_a_window_counts_most():
    """Where windows disagree, the one that saw a voxel's surroundings is believed."""
    share = weights((8, 8))
    assert share.min() > 0 and share[4, 4] == share.max() > 50 * share[0, 0]
    calls = iter([1.0, 3.0])
    (made,) = blended([np.zeros((12, 1), np.float32)], lambda x: x + next(calls), (8,), batch=1)
    assert made[0, 0] == 1 and made[-1, 0] == 3 and (np.diff(made[:, 0]) >= 0).all()
    one, other = weights((8,))[[5, 1]]
    assert made[5, 0] == pytest.approx((one * 1 + other * 3) / (one + other), rel=1e-5)
