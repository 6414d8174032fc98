"""Ultrasound speckle, shadows and compression."""

import numpy as np

from vitmed.physics import speckle
from vitmed.physics.ellipsoids import Ellipsoid, centres


def test_speckle_is_rayleigh():
    """Fully developed speckle has a mean of 1.91 standard deviations; fewer scatterers or a bug give less."""
    generator = np.random.Generator(np.random.Philox(1))
    places, strengths = speckle.scatterers((-25, -25), (25, 25), 6000, generator)
    rows, columns = centres((64, 64), (0.7, 0.7))
    image = speckle.beamform(places, strengths, rows, columns, axial=0.45, lateral=0.75, wavelength=0.22)
    envelope = np.abs(image)
    assert abs(envelope.mean() / envelope.std() - 1.91) < 0.15


def test_single_scatterer_shows_the_point_spread():
    """One scatterer is seen where it is, as wide as stated."""
    rows, columns = centres((81, 81), (0.1, 0.1))
    place = np.array([[1.0, -2.0]])
    image = np.abs(speckle.beamform(place, np.ones(1), rows, columns, axial=0.5, lateral=0.8, wavelength=0.2))
    assert np.unravel_index(image.argmax(), image.shape) == (50, 20)
    assert np.isclose(image[55, 20] / image[50, 20], np.exp(-0.5), atol=1e-3)
    assert np.isclose(image[50, 28] / image[50, 20], np.exp(-0.5), atol=1e-3)


def test_path_above_counts_only_what_the_beam_has_crossed():
    """A shadow starts in the shape, and lies below it, not beside or above it."""
    disc = Ellipsoid.of((0, 0), (5, 5))
    places = np.array([[-10.0, 0], [0.0, 0], [10.0, 0], [10.0, 6]])
    assert np.allclose(speckle.path_above(disc, places, -20), [0, 5, 10, 0])
    assert np.allclose(speckle.path_above(disc, places[1:2], -3), [3])  # a probe that presses into the shape


def test_log_compression():
    """Half the dynamic range down is mid-grey; below it, black; above the reference, white."""
    got = speckle.log_compress(np.array([10.0, 1.0, 10 ** (-0.5), 1e-9, 0.0]), 1.0, 20.0)
    assert np.allclose(got, [1, 1, 0.5, 0, 0])
