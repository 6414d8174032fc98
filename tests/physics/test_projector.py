"""Projections of intersections of ellipsoids, and the way back."""

import numpy as np
import pytest

from vitmed.physics import projector
from vitmed.physics.ellipsoids import Ellipsoid, rotation
from vitmed.physics.projector import Views

ONE = Ellipsoid.of((3, -5, 4), (20, 30, 12), rotation(20, 30, 40))
TWO = Ellipsoid.of((6, -9, 4), (30, 14, 22), rotation(-30, 10, 0))


@pytest.mark.parametrize(
    "views",
    [
        Views.along_y(np.linspace(-40, 40, 31), np.linspace(-40, 40, 33)),
        Views.around(np.arange(7) * np.pi / 7, np.linspace(-45, 45, 40), np.linspace(-20, 25, 9)),
    ],
)
def test_line_integrals_against_chords(views):
    """The fast polynomial form, its windows and the intersections must give what single rays give."""
    values = projector.line_integrals([(ONE,), (TWO,), (ONE, TWO)], [1.0, 0.5, -2.0], views)
    origins = views.s[:, None, None] * views.u[:, None, None] + views.t[:, None] * views.w[:, None, None]
    directions = np.broadcast_to(views.d[:, None, None], origins.shape)
    (a, b), (c, d) = ONE.chord(origins, directions), TWO.chord(origins, directions)

    def length(enter, leave):
        return np.where(leave > enter, leave - np.where(np.isfinite(enter), enter, 0), 0)

    both = length(np.maximum(a, c), np.minimum(b, d))
    assert both.max() > 5
    assert np.allclose(values, length(a, b) + 0.5 * length(c, d) - 2 * both, atol=1e-9)


def test_backprojection_of_a_disc_recovers_hounsfield_units():
    """Water must come out as 0 HU, an insert as its own, air as -1000: the scale of all of CT."""
    water = 0.02
    disc, insert = Ellipsoid.of((10, -20), (120, 100)), Ellipsoid.of((30, 10), (25, 25))
    views = Views.around(np.arange(180) * np.pi / 180, projector.detector(160, 3.0, 2))
    integrals = projector.line_integrals([(disc,), (insert,)], [water, 0.3 * water], views)
    sinogram = -np.log(projector.transmission(integrals, (2, 1)))
    image = projector.filtered_backprojection(sinogram, 3.0, (64, 64), (5.0, 5.0))[0]
    hu = projector.to_hounsfield(image, water)
    assert abs(hu[20:30, 20:28].mean()) < 6
    assert abs(hu[36:39, 32:35].mean() - 300) < 15
    assert abs(hu[:4, :4].mean() + 1000) < 15


def test_ramp_filter_has_no_dc_bias():
    """A sampled |f| instead of the band-limited ramp lowers the whole image (Kak & Slaney, figure 3.13)."""
    flat = np.ones((1, 64))
    assert abs(projector.filter_ramp(flat, 1.0)[0, 32]) < 0.01


def test_detector_is_centred():
    """Half an element off would shift every reconstruction."""
    assert np.allclose(projector.detector(4, 2.0), [-3, -1, 1, 3])
    assert np.allclose(projector.detector(2, 2.0, 2).reshape(2, 2).mean(1), projector.detector(2, 2.0))


def test_transmission_averages_photons():
    """Half an element behind lead lets half the photons through, whatever the lead."""
    assert np.isclose(projector.transmission(np.array([[[0.0], [50.0]]]), (2, 1))[0, 0, 0], 0.5)
