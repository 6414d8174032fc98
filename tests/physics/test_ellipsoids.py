"""One ellipsoid in space, along rays and in frequency: three descriptions that must be of the same body."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitmed.physics.ellipsoids import Ellipsoid, ball_transform, points, rotation


def tilted() -> Ellipsoid:
    return Ellipsoid.of((3, -5, 4), (20, 30, 12), rotation(20, 30, 40))


def test_rotation_is_a_rotation():
    """A reflection or a shear would mirror or swell every rotated organ."""
    r = rotation(20, 30, 40)
    assert np.allclose(r @ r.T, np.eye(3)) and np.isclose(np.linalg.det(r), 1)


def test_volume_of_disc_and_ball():
    """A wrong normalisation would scale all intensities in MR."""
    assert np.isclose(Ellipsoid.of((1, 2), (2, 3)).volume, np.pi * 6)
    assert np.isclose(Ellipsoid.of((1, 2, 3), (2, 3, 4)).volume, 4 / 3 * np.pi * 24)


def test_chord_against_quadrature():
    """A chord is the measure of the ray's points inside: wrong roots would bend every projection."""
    e, generator = tilted(), np.random.default_rng(0)
    t = np.arange(-100, 100, 0.01)
    for _ in range(20):
        origin = generator.normal(0, 10, 3)
        direction = generator.normal(size=3)
        direction /= np.linalg.norm(direction)
        enter, leave = e.chord(origin, direction)
        inside = (e.level(origin + t[:, None] * direction) < 1).sum() * 0.01
        assert abs(max(leave - enter, 0) - inside) < 0.03


def test_missed_ray_has_an_empty_interval():
    """Entry after exit is how an intersection knows that it is empty."""
    enter, leave = tilted().chord(np.array([500.0, 0, 0]), np.array([0.0, 1, 0]))
    assert enter == np.inf and leave == -np.inf


@pytest.mark.parametrize("n", [2, 3])
def test_fourier_against_fft_of_a_fine_raster(n):
    """At low frequencies a fine anti-aliased raster has the same transform."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) if n == 2 else rotation(20, 30, 40)
    e = Ellipsoid.of((3, -5, 4)[:n], (20, 30, 12)[:n], turn)
    count, d = (256, 0.4) if n == 2 else (96, 1.0)
    grid = points((count,) * n, (d,) * n)
    raster = e.coverage(grid, d)
    for k in ([0.0, 0.01, 0.02], [0.015, 0.0, -0.01], [-0.02, 0.02, 0.01]):
        direct = (raster * np.exp(-2j * np.pi * grid @ np.array(k[:n]))).sum() * d**n
        assert abs(direct - e.fourier(np.array(k[:n]))) < 3e-3 * e.volume


def test_fourier_is_hermitian():
    """A real body has F(-k) = conj F(k)."""
    k = np.random.default_rng(1).normal(0, 0.05, (50, 3))
    assert np.allclose(tilted().fourier(-k), tilted().fourier(k).conj())


@given(st.integers(2, 5))
@settings(max_examples=4, deadline=None)
def test_ball_transform_is_smooth_where_series_meets_form(n):
    """A step at the joint would ring through the whole image."""
    joint = 0.3 / (2 * np.pi)
    below, above = ball_transform(np.array([joint * (1 - 1e-9), joint * (1 + 1e-9)]), n)
    assert np.isclose(below, above, rtol=1e-7)


def test_projection_slice_theorem():
    """The 1D transform of a parallel projection is the 2D transform along its line: ties rays to
    frequencies."""
    e = Ellipsoid.of((6, -9), (30, 18), np.array([[0.8, -0.6], [0.6, 0.8]]))
    angle = 0.7
    u, d = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    s = np.arange(-80, 80, 0.02)
    enter, leave = e.chord(s[:, None] * u, np.broadcast_to(d, (len(s), 2)))
    profile = np.where(leave > enter, leave - np.where(np.isfinite(enter), enter, 0), 0)
    for k in (0.0, 0.01, 0.033, 0.08):
        projected = (profile * np.exp(-2j * np.pi * k * s)).sum() * 0.02
        assert abs(projected - e.fourier(k * u)) < 1e-3 * e.volume


def test_section_is_the_cut():
    """A 2D slice must be of the same body as the volume."""
    e, flat = tilted(), np.random.default_rng(0).normal(0, 15, (2000, 2))
    whole = np.concatenate([np.full((2000, 1), 7.0), flat], 1)
    assert np.array_equal(e.section(7.0).level(flat) < 1, e.level(whole) < 1)
    assert e.section(60.0) is None


def test_moved_carries_its_points():
    """Posing a patient must move lesion and lung alike."""
    e, r, shift = tilted(), rotation(5, -8, 3), np.array([1.0, 2, 3])
    x = np.random.default_rng(0).normal(0, 15, (500, 3))
    assert np.allclose(e.level(x), e.moved(r, shift).level(x @ r.T + shift))


def test_coverage_sums_to_the_volume():
    """Anti-aliasing that is biased would make small bodies too big."""
    total = tilted().coverage(points((80,) * 3, (1.0,) * 3), 1.0).sum()
    assert abs(total / tilted().volume - 1) < 0.01
