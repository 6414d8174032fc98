"""An ellipsoid in any dimension, known exactly in three domains: space, rays and frequency.

A phantom that is drawn on a grid first and measured afterwards carries the grid's errors into the
measurement (the "inverse crime"): a reconstruction on the same grid then looks better than it is. An
ellipsoid needs no grid. It is the unit ball under x = c + R diag(a) u, so a line meets it in a chord that is
the root of a quadratic, and its Fourier transform is the ball's, stretched and shifted.

Lengths are mm, vectors in array order. Koay, Sarlls & Ozarslan, "Three-dimensional analytical magnetic
resonance imaging phantom in the Fourier domain", MRM 58 (2007), gives the transform in 3D.
"""

import dataclasses

import numpy as np
from scipy.special import gamma, jv


@dataclasses.dataclass(frozen=True, eq=False)
class Ellipsoid:
    """The set of points c + R diag(a) u with |u| <= 1.

    Fields: centre (n,) mm; axes (n,) half-lengths, mm; rotation (n, n), whose columns are the principal axes.
    """

    centre: np.ndarray
    axes: np.ndarray
    rotation: np.ndarray

    @classmethod
    def of(cls, centre, axes, rotation=None) -> "Ellipsoid":
        """An ellipsoid from plain sequences; not rotated where `rotation` is left out."""
        centre = np.asarray(centre, float)
        return cls(centre, np.asarray(axes, float), np.eye(len(centre)) if rotation is None else rotation)

    @property
    def to_ball(self) -> np.ndarray:
        """The matrix (n, n) that takes x - c to the unit ball."""
        return self.rotation.T / self.axes[:, None]

    @property
    def volume(self) -> float:
        return float(ball_transform(np.zeros(()), len(self.axes)) * np.prod(self.axes))

    def level(self, points: np.ndarray) -> np.ndarray:
        """|u| of points (..., n): below 1 inside, 1 on the surface, above 1 outside."""
        u = (points - self.centre) @ self.to_ball.T
        return np.sqrt(dot(u, u))

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (mm, positive inside) of points (..., n), to first order at the surface."""
        u = (points - self.centre) @ self.to_ball.T
        level, normal = np.maximum(np.sqrt(dot(u, u)), 1e-9), u @ self.to_ball
        return (1 - level) * level / np.maximum(np.sqrt(dot(normal, normal)), 1e-12)

    def coverage(self, points: np.ndarray, width: float) -> np.ndarray:
        """How much of a cell of side `width` (mm) at each of points (..., n) lies inside: 0..1,
        anti-aliased."""
        return np.clip(0.5 + self.distance(points) / width, 0, 1)

    def chord(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where lines origin + t direction enter and leave.

        Takes origins and directions (..., n), directions of unit length; gives t (mm) at entry and at exit,
        (...,) each. A line that misses enters at +inf and leaves at -inf.
        """
        p, q = (origins - self.centre) @ self.to_ball.T, directions @ self.to_ball.T
        a, b, c = dot(q, q), dot(p, q), dot(p, p) - 1
        root = b * b - a * c
        hit, half = root > 0, np.sqrt(np.maximum(root, 0))
        return np.where(hit, (-b - half) / a, np.inf), np.where(hit, (-b + half) / a, -np.inf)

    def fourier(self, k: np.ndarray) -> np.ndarray:
        """The Fourier transform of the indicator, the integral of exp(-2 pi i k.x), at k (..., n) in
        cycles/mm."""
        radius = np.linalg.norm((k @ self.rotation) * self.axes, axis=-1)
        phase = np.exp(-2j * np.pi * (k @ self.centre))
        return np.prod(self.axes) * ball_transform(radius, len(self.axes)) * phase

    def reach(self, direction: np.ndarray) -> np.ndarray:
        """Half its extent (mm) along unit directions (..., n)."""
        return np.linalg.norm((direction @ self.rotation) * self.axes, axis=-1)

    def section(self, position: float) -> "Ellipsoid | None":
        """Its cut by the plane x[0] = position, one dimension lower; None where the plane misses it."""
        form = self.to_ball.T @ self.to_ball
        offset = position - self.centre[0]
        shift = -np.linalg.solve(form[1:, 1:], form[1:, 0]) * offset
        left = 1 - offset**2 * (form[0, 0] - form[0, 1:] @ np.linalg.solve(form[1:, 1:], form[1:, 0]))
        if left <= 0:
            return None
        values, vectors = np.linalg.eigh(form[1:, 1:])
        return Ellipsoid(self.centre[1:] + shift, np.sqrt(left / values), vectors)

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> "Ellipsoid":
        """The ellipsoid after x -> rotation x + shift."""
        return Ellipsoid(rotation @ self.centre + shift, self.axes, rotation @ self.rotation)


def ball_transform(radius: np.ndarray, n: int) -> np.ndarray:
    """The Fourier transform of the unit ball in n dimensions at |k| = radius: J_{n/2}(2 pi r) / r^{n/2}.

    Keeps the dtype it is given. In 3D it is elementary, (sin t - t cos t) / (2 pi^2 r^3) with t = 2 pi r;
    near 0, where that cancels, the power series of the Bessel function takes over.
    """
    radius = np.asarray(radius)
    t = np.asarray(2 * np.pi * radius, radius.dtype)
    near = np.flatnonzero(t < 0.3)
    order = n / 2
    safe = np.maximum(t, t.dtype.type(0.3))
    if n == 3:
        value = 4 * np.pi * ((np.sin(safe) - safe * np.cos(safe)) / safe**3)
    else:
        value = (2 * np.pi) ** order * (jv(order, safe) / safe**order)
    value = np.asarray(value, t.dtype)
    half = t.reshape(-1)[near] ** 2 / 4
    series = 1 - half / (order + 1) * (1 - half / (2 * (order + 2)) * (1 - half / (3 * (order + 3))))
    value.reshape(-1)[near] = np.pi**order / gamma(order + 1) * series
    return value


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The inner product along the last axis."""
    return np.einsum("...i,...i->...", a, b)


def rotation(z: float = 0.0, y: float = 0.0, x: float = 0.0) -> np.ndarray:
    """The 3D rotation (in array order z, y, x) about the x, then the y, then the z axis, by degrees."""
    z, y, x = np.radians([z, y, x])
    about_z = np.array([[1, 0, 0], [0, np.cos(z), -np.sin(z)], [0, np.sin(z), np.cos(z)]])
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[np.cos(x), -np.sin(x), 0], [np.sin(x), np.cos(x), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def centres(size, spacing) -> list[np.ndarray]:
    """The cell centres (mm) along each axis of a grid that is centred on the origin."""
    return [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(size, spacing, strict=True)]


def points(size, spacing) -> np.ndarray:
    """The cell centres (*size, n) in mm of a grid that is centred on the origin."""
    return np.stack(np.meshgrid(*centres(size, spacing), indexing="ij"), -1)
