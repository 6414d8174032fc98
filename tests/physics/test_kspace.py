"""Magnetic resonance from exact Fourier samples."""

import numpy as np
import pytest

from vitmed.physics import kspace
from vitmed.physics.ellipsoids import Ellipsoid, points, rotation

BODY = Ellipsoid.of((3, -5, 4), (30, 24, 33), rotation(20, 30, 40))


def test_spin_echo_equation():
    """Long TR and short TE leave proton density; TE = T2 leaves 1/e."""
    assert np.isclose(kspace.spin_echo(0.8, 500, 80, 1e6, 0), 0.8)
    assert np.isclose(kspace.spin_echo(1, 500, 80, 1e6, 80), np.exp(-1))
    assert kspace.spin_echo(1, 4000, 2000, 4000, 90) > kspace.spin_echo(0.7, 600, 80, 4000, 90)  # fluid on T2


@pytest.mark.parametrize("n", [2, 3])
def test_grid_spectrum_is_the_bodys(n):
    """The separable single-precision form must agree with the exact one at every sample."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) if n == 2 else BODY.rotation
    body = Ellipsoid.of((3, -5, 4)[:n], (30, 24, 33)[:n], turn)
    k = kspace.frequencies((12, 10, 14)[:n], (9.0, 8.0, 7.0)[:n])
    exact = body.fourier(np.stack(np.meshgrid(*k, indexing="ij"), -1))
    assert np.abs(kspace.spectrum([body], [1.0], k) - exact).max() < 1e-5 * body.volume


def test_image_is_the_body_in_place_and_height():
    """Off by half a voxel or by a factor: the commonest faults of a Fourier reconstruction."""
    size, spacing = (32, 28, 30), (3.5, 4.0, 4.0)
    samples = kspace.acquire([BODY], [2.0], size, spacing, coils=1, falloff=0.0)
    image = kspace.reconstruct(samples[0], spacing)
    assert np.abs(image.imag).max() < 0.2  # the unpaired Nyquist sample alone
    where = points(size, spacing)
    deep = BODY.level(where) < 0.6
    assert abs(image.real[deep].mean() - 2) < 0.02
    centre = (image.real[..., None] * where).sum((0, 1, 2)) / image.real.sum()
    assert np.allclose(centre, BODY.centre, atol=0.1)


def test_edges_ring():
    """A truncated k-space overshoots an edge by about 9% (Gibbs); a rasterised phantom would not."""
    disc = Ellipsoid.of((0, 0), (70, 70))
    image = kspace.reconstruct(
        kspace.acquire([disc], [1.0], (64, 64), (3.0, 3.0), 1, 0.0)[0], (3.0, 3.0)
    ).real
    assert 1.05 < image.max() < 1.25 and image.min() < -0.05


def test_coils_multiply_the_image():
    """The shift in k-space must be the sinusoid that the docstring states, louder on the coil's side."""
    size, spacing = (48, 48), (4.0, 4.0)
    disc = Ellipsoid.of((10, -15), (60, 70))
    image = kspace.reconstruct(kspace.acquire([disc], [1.0], size, spacing, 4, 0.6), spacing)
    plain = kspace.reconstruct(kspace.acquire([disc], [1.0], size, spacing, 1, 0.0), spacing)[0]
    where = points(size, spacing)
    deep = disc.level(where) < 0.6
    for coil, angle in enumerate(2 * np.pi * np.arange(4) / 4):
        y, x = where[..., 0] / 192, where[..., 1] / 192
        expected = 1 + 0.6 * (np.sin(angle) * np.sin(np.pi * y) + np.cos(angle) * np.sin(np.pi * x))
        ratio = (image[coil] * np.exp(-1j * angle)).real / plain.real
        assert np.abs(ratio - expected)[deep].max() < 0.06


def test_noise_has_the_stated_level():
    """In air, the root sum of squares over C coils has a mean square of 2 sigma^2."""
    tiny = Ellipsoid.of((0, 0), (1e-3, 1e-3))
    generator = np.random.Generator(np.random.Philox(0))
    image = kspace.scan(
        [tiny], [1.0], (64, 64), (3.0, 3.0), coils=4, falloff=0.5, sigma=0.1, generator=generator
    )
    assert abs(np.sqrt((image**2).mean()) / (np.sqrt(2) * 0.1) - 1) < 0.03
