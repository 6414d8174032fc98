"""Ultrasound: point scatterers under a point spread, their echoes dimmed by what lies above, log-compressed.

Scatterers lie anywhere, not on a grid; each knows the tissue it is in and how much of every shape its beam
has crossed, both exactly. Speckle is what their echoes do when many fall into one resolution cell: the
envelope is Rayleigh distributed, with a mean of 1.91 standard deviations. Burckhardt, "Speckle in ultrasound
B-mode scans", IEEE Trans. Sonics Ultrason. 25 (1978).
"""

import numpy as np

from vitmed.physics.ellipsoids import Ellipsoid


def scatterers(low, high, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """About `count` scatterers in the box low..high (2,) mm: places (S, 2), strengths (S,), each +1 or -1.

    One lies anywhere in each cell of a grid, as cells in tissue keep a distance. Scatterers thrown blindly
    would need several times as many until their clumps no longer show in the speckle's statistics.
    """
    low, high = np.asarray(low, float), np.asarray(high, float)
    cell = np.sqrt(np.prod(high - low) / count)
    grid = np.maximum(np.round((high - low) / cell).astype(int), 1)
    corner = np.stack(np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij"), -1).reshape(-1, 2)
    places = low + (corner + generator.random(corner.shape)) / grid * (high - low)
    return places, generator.choice((-1.0, 1.0), len(places))


def path_above(shape: Ellipsoid, places: np.ndarray, surface: float) -> np.ndarray:
    """How much (mm) of the beam straight down from depth `surface` to each of places (S, 2) lies in
    `shape`."""
    top = places.copy()
    top[:, 0] = surface
    enter, leave = shape.chord(top, np.broadcast_to(np.array([1.0, 0.0]), top.shape))
    depth = places[:, 0] - surface
    return np.maximum(np.minimum(leave, depth) - np.maximum(enter, 0), 0)


def beamform(places, echoes, rows, columns, *, axial: float, lateral, wavelength: float) -> np.ndarray:
    """The complex demodulated image (R, C) of scatterers.

    Takes places (S, 2) (depth, lateral) in mm, echo amplitudes (S,), pixel centres rows (R,) and columns
    (C,); the point spread is a Gaussian of standard deviations `axial` (mm) and `lateral` (mm; a number, or
    (S,) for a beam that widens away from its focus); `wavelength` in mm sets the phase of the two-way path.
    The spread is separable for each scatterer, so the sum over scatterers is one matrix product: nothing is
    binned.
    """

    def spread(pixels, positions, width):  # single precision: seven digits are 140 dB
        return np.exp(-0.5 * ((pixels[:, None] - positions) / width).astype(np.float32) ** 2)

    depth, beam = spread(rows, places[:, 0], axial), spread(columns, places[:, 1], lateral).T
    turn = 4 * np.pi * places[:, 0] / wavelength
    real, imaginary = (depth * (echoes * part).astype(np.float32) for part in (np.cos(turn), np.sin(turn)))
    return real @ beam + 1j * (imaginary @ beam)


def log_compress(envelope: np.ndarray, reference: float, dynamic_range: float) -> np.ndarray:
    """Brightness 0..1 of an envelope: `reference` is 1, `dynamic_range` dB below it is 0."""
    decibel = 20 * np.log10(np.maximum(envelope / reference, 1e-9))
    return np.clip(1 + decibel / dynamic_range, 0, 1)
