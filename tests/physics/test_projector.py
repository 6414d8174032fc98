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
        Views.tilted(projector.limited_angles(5, 0.6), np.linspace(-45, 45, 40), np.linspace(-20, 25, 9)),
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


def test_a_short_sweep_finds_the_depth():
    """Tomosynthesis must put each thing into its plane: a sign or an angle wrong, and it is in another."""
    small = [Ellipsoid.of((12, -30, 0), (6, 6, 6)), Ellipsoid.of((-20, 40, 0), (6, 6, 6))]
    arc, pitch = np.radians(35), 2.0
    s = projector.detector(140, pitch)
    views = Views.tilted(projector.limited_angles(61, arc), s, np.zeros(1))
    integrals = projector.line_integrals([(e,) for e in small], [1.0, 1.0], views)
    planes = projector.filtered_backprojection(integrals, pitch, (60, 60), (4.0, 2.0), 0.5, arc, 240.0)[0]
    depth, height = (np.arange(60) - 29.5) * 4, (np.arange(60) - 29.5) * 2
    for e in small:
        along = planes[:, np.abs(height - e.centre[0]).argmin()]
        assert abs(depth[along.argmax()] - e.centre[1]) < 6
        assert along.max() > 2 * along[np.abs(depth - e.centre[1]) > 40].max()


def test_a_short_sweep_keeps_the_mean_over_the_depth():
    """A pure ramp shows edges alone: lungs and heart would be the same grey."""
    slab, arc, pitch = Ellipsoid.of((0, 0, 0), (1e5, 50, 1e5)), np.radians(30), 4.0
    views = Views.tilted(projector.limited_angles(31, arc), projector.detector(600, pitch), np.zeros(1))
    integrals = projector.line_integrals([(slab,)], [0.02], views)

    def middle(depth):
        return projector.filtered_backprojection(integrals, pitch, (10, 10), (10.0, 4.0), 0.0, arc, depth)[
            0, 5, 5
        ]

    assert abs(middle(200.0) / 0.01 - 1) < 0.1  # half of 200 mm is slab
    assert abs(middle(None)) < 0.001


def test_detector_is_centred():
    """Half an element off would shift every reconstruction."""
    assert np.allclose(projector.detector(4, 2.0), [-3, -1, 1, 3])
    assert np.allclose(projector.detector(2, 2.0, 2).reshape(2, 2).mean(1), projector.detector(2, 2.0))


def test_transmission_averages_photons():
    """Half an element behind lead lets half the photons through, whatever the lead."""
    assert np.isclose(projector.transmission(np.array([[[0.0], [50.0]]]), (2, 1))[0, 0, 0], 0.5)
