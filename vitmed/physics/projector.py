"""Parallel projections of ellipsoids, exactly, and filtered back-projection.

A body is an intersection of ellipsoids. Intersections of convex sets are convex, so a ray meets a body in one
interval: from the last entry to the first exit. Signed sums of such bodies make anything a phantom needs
(a lung without the heart, ribs as slices of a shell) and their line integrals stay exact.

Filtered back-projection follows Kak & Slaney, "Principles of Computerized Tomographic Imaging", chapter 3.
"""

import dataclasses
import functools

import numpy as np
from scipy import sparse

from vitmed.physics.ellipsoids import Ellipsoid


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Parallel rays: view v holds the rays s u_v + t w_v + l d_v, for every s and t, along l.

    Fields: u, w, d (V, n) orthogonal unit vectors (w is zero in 2D); s (S,) and t (T,) detector positions,
    mm.
    """

    u: np.ndarray
    w: np.ndarray
    d: np.ndarray
    s: np.ndarray
    t: np.ndarray

    @classmethod
    def along_y(cls, z: np.ndarray, x: np.ndarray) -> "Views":
        """One view through a (z, y, x) body from the front: s runs over z, t over x."""
        unit = np.eye(3)
        return cls(unit[:1], unit[2:], unit[1:2], z, x)

    @classmethod
    def around(cls, angles: np.ndarray, s: np.ndarray, z: np.ndarray | None = None) -> "Views":
        """Views around the first axis at angles (V,) in radians; in the (y, x) plane alone without z.

        At angle a, s is measured along (y, x) = (sin a, cos a).
        """
        u = np.stack([np.sin(angles), np.cos(angles)], 1)
        d = np.stack([np.cos(angles), -np.sin(angles)], 1)
        if z is None:
            return cls(u, np.zeros_like(u), d, s, np.zeros(1))
        pad = np.zeros((len(angles), 1))
        up = np.concatenate([pad + 1, pad, pad], 1)
        return cls(np.concatenate([pad, u], 1), up, np.concatenate([pad, d], 1), s, z)

    @classmethod
    def tilted(cls, angles: np.ndarray, s: np.ndarray, x: np.ndarray) -> "Views":
        """Views through a (z, y, x) body from the front, tilted towards head and feet by angles (V,) in
        radians.

        At angle a, s is measured along (z, y) = (cos a, sin a) and t along x: `around`'s geometry with (y, z)
        in place of its (y, x), so that `filtered_backprojection` gives (y, z) planes.
        """
        none = np.zeros_like(angles)
        u = np.stack([np.cos(angles), np.sin(angles), none], 1)
        d = np.stack([-np.sin(angles), np.cos(angles), none], 1)
        return cls(u, np.stack([none, none, none + 1], 1), d, s, x)


class Quadrics:
    """What every ellipsoid of a list looks like to every view, so that a chord is a polynomial in s and t.

    In the unit ball of ellipsoid e, the ray (v, s, t) passes the centre at the squared distance |s u + t w -
    c|^2, with u, w, c the parts of the detector axes and of the centre across the ray. Half its chord is
    sqrt((1 - that) / |d|^2), and its midpoint is linear in s and t. All coefficients are (E, V).
    """

    def __init__(self, shapes: list[Ellipsoid], views: Views):
        balls = np.stack([e.to_ball for e in shapes])
        centres = np.stack([e.centre for e in shapes])
        forms = np.stack([(e.rotation * e.axes**2) @ e.rotation.T for e in shapes])
        u, w, d = (np.einsum("eij,vj->evi", balls, basis) for basis in (views.u, views.w, views.d))
        c = np.einsum("eij,ej->ei", balls, centres)[:, None]
        self.scale = (d * d).sum(-1)
        self.along = [(v * d).sum(-1) / self.scale for v in (u, w, c)]
        u, w, c = (v - a[..., None] * d for v, a in zip((u, w, c), self.along, strict=True))
        self.uu, self.ww, self.uw = (u * u).sum(-1), (w * w).sum(-1), (u * w).sum(-1)
        self.uc, self.wc, self.rest = (u * c).sum(-1), (w * c).sum(-1), 1 - (c * c).sum(-1)
        self.views = views
        self.starts, self.stops = [], []
        for basis, axis in ((views.u, views.s), (views.w, views.t)):
            middle = centres @ basis.T
            reach = np.sqrt(np.einsum("vi,eij,vj->ev", basis, forms, basis))
            self.starts.append(np.searchsorted(axis, (middle - reach).min(1)).tolist())
            self.stops.append(np.searchsorted(axis, (middle + reach).max(1), "right").tolist())

    def window(self, body: list[int]) -> tuple[slice, slice]:
        """The detector range (slices of s and t) outside which no ray meets every ellipsoid of `body`."""
        return tuple(
            slice(max(start[e] for e in body), min(stop[e] for e in body))
            for start, stop in zip(self.starts, self.stops, strict=True)
        )

    def half(self, e: int, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Half the chord (mm) of ellipsoid e at s (1, S, 1) and t (1, 1, T): (V, S, T), 0 for a miss."""
        uu, ww, uw, uc, wc, rest, scale = (
            c[e][:, None, None] for c in (self.uu, self.ww, self.uw, self.uc, self.wc, self.rest, self.scale)
        )
        square = (rest + s * (2 * uc - s * uu)) + t * (2 * wc - t * ww - 2 * uw * s)
        np.maximum(square, 0, out=square)
        square /= scale
        return np.sqrt(square, out=square)

    def middle(self, e: int, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Where along the ray the middle of that chord is (mm)."""
        u, w, c = (a[e][:, None, None] for a in self.along)
        return (c - u * s) - w * t


def line_integrals(bodies, values, views: Views) -> np.ndarray:
    """The integrals (V, S, T) of sum_i values[i] * indicator(bodies[i]) along the rays of `views`.

    Takes bodies, each a tuple of ellipsoids whose intersection it is, and values per mm.
    """
    total = np.zeros((len(views.u), len(views.s), len(views.t)))
    shapes: dict[int, Ellipsoid] = {}
    for body in bodies:
        for e in body:
            shapes.setdefault(id(e), e)
    number = {key: i for i, key in enumerate(shapes)}
    quadrics = Quadrics(list(shapes.values()), views)
    for body, value in zip(bodies, values, strict=True):
        members = [number[id(e)] for e in body]
        window = quadrics.window(members)
        if value == 0 or any(w.start >= w.stop for w in window):
            continue
        s, t = views.s[window[0]][None, :, None], views.t[window[1]][None, None, :]
        block = total[:, window[0], window[1]]
        if len(body) == 1:
            block += (2 * value) * quadrics.half(members[0], s, t)
            continue
        enter, leave = -np.inf, np.inf
        for e in members:
            half, middle = quadrics.half(e, s, t), quadrics.middle(e, s, t)
            enter, leave = np.maximum(enter, middle - half), np.minimum(leave, middle + half)
        block += value * np.maximum(leave - enter, 0)
    return total


def detector(count: int, pitch: float, samples: int = 1) -> np.ndarray:
    """Positions (mm) of `samples` rays in each of `count` detector elements, centred on 0: (count *
    samples,)."""
    return (np.arange(count * samples) - (count * samples - 1) / 2) * pitch / samples


def transmission(integrals: np.ndarray, samples: tuple[int, int]) -> np.ndarray:
    """The fraction of photons that reaches each element: exp(-integral), averaged over its (s, t) sub-rays.

    Takes (V, S * samples[0], T * samples[1]) line integrals; gives (V, S, T). A detector adds photons, not
    attenuations: this is where partial-volume streaks come from.
    """
    v, s, t = integrals.shape
    return (
        np.exp(-integrals).reshape(v, s // samples[0], samples[0], t // samples[1], samples[1]).mean((2, 4))
    )


def filter_ramp(sinogram: np.ndarray, pitch: float, smooth: float = 0.0, floor: float = 0.0) -> np.ndarray:
    """The ramp-filtered sinogram, along its second axis, zero-padded against wrap-around.

    Takes (V, S, ...) line integrals at `pitch` mm. `smooth` in 0..1 blends a Hann window in (0: pure ramp,
    which keeps most resolution and most noise). Below `floor` (cycles/mm) the ramp is held at its height
    there.
    """
    count = sinogram.shape[1]
    length = 1 << int(np.ceil(np.log2(2 * count)))
    n = np.fft.fftfreq(length, 1 / length)
    kernel = np.where(n % 2 == 1, -1 / (np.pi * np.where(n == 0, 1, n)) ** 2, 0)  # exact band-limited ramp
    kernel[0] = 0.25
    response = np.fft.rfft(kernel).real / pitch
    if floor:
        response = np.maximum(response, floor)
    response = response * (
        1 - smooth * 0.5 * (1 - np.cos(np.pi * np.arange(len(response)) / (len(response) - 1)))
    )
    shape = (1, -1) + (1,) * (sinogram.ndim - 2)
    spectrum = np.fft.rfft(sinogram, length, axis=1) * response.reshape(shape)
    return np.fft.irfft(spectrum, length, axis=1)[:, :count]


def limited_angles(views: int, arc: float) -> np.ndarray:
    """The middles (views,) of as many equal parts of an arc (radians) that is centred on 0."""
    return (np.arange(views) - (views - 1) / 2) * arc / views


@functools.lru_cache(maxsize=4)
def _backprojector(
    views: int,
    count: int,
    pitch: float,
    size: tuple[int, int],
    spacing: tuple[float, float],
    limited: float | None,
):
    """Linear interpolation of every view at every pixel, as a sparse matrix (pixels, views * count)."""
    y, x = ((np.arange(n) - (n - 1) / 2) * d for n, d in zip(size, spacing, strict=True))
    arc = np.pi if limited is None else limited
    angles = np.arange(views) * np.pi / views if limited is None else limited_angles(views, limited)
    place = np.sin(angles)[:, None, None] * y[:, None] + np.cos(angles)[:, None, None] * x
    place = place / pitch + (count - 1) / 2
    low = np.floor(place).astype(int)
    part = place - low
    pixel = np.broadcast_to(np.arange(y.size * x.size).reshape(1, y.size, x.size), place.shape)
    rows, columns, weights = [], [], []
    for index, weight in ((low, 1 - part), (low + 1, part)):
        inside = (index >= 0) & (index < count)
        rows.append(pixel[inside])
        columns.append((np.arange(views)[:, None, None] * count + index)[inside])
        weights.append(weight[inside])
    entries = np.concatenate(weights) * arc / views, (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix(entries, shape=(y.size * x.size, views * count))


def filtered_backprojection(
    sinogram: np.ndarray,
    pitch: float,
    size: tuple[int, int],
    spacing: tuple[float, float],
    smooth: float = 0.0,
    limited: float | None = None,
    depth: float | None = None,
) -> np.ndarray:
    """The image (T, *size), per mm, from parallel-beam line integrals.

    Takes a sinogram (V, S, T) of T slices at angles pi v / V (`Views.around`), element pitch and pixel
    spacing (y, x) in mm. With `limited` (radians) the angles are `limited_angles(V, limited)` instead: what
    the views saw of a body's frequencies, a double wedge around the x axis, comes out at its height, the
    rest is missing. Their `depth` (mm), the body's extent along y, then says where the ramp ends: below
    1 / (2 depth tan(limited / 2)) the wedge is narrower than the body's own width in frequency, 1 / depth, so
    that its planes cannot be told apart there; held level, the filter leaves in each the mean over the depth
    instead of nothing. Dobbins & Godfrey, "Digital x-ray tomosynthesis: current state of the art and clinical
    potential", Phys. Med. Biol. 48 (2003).
    """
    views, count, slices = sinogram.shape
    floor = 1 / (2 * depth * np.tan(limited / 2)) if depth and limited else 0.0
    matrix = _backprojector(views, count, float(pitch), tuple(size), tuple(map(float, spacing)), limited)
    filtered = filter_ramp(sinogram, pitch, smooth, floor).reshape(views * count, slices)
    return (matrix @ filtered).T.reshape(slices, *size)


def to_hounsfield(attenuation: np.ndarray, water: float) -> np.ndarray:
    """Hounsfield units of an attenuation in the units of `water`'s: 0 for water, -1000 for nothing."""
    return 1000 * (attenuation / water - 1)
