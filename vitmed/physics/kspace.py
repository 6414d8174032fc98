"""Magnetic resonance: the signal equation, samples of k-space from analytic shapes, coils, reconstruction.

The scanner samples the Fourier transform of (magnetisation x coil sensitivity). The first is a sum of
ellipsoids; the second is made of sinusoids with a period of twice the field of view, whose product with a
shape is a shift in k-space. So every sample is exact, and the ringing at edges (Gibbs) is what a real
truncated acquisition has. Guerquin-Kern et al., "Realistic analytical phantoms for parallel MRI", IEEE TMI 31
(2012).
"""

import numpy as np

from vitmed.physics.ellipsoids import Ellipsoid, ball_transform
from vitmed.physics.noise import complex_gaussian


def spin_echo(density, t1, t2, repetition: float, echo: float):
    """The spin-echo signal PD (1 - exp(-TR/T1)) exp(-TE/T2); times in ms (TE much shorter than TR)."""
    return density * (1 - np.exp(-repetition / t1)) * np.exp(-echo / t2)


def spectrum(shapes: list[Ellipsoid], values, k: list[np.ndarray], dtype=np.float32) -> np.ndarray:
    """The Fourier transform of sum_i values[i] * indicator(shapes[i]) on the grid spanned by k.

    Takes k, one array of frequencies (cycles/mm) an axis; gives (len(k[0]), len(k[1]), ...), complex. The
    grid lets the phase factor into axes and the radius into squares, which `Ellipsoid.fourier` cannot use.
    """
    n = len(k)
    along = [axis.astype(dtype).reshape((-1,) + (1,) * (n - 1 - i)) for i, axis in enumerate(k)]
    total = np.zeros([len(axis) for axis in k], np.result_type(dtype, np.complex64))
    for shape, value in zip(shapes, values, strict=True):
        if value == 0:
            continue
        form = ((shape.rotation * shape.axes**2) @ shape.rotation.T).astype(dtype)
        square = np.zeros((1,) * n, dtype)
        for i in range(n):
            square = square + form[i, i] * along[i] ** 2
            for j in range(i):
                if abs(form[i, j]) > 1e-9:
                    square = square + 2 * form[i, j] * along[i] * along[j]
        term = ball_transform(np.sqrt(np.maximum(square, 0)), n) * dtype(value * np.prod(shape.axes))
        phase = 1
        for i in range(n):
            turn = np.exp(-2j * np.pi * k[i] * shape.centre[i]).astype(total.dtype)
            phase = phase * turn.reshape(along[i].shape)
        total += term * phase
    return total


def frequencies(size, spacing) -> list[np.ndarray]:
    """The sampled frequencies (cycles/mm), ascending, along each axis."""
    return [np.fft.fftshift(np.fft.fftfreq(n, d)) for n, d in zip(size, spacing, strict=True)]


def acquire(shapes, values, size, spacing, coils: int, falloff: float, gains=None) -> np.ndarray:
    """The noiseless k-space (coils, *size) of a body centred on the origin.

    Coils sit evenly around the last two axes. Coil c, at angle a, hears
    gain_c (1 + falloff (sin(a) sin(pi y / FOV_y) + cos(a) sin(pi x / FOV_x))), one phase each: half a period
    across the field of view, so that it is loudest on its own side.
    """
    k = frequencies(size, spacing)
    plain = spectrum(shapes, values, k)
    sided = []
    for axis in (len(size) - 2, len(size) - 1):
        step = k[axis][1] - k[axis][0]
        between = np.append(k[axis] - step / 2, k[axis][-1] + step / 2)
        half = spectrum(shapes, values, [between if i == axis else f for i, f in enumerate(k)])
        low = np.take(half, np.arange(size[axis]), axis)
        high = np.take(half, np.arange(1, size[axis] + 1), axis)
        sided.append((low - high) / 2j)
    angles = 2 * np.pi * np.arange(coils) / coils
    gains = np.ones(coils) if gains is None else gains
    return np.stack(
        [
            gain * np.exp(1j * a) * (plain + falloff * (np.sin(a) * sided[0] + np.cos(a) * sided[1]))
            for a, gain in zip(angles, gains, strict=True)
        ]
    )


def reconstruct(samples: np.ndarray, spacing) -> np.ndarray:
    """The complex image (..., *size) of k-space samples (..., *size) with ascending frequencies.

    Cell centres lie symmetrically about the origin, as in `ellipsoids.centres`.
    """
    n = len(spacing)
    size, axes = samples.shape[-n:], tuple(range(-n, 0))
    for i, (count, d) in enumerate(zip(size, spacing, strict=True)):
        k = np.fft.fftshift(np.fft.fftfreq(count, d))
        shift = np.exp(-2j * np.pi * k * (count - 1) / 2 * d)
        samples = samples * shift.reshape((-1,) + (1,) * (n - 1 - i))
    return np.fft.ifftn(np.fft.ifftshift(samples, axes), axes=axes) / np.prod(spacing)


def scan(shapes, values, size, spacing, *, coils, falloff, sigma, generator, gains=None) -> np.ndarray:
    """The magnitude image (*size) of an acquisition: coils, thermal noise in k-space, root sum of squares.

    `sigma` is the noise (each of real and imaginary part) that one coil's image gets, in units of `values`.
    """
    samples = acquire(shapes, values, size, spacing, coils, falloff, gains)
    level = sigma * np.prod(spacing) * np.sqrt(np.prod(size))
    samples = samples + complex_gaussian(samples.shape, level, generator)
    return np.sqrt((np.abs(reconstruct(samples, spacing)) ** 2).sum(0) / coils)
