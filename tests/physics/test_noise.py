"""Noise must have the statistics of its source."""

import numpy as np

from vitmed.physics import noise


def generator(key=0):
    return np.random.Generator(np.random.Philox(key))


def test_photon_counts_are_poisson():
    """The variance of a measured line integral is one over the photons counted, and its mean is right."""
    for integral, dose in ((2.0, 1e5), (4.0, 1e5)):
        measured = noise.photons(np.full(40000, np.exp(-integral)), dose, generator())
        expected = 1 / (dose * np.exp(-integral))
        assert abs(measured.var() / expected - 1) < 0.04
        assert abs(measured.mean() - integral) < 4 * np.sqrt(expected / 40000) + expected


def test_no_photon_is_not_infinity():
    """Behind metal nothing may be counted: the image must stay finite."""
    assert np.isfinite(noise.photons(np.zeros(10), 1e4, generator())).all()


def test_scatter_keeps_its_ratio():
    """Scatter adds the stated part of the primary."""
    primary = np.full((1, 32, 32), 0.1)
    assert np.allclose(noise.scattered(primary, 0.3, 4), 0.03)


def test_same_key_same_noise():
    """Noise that came from global state would break the counter-based promise."""
    draw = [noise.complex_gaussian((5, 5), 2.0, generator(7)) for _ in range(2)]
    assert np.array_equal(*draw)
    many = noise.complex_gaussian((200, 200), 2.0, generator())
    assert abs(many.real.std() - 2) < 0.05 and abs(many.imag.std() - 2) < 0.05
