import numpy as np
import pytest

from vitmed.scans import geometry, intensity
from vitmed.scans.scan import Refused, Scan


def units(scan, modality):
    image, scale, offset, _ = intensity.store(scan, modality)
    return image, image.astype(np.float64) * scale + offset


def test_ct_is_stored_in_hounsfield_units():
    """Otherwise a density is off by whatever the scanner stored."""
    scan = Scan(np.array([[-1024.0, -0.4, 1500.6]])[..., None])
    image, found = units(scan, "ct")
    assert image.dtype == np.int16
    np.testing.assert_array_equal(found[0, :, 0], [-1024, 0, 1501])
    assert intensity.background(scan, "ct") == -1000


def test_mr_is_relative_to_its_foreground(rng):
    """Otherwise volumes whose intensities differ by orders of magnitude look like different tissue."""
    values = np.where(rng.uniform(size=(20, 20, 20)) < 0.5, 0.0, rng.uniform(1, 2, (20, 20, 20)))[..., None]
    values[0, 0, 0] = 6.0
    low, high = np.percentile(values[values > 0], (0.5, 99.5))
    _, found = units(Scan(values), "mr")
    np.testing.assert_allclose(found, (values - low) / (high - low), atol=1 / 4096)
    assert found.max() > 3, "what is brighter than the 99.5th percentile is kept, not cut"
    _, brighter = units(Scan(values * 4321.0), "mr")
    np.testing.assert_allclose(brighter, found, atol=1 / 4096)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("shape", [(7,), (4, 600, 500), (40, 41, 42)])
def test_the_percentiles_are_those_of_what_is_above_the_smallest_value(rng, dtype, shape):
    """Counted or put in order, whole or in parts, seen backwards or not: else equal scans are stored differently."""
    values = np.where(rng.random(shape) < 0.4, -3 if dtype != np.uint8 else 3, rng.normal(90, 20, shape))
    values = values.astype(dtype)
    low, high = np.percentile(values[values > values.min()].astype(np.float64), (0.5, 99.5))
    stored, scale, _, counted = intensity.store(Scan(values[::-1, ..., None]), "mr")
    expected = np.rint((values[::-1] - low) / (high - low) * 4096)
    assert np.abs(stored[..., 0] - expected).max() <= 1, "by rounding"
    assert (stored[..., 0] == expected).mean() > 0.99
    if counted is not None:
        levels, found = counted[0]
        np.testing.assert_array_equal(found, np.bincount((stored - levels[0]).ravel(), minlength=len(levels)))


def test_what_is_padded_in_mr_is_the_air_of_each_channel():
    """Otherwise a grey frame counts as tissue, and the shares of the foreground move with it."""
    two = np.stack([np.arange(4.0, 8), np.arange(-3.0, 1)], -1)[:, None]
    np.testing.assert_array_equal(intensity.background(Scan(two, span=(5.0, 6.0)), "mr"), [4, -3])
    padded, _ = geometry.crop_or_pad(Scan(two), (6, 1), intensity.background(Scan(two), "mr"))
    np.testing.assert_array_equal(padded.array[0, 0], [4, -3])
    assert intensity.background(Scan(two, span=(5.0, 6.0)), "xray") == 5, (
        "there the window says what black is"
    )


def test_eight_bits_are_kept_as_they_are(rng):
    """Otherwise each image is stretched by itself, and brightness between images is lost."""
    array = rng.integers(10, 100, (4, 4, 1)).astype(np.uint8)
    image, found = units(Scan(array, span=(0.0, 255.0)), "ultrasound")
    assert image is array
    np.testing.assert_allclose(found, array / 255, atol=1e-6)


def test_wider_values_use_the_files_window_or_their_own_range():
    """Otherwise a 12-bit radiograph is nearly black on a 16-bit scale."""
    array = np.array([[0.0, 1000, 2000, 4000]])[..., None]
    _, windowed = units(Scan(array, span=(1000.0, 3000.0)), "xray")
    np.testing.assert_allclose(windowed[0, :, 0], [0, 0, 0.5, 1], atol=1e-4)
    image, own = units(Scan(array), "unknown")
    np.testing.assert_allclose(own[0, :, 0], [0, 0.25, 0.5, 1], atol=1e-4)
    assert image.dtype == np.uint16


def test_eight_bits_in_a_wider_set_mean_the_same():
    """Otherwise 8- and 16-bit files of one set have different brightness."""
    array = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(intensity.widen(array) * np.float32(1 / 65535), array / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "modality", "reason"),
    [
        (np.array([[0.0, np.nan]]), "mr", "NaN"),
        (np.array([[0.0, np.inf]]), "unknown", "NaN or infinite"),
        (np.zeros((2, 2), np.uint8), "ct", "8-bit CT"),
    ],
)
def test_impossible_values_are_refused(array, modality, reason):
    """Otherwise NaN spreads through a whole training run, or grey levels pass for Hounsfield units."""
    with pytest.raises(Refused, match=reason):
        intensity.check(Scan(array[..., None]), modality)


@pytest.mark.parametrize("modality", ["mr", "xray"])
def test_a_blank_scan_is_refused(modality):
    """Otherwise its range of zero is divided by."""
    with pytest.raises(Refused, match="blank"):
        intensity.store(Scan(np.full((3, 3, 1), 7.0)), modality)


@pytest.mark.parametrize("modality", ["mr", "xray"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_counting_integers_gives_what_sorting_them_gives(rng, modality, dtype):
    """Otherwise large volumes, which go through a table, are stored otherwise than small ones."""
    values = rng.gamma(2.0, 20.0, (40, 50, 60, 1)).clip(0, 250).astype(dtype)
    values[values < 9] = 0
    span = None if modality == "mr" else (20.0, 200.0)
    *quick, counted = intensity.store(Scan(values, span=span), modality)
    *slow, unknown = intensity.store(Scan(values.astype(np.float64), span=span), modality)
    for a, b in zip(quick, slow, strict=True):
        np.testing.assert_array_equal(a, b)
    assert unknown is None and (counted is not None) == (modality == "mr")
    for c, found in enumerate(counted or ()):
        np.testing.assert_array_equal(found, intensity.counts(quick[0][..., c]))
    levels, counts = intensity.counts(values[..., 0])
    assert counts.sum() == values.size and counts @ levels == values.sum(dtype=np.int64)
    with pytest.raises(Refused, match="blank"):
        intensity.store(Scan(np.full((40, 50, 60, 1), 7, np.int16)), "mr")


@pytest.mark.parametrize("offset", [0, 2e9, 1.7e12, -1e15])
def test_values_far_from_nothing_keep_their_levels(offset):
    """Otherwise a picture of 235 levels on top of a large number is one of 3, or of none."""
    levels = np.arange(235.0).reshape(5, 47, 1) + offset
    stored, scale, shift, _ = intensity.store(Scan(levels), "xray")
    np.testing.assert_allclose(
        stored[..., 0] * scale[0] + shift[0], np.arange(235).reshape(5, 47) / 234, atol=1e-4
    )


def test_values_beyond_float32_are_no_black_picture():
    stored, *_ = intensity.store(Scan(np.arange(20.0).reshape(4, 5, 1) * 1e200), "xray")
    assert len(np.unique(stored)) == 20
