"""Ultrasound speckle, shadows and compression."""

import numpy as np
import pytest

from vitmed.physics import speckle
from vitmed.physics.ellipsoids import Ellipsoid, centres, rotation


def test_speckle_is_rayleigh():
    """Fully developed speckle has a mean of 1.91 standard deviations; fewer scatterers or a bug give less."""
    generator = np.random.Generator(np.random.Philox(1))
    places, strengths = speckle.scatterers((-25, -25), (25, 25), 6000, generator)
    rows, columns = centres((64, 64), (0.7, 0.7))
    image = speckle.beamform(places, strengths, rows, columns, axial=0.45, lateral=0.75, wavelength=0.22)
    envelope = np.abs(image)
    assert abs(envelope.mean() / envelope.std() - 1.91) < 0.15


def test_speckle_of_a_sweep_is_rayleigh():
    """A volume needs as many scatterers to a resolution cell as a picture does."""
    places, strengths = speckle.scatterers(
        (-12, -12, -12),
        (12, 12, 12),
        round(70000 * 24**3 / (56 * 51 * 54)),
        np.random.Generator(np.random.Philox(1)),
    )
    frames, rows, columns = centres((14, 40, 20), (1.2, 0.4, 0.8))
    beam = {"axial": 0.45, "lateral": 0.75, "elevational": 1.2, "wavelength": 0.22}
    envelope = np.abs(speckle.sweep(places, strengths, frames, rows, columns, **beam))
    assert abs(envelope.mean() / envelope.std() - 1.91) < 0.1


def test_a_sweep_without_elevation_is_the_picture():
    """A beam that is endlessly wide across its plane hears all scatterers alike: the volume's frames must
    then be the 2D picture, so that both modalities are one physics."""
    generator = np.random.Generator(np.random.Philox(2))
    places, strengths = speckle.scatterers((-3, -8, -8), (3, 8, 8), 900, generator)
    frames, rows, columns = centres((2, 24, 20), (2.0, 0.5, 0.6))
    beam = {"axial": 0.5, "lateral": 0.8 + 0.02 * np.abs(places[:, 1]), "wavelength": 0.25}
    volume = speckle.sweep(places, strengths, frames, rows, columns, elevational=1e6, **beam)
    beam["lateral"] = 0.8 + 0.02 * np.abs(places[:, 1])
    picture = speckle.beamform(places[:, 1:], strengths, rows, columns, **beam)
    assert np.abs(volume - picture).max() < 3e-3 * np.abs(picture).max()


def test_single_scatterer_in_a_sweep_shows_the_point_spread():
    """Seen where it is, as wide as stated along each of the three axes."""
    frames, rows, columns = centres((81, 81, 81), (0.1, 0.1, 0.1))
    beam = {"axial": 0.5, "lateral": 0.8, "elevational": 1.0, "wavelength": 0.2}
    image = np.abs(speckle.sweep(np.array([[2.0, 1.0, -2.0]]), np.ones(1), frames, rows, columns, **beam))
    assert np.unravel_index(image.argmax(), image.shape) == (60, 50, 20)
    for beside in ((70, 50, 20), (60, 55, 20), (60, 50, 28)):
        assert np.isclose(image[beside] / image[60, 50, 20], np.exp(-0.5), atol=1e-3)


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


def test_path_above_runs_along_depth_in_a_volume():
    """A shadow falls away from the probe, not across the sweep."""
    ball = Ellipsoid.of((0, 0, 0), (5, 5, 5))
    places = np.array([[0.0, -10, 0], [0, 0, 0], [0, 10, 0], [10, 0, 0], [6, 10, 0]])
    assert np.allclose(speckle.path_above(ball, places, -20), [0, 5, 10, 0, 0])


@pytest.mark.parametrize("n", [2, 3])
def test_nothing_is_missed_by_looking_under_the_shape(n):
    """Whoever is left out must be neither inside, nor at the surface, nor in the shadow."""
    turn = rotation(30, 50, 20) if n == 3 else np.array([[0.8, -0.6], [0.6, 0.8]])
    shape = Ellipsoid.of((1, 2, 3)[:n], (6, 0.5, 3)[:n], turn)
    places = np.random.default_rng(0).uniform(-12, 12, (20000, n))
    out = np.setdiff1d(np.arange(20000), speckle.under(shape, places, 0.15))
    assert 2000 < len(out) < 19000
    assert (np.abs(shape.distance(places[out])) >= 0.15).all() and (shape.level(places[out]) > 1).all()
    assert (speckle.path_above(shape, places[out], -12) == 0).all()


def test_log_compression():
    """Half the dynamic range down is mid-grey; below it, black; above the reference, white."""
    got = speckle.log_compress(np.array([10.0, 1.0, 10 ** (-0.5), 1e-9, 0.0]), 1.0, 20.0)
    assert np.allclose(got, [1, 1, 0.5, 0, 0])
