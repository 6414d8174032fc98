"""Ultrasound: point scatterers under a point spread, their echoes dimmed by what lies above, log-compressed.

Scatterers lie anywhere, not on a grid; each knows the tissue it is in and how much of every shape its beam
has crossed, both exactly. Speckle is what their echoes do when many fall into one resolution cell: the
envelope is Rayleigh distributed, with a mean of 1.91 standard deviations. Burckhardt, "Speckle in ultrasound
B-mode scans", IEEE Trans. Sonics Ultrason. 25 (1978).

Places are (depth, lateral) under a plane of the probe, or (elevation, depth, lateral) where the probe is
swept across its plane to make a volume, as automated breast scanners do.
"""

import numpy as np

from vitmed.physics.ellipsoids import Ellipsoid


def scatterers(low, high, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """About `count` scatterers in the box low..high (n,) mm: places (S, n), strengths (S,), each +1 or -1.

    One lies anywhere in each cell of a grid, as cells in tissue keep a distance. Scatterers thrown blindly
    would need several times as many until their clumps no longer show in the speckle's statistics.
    """
    low, high = np.asarray(low, float), np.asarray(high, float)
    cell = (np.prod(high - low) / count) ** (1 / len(low))
    grid = np.maximum(np.round((high - low) / cell).astype(int), 1)
    corner = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, len(low))
    places = low + (corner + generator.random(corner.shape)) / grid * (high - low)
    return places, generator.choice((-1.0, 1.0), len(places))


def under(shape: Ellipsoid, places: np.ndarray, margin: float) -> np.ndarray:
    """Which of places (S, n), by number, may lie in `shape`, beside it by `Ellipsoid.distance` of at most
    `margin` mm, or in its shadow: the others need not be asked."""
    # That distance is at least (level - 1) times the shortest half axis, so the shape grown by this holds all.
    grown = shape.reach(np.eye(places.shape[1])) * (1 + margin / shape.axes.min())
    beside = np.abs(places - shape.centre) <= grown
    beside[:, -2] = True
    return np.flatnonzero(beside.all(1))


def path_above(shape: Ellipsoid, places: np.ndarray, surface: float) -> np.ndarray:
    """How much (mm) of the beam straight down from depth `surface` to each of places (S, n) lies in
    `shape`."""
    top, down = places.copy(), np.zeros(places.shape[1])
    top[:, -2], down[-2] = surface, 1.0
    enter, leave = shape.chord(top, np.broadcast_to(down, top.shape))
    depth = places[:, -2] - surface
    return np.maximum(np.minimum(leave, depth) - np.maximum(enter, 0), 0)


def spread(pixels: np.ndarray, positions: np.ndarray, width) -> np.ndarray:
    """How strongly each of pixels (P,) sees each of positions (S,): (P, S), Gaussian, of standard deviation
    `width`."""
    # Single precision: seven digits are 140 dB.
    return np.exp(-0.5 * ((pixels[:, None] - positions) / width).astype(np.float32) ** 2)


def beamform(places, echoes, rows, columns, *, axial: float, lateral, wavelength: float) -> np.ndarray:
    """The complex demodulated image (R, C) of scatterers.

    Takes places (S, 2) (depth, lateral) in mm, echo amplitudes (S,), pixel centres rows (R,) and columns
    (C,); the point spread is a Gaussian of standard deviations `axial` (mm) and `lateral` (mm; a number, or
    (S,) for a beam that widens away from its focus); `wavelength` in mm sets the phase of the two-way path.
    The spread is separable for each scatterer, so the sum over scatterers is one matrix product: nothing is
    binned.
    """

    depth, beam = spread(rows, places[:, 0], axial), spread(columns, places[:, 1], lateral).T
    turn = 4 * np.pi * places[:, 0] / wavelength
    real, imaginary = (depth * (echoes * part).astype(np.float32) for part in (np.cos(turn), np.sin(turn)))
    return real @ beam + 1j * (imaginary @ beam)


def sweep(places, echoes, frames, rows, columns, *, axial, lateral, elevational, wavelength) -> np.ndarray:
    """The complex demodulated volume (F, R, C) of a probe swept across its plane.

    `beamform` with a third, elevational axis: takes places (S, 3), the plane's positions, frames (F,) mm, and
    the standard deviation of the beam across it, `elevational` (mm; a number, or (S,)). A row is the sum over
    the scatterers within four axial standard deviations (-70 dB) of its depth, and again one matrix product.
    """
    order = np.argsort(places[:, 1], kind="stable")
    places, echoes = places[order], echoes[order]
    lateral, elevational = (np.broadcast_to(width, len(order))[order] for width in (lateral, elevational))
    across, beam = spread(frames, places[:, 0], elevational), spread(columns, places[:, 2], lateral).T
    echoes = echoes * np.exp(4j * np.pi * places[:, 1] / wavelength)
    volume = np.empty((len(frames), len(rows), len(columns)), np.complex64)
    for i, row in enumerate(rows):
        near = slice(*np.searchsorted(places[:, 1], (row - 4 * axial, row + 4 * axial)))
        heard = (echoes[near] * spread(np.array([row]), places[near, 1], axial)).astype(np.complex64)
        real, imaginary = across[:, near] * heard.real, across[:, near] * heard.imag
        volume[:, i] = real @ beam[near] + 1j * (imaginary @ beam[near])
    return volume


def log_compress(envelope: np.ndarray, reference: float, dynamic_range: float) -> np.ndarray:
    """Brightness 0..1 of an envelope: `reference` is 1, `dynamic_range` dB below it is 0."""
    decibel = 20 * np.log10(np.maximum(envelope / reference, 1e-9))
    return np.clip(1 + decibel / dynamic_range, 0, 1)
