import itertools

import numpy as np
import pytest

from vitmed.scans import geometry
from vitmed.scans.geometry import canonical, fit, resample
from vitmed.scans.scan import Refused, Scan


def place(affine, index):
    return (affine @ np.append(index, 1.0))[:3]


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_canonical_moves_no_voxel(rng, axes, signs):
    """Otherwise left and right are swapped: every voxel must stay where it is in the patient."""
    volume = rng.integers(0, 10**6, (3, 4, 5))
    affine = np.eye(4)
    affine[:3, :3] = 0.1 * rng.standard_normal((3, 3))  # oblique, but not by much
    for i, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, i] += sign * (2 + i)
    affine[:3, 3] = (7, -5, 3)
    turned, to_lps = canonical(volume, affine)
    where = {int(volume[i]): place(affine, i) for i in np.ndindex(volume.shape)}
    for index in np.ndindex(turned.shape):
        np.testing.assert_allclose(place(to_lps, index), where[int(turned[index])], atol=1e-9)
    direction = to_lps[:3, :3]
    assert (np.abs(direction).argmax(0) == [2, 1, 0]).all()  # array axes: z, y, x
    assert (direction[[2, 1, 0], [0, 1, 2]] > 0).all()  # towards Superior, Posterior, Left


def test_canonical_refuses_a_singular_matrix():
    """Otherwise an orientation is invented."""
    with pytest.raises(Refused, match="orientation unknown"):
        canonical(np.zeros((2, 2, 2)), np.diag([1.0, 0, 1, 1]))


def ramp(shape, affine, direction):
    """A scan whose value at a place is ``direction`` times that place (linear, so interpolation is exact)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    values = (index @ affine[:3, :3].T + affine[:3, 3]) @ direction
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    return Scan(values[..., None].astype(np.float32), spacing=spacing, affine=affine)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 2.0)])
def test_resampling_keeps_values_at_their_places(rng, spacing):
    """Otherwise a resampled scan lies half a voxel beside its affine, or at another scale."""
    affine = np.array([[0, 0, 0.8, 5], [0, 1.5, 0, -3], [2.0, 0, 0, 1], [0, 0, 0, 1]])
    direction = np.array([1.0, -2, 0.5])
    scan = ramp((21, 22, 23), affine, direction)
    out, _ = fit(scan, spacing, None, 0.0)
    np.testing.assert_allclose(out.spacing, spacing)
    np.testing.assert_allclose(np.linalg.norm(out.affine[:3, :3], axis=0), spacing)
    wanted = ramp(out.size, out.affine, direction).array
    middle = tuple(slice(n // 4, -(n // 4)) for n in out.size)
    np.testing.assert_allclose(
        out.array[middle], wanted[middle], atol=0.1
    )  # a fraction of what a voxel makes
    extent = np.multiply(out.size, spacing)
    assert (np.abs(extent - np.multiply(scan.size, scan.spacing)) <= np.asarray(spacing) / 2 + 1e-9).all()


def test_shrinking_averages(rng):
    """Otherwise noise and fine structure alias into the small image."""
    scan = Scan(rng.standard_normal((64, 64, 1)).astype(np.float32))
    small, _ = resample(scan, (8, 8), (8.0, 8.0))
    assert small.array.std() < 0.25
    flat, _ = resample(Scan(np.full((9, 9, 1), 7, np.uint8)), (4, 4), (2.25, 2.25))
    assert flat.array.dtype == np.uint8 and (flat.array == 7).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_planes_and_taps_add_up_to_the_same_bits(rng, monkeypatch, dtype, channels):
    """Otherwise how large a scan is, which decides between them, decides on its values too."""
    volume = Scan((200 * rng.random((23, 19, 17, channels)) - 20 * (dtype != np.uint8)).astype(dtype))
    made = []
    for small in (0, 10**9):
        monkeypatch.setattr(geometry, "_SMALL", small)
        made.append(resample(volume, (9, 25, 7), (2.6, 0.75, 2.4))[0].array)
    assert made[0].flags.c_contiguous and np.array_equal(made[0], made[1]) and made[0].any()


def test_images_keep_their_aspect():
    """Otherwise a heart looks large because the image was wide."""
    scan = Scan(np.full((20, 40, 1), 9, np.uint8), spacing=(1.0, 1.0))
    out, _ = fit(scan, None, (16, 16), 3.0)
    assert out.size == (16, 16)
    assert (out.array[4:12] == 9).all() and (out.array[:4] == 3).all() and (out.array[12:] == 3).all()
    np.testing.assert_allclose(out.spacing, (2.5, 2.5))


def test_volumes_are_cut_around_the_foreground_and_padded():
    """Otherwise the organ is cut off though it lies off centre, or the affine is left behind."""
    volume = np.zeros((30, 10, 6, 1), np.int16)
    volume[20:24, 4:6, 1:3] = 100
    out, _ = fit(Scan(volume, affine=np.eye(4)), None, (8, 10, 9), -5.0)
    assert out.size == (8, 10, 9)
    assert out.array.max() == 100 and (out.array == 100).sum() == 16
    assert (out.array == -5).sum() == 8 * 10 * 3
    bright = np.argwhere(out.array[..., 0] == 100)[0]
    np.testing.assert_allclose(place(out.affine, bright), (20, 4, 1))


@pytest.mark.parametrize(
    ("dtype", "fill"), [(np.uint8, -1.0), (np.uint8, -0.5), (np.uint16, -1000.0), (np.int16, -40000.0)]
)
def test_padding_is_what_was_asked_for_whatever_type_the_scan_is_of(dtype, fill):
    """Cast to the scan's type, air would wrap around to the brightest there is, and black to white."""
    scan = Scan(np.full((4, 6, 1), 9, dtype))
    padded, _ = fit(scan, None, (6, 6), fill)
    assert (padded.array[[0, -1]] == fill).all() and (padded.array[1:-1] == 9).all()
    kept, _ = fit(scan, None, (6, 6), 3.0)
    assert kept.array.dtype == dtype and (kept.array[0] == 3).all(), "what fits stays as it was"


def test_a_mask_goes_with_its_scan():
    """Otherwise a mask marks another place than the finding, or has values between its labels."""
    volume = np.zeros((24, 24, 24, 1), np.float32)
    volume[6:14, 8:18, 9:17] = 50
    mask = (volume[..., 0] > 0).astype(np.uint8) * 3
    out, moved = fit(Scan(volume, spacing=(1.0, 1.0, 1.0)), (2.0, 2.0, 2.0), (10, 10, 10), 0.0, mask)
    assert moved.shape == out.size and set(np.unique(moved)) == {0, 3}
    agree = (out.array[..., 0] > 25) == (moved == 3)
    assert agree.mean() > 0.97


@pytest.mark.parametrize(
    ("spacing", "size", "reason"),
    [
        ((1, 1, 1), None, "2D, but --spacing has 3"),
        (None, (4, 4, 4), "2D, but --size"),
        ((1, 1), None, "no voxel spacing"),
    ],
)
def test_what_does_not_fit_is_refused(spacing, size, reason):
    """Otherwise a spacing is invented, or an image is taken for a volume."""
    with pytest.raises(Refused, match=reason):
        fit(Scan(np.zeros((4, 4, 1), np.uint8)), spacing, size, 0.0)


def test_axes_that_all_but_coincide_are_refused():
    """Otherwise a header of huge numbers ends an ingest: they pass for a regular matrix, and two axes for one."""
    affine = np.array([[0, 0.01, 41, 0], [7e8, 3e12, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(Refused, match="orientation unknown"):
        canonical(np.zeros((4, 5, 6)), affine)


@pytest.mark.parametrize(
    ("size", "have", "want"),
    [((64, 64, 64), (900.0, 900, 900), (1.0, 1, 1)), ((4, 2000, 2000), (900.0, 1, 1), (0.001, 100, 100))],
    ids=["the result", "on the way to it"],
)
def test_a_spacing_that_makes_too_many_voxels_is_refused(size, have, want):
    """Otherwise --spacing and a header whose unit is wrong ask for terabytes, and end an ingest."""
    scan = Scan(np.zeros((*size, 1), np.uint8), spacing=have)
    with pytest.raises(Refused, match="too large"):
        fit(scan, want, None, 0.0)


@pytest.mark.parametrize("offset", [0.0, 1.7e9, -1e12])
def test_resampling_keeps_values_that_lie_far_from_nothing(offset):
    """Otherwise a scan of 500 levels on top of a large number has three of them after it is brought to a size."""
    ramp = np.add.outer(np.arange(20.0), 25 * np.arange(20.0))[..., None]
    small, far = (resample(Scan(ramp + shift), (10, 10), (2.0, 2.0))[0].array for shift in (0.0, offset))
    np.testing.assert_allclose(far.astype(np.float64) - offset, small, atol=1e-2)
    assert small.dtype == np.float32
