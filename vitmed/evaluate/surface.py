"""How far two masks' surfaces lie apart: NSD at a tolerance and the robust Hausdorff distance, in 2D and 3D.

After Nikolov et al. (2018, arXiv:1809.04430; J Med Internet Res 23(7), 2021), in the manner of their reference
implementation ``surface-distance``, whose values the tests hold this to. A surface element is a cell of the grid
between voxel centres, 2 x 2 (x 2) voxels, of which some are inside the mask and some are not. Its size is that of the
line or surface that runs through it by marching squares or cubes (Lorensen & Cline 1987) with all vertices halfway
along the cell's edges: a length in 2D, an area in 3D, for any spacing. Its distance to the other surface is that to the
nearest element of it, cell to cell. Outside the array is outside the mask.

Spacing is in array order; distances have its unit.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import numpy as np
from scipy.ndimage import distance_transform_edt

Array = np.ndarray
Corner = tuple[int, ...]
Loop = tuple[Corner, ...]  # midpoints of edges, in half voxels

_RING = ((0, 0), (0, 1), (1, 1), (1, 0))  # the corners of a square, one after another


@dataclasses.dataclass(frozen=True)
class Surfaces:
    """The elements of two surfaces, each with its distance to the other surface.

    Attributes:
        there, back: (n,) and (m,) distances from the first mask's elements to the second's surface, and from the
            second's to the first's; infinite where the other mask is empty.
        area, back_area: (n,) and (m,) sizes of these elements.
    """

    there: Array
    area: Array
    back: Array
    back_area: Array


def surfaces(one: Array, other: Array, spacing: tuple[float, ...]) -> Surfaces:
    """The surfaces of two masks and how far their elements lie apart.

    Args:
        one, other: (*S) bool, 2D or 3D.
        spacing: (n) millimetres a voxel, array order.
    """
    box = _box(one | other)
    codes = [_codes(mask[box]) for mask in (one, other)]
    full = 2**2**one.ndim - 1
    on = [(code != 0) & (code != full) for code in codes]
    sizes = element_sizes(spacing)
    far = [distance_transform_edt(~s, sampling=spacing) if s.any() else np.full(s.shape, np.inf) for s in on]
    return Surfaces(far[1][on[0]], sizes[codes[0][on[0]]], far[0][on[1]], sizes[codes[1][on[1]]])


def nsd(found: Surfaces, tolerance: float) -> float:
    """Normalised surface distance (surface Dice): the share of both surfaces within ``tolerance`` of the other.

    0 where one mask is empty; nan where both are.
    """
    within = tolerance * (1 + 1e-6)  # a distance of just the tolerance is a sum of rounded steps
    near = found.area[found.there <= within].sum() + found.back_area[found.back <= within].sum()
    whole = found.area.sum() + found.back_area.sum()
    return float(near / whole) if whole else float("nan")


def hausdorff(found: Surfaces, percent: float = 95.0) -> float:
    """The robust Hausdorff distance: the larger of the two directions' percentiles, each weighted by element size.

    A direction's percentile is the smallest distance within which at least ``percent`` of its surface lies, without
    interpolation. Infinite where one mask is empty; nan where both are.
    """
    if not len(found.there) and not len(found.back):
        return float("nan")
    sides = ((found.there, found.area), (found.back, found.back_area))
    return max(_percentile(distance, size, percent) for distance, size in sides)


def element_sizes(spacing: tuple[float, ...]) -> Array:
    """Length (2D) or area (3D) of the surface in a cell, by its code: bit i is set where its i-th corner is inside.

    Corners are numbered as ``itertools.product((0, 1), repeat=n)`` gives them.
    """
    n = len(spacing)
    codes, points = _pieces(n)
    points = points * (np.asarray(spacing, float) / 2)
    sides = points[:, 1:] - points[:, :1]
    size = np.linalg.norm(sides[:, 0] if n == 2 else np.cross(sides[:, 0], sides[:, 1]) / 2, axis=-1)
    return np.bincount(codes, size, 2**2**n)


@functools.cache
def _pieces(n: int) -> tuple[Array, Array]:
    """What the surface is made of in every kind of cell: codes (p,), and (p, n, n) ends in half voxels.

    Pieces are lines in 2D and triangles in 3D.
    """
    corners = list(itertools.product((0, 1), repeat=n))
    codes, points = [], []
    for code in range(2 ** len(corners)):
        inside = {corner: bool(code >> i & 1) for i, corner in enumerate(corners)}
        for piece in _square(corners, inside) if n == 2 else _triangles(inside):
            codes.append(code)
            points.append(piece)
    return np.array(codes), np.array(points, float)


def _percentile(distance: Array, size: Array, percent: float) -> float:
    if not len(distance):
        return float("inf")
    order = np.lexsort((size, distance))
    reached = np.cumsum(size[order]) / np.sum(size[order])
    at = min(int(np.searchsorted(reached, percent / 100.0)), len(distance) - 1)
    return float(distance[order][at])


def _box(mask: Array) -> tuple[slice, ...]:
    """The smallest box that holds all of the mask; an empty one for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        held = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(held[0], held[-1] + 1) if len(held) else slice(0, 0))
    return tuple(box)


def _codes(mask: Array) -> Array:
    """The code of every cell that touches the box of the mask, (*S + 1) uint8."""
    padded = np.pad(mask, 1).astype(np.uint8)
    size = tuple(n + 1 for n in mask.shape)
    codes = np.zeros(size, np.uint8)
    for i, corner in enumerate(itertools.product((0, 1), repeat=mask.ndim)):
        codes |= padded[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] << i
    return codes


def _square(ring: list[Corner], inside: dict[Corner, bool]) -> Iterator[tuple[Corner, Corner]]:
    """Where the surface crosses a square: from each edge on which it enters the inside to that on which it leaves.

    ``ring`` is the square's four corners. Two opposite corners inside are cut off one by one.
    """
    cycle = _cycle(ring)
    for i in range(4):
        if not inside[cycle[i - 1]] and inside[cycle[i]]:
            end = next(j for j in range(i, i + 4) if not inside[cycle[(j + 1) % 4]])
            yield _middle(cycle[i - 1], cycle[i]), _middle(cycle[end % 4], cycle[(end + 1) % 4])


def _middle(a: Corner, b: Corner) -> Corner:
    """The middle of an edge, in half voxels."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _cycle(ring: list[Corner]) -> list[Corner]:
    """The corners of a square of a cell, each next to the one before."""
    free = [axis for axis in range(len(ring[0])) if len({corner[axis] for corner in ring}) > 1]
    return [next(c for c in ring if (c[free[0]], c[free[1]]) == place) for place in _RING]


def _triangles(inside: dict[Corner, bool]) -> Iterator[tuple[Corner, Corner, Corner]]:
    """The triangles of the surface in a cube.

    Where a face does not tell how the surface runs (two opposite corners inside), the corners of whichever side
    has fewer in the cube are cut off. Of the ways to cut a loop that is not flat into triangles, that of the largest
    area in a cube is taken. This is what the reference's table of 256 comes to.
    """
    if sum(inside.values()) > 4:
        inside = {corner: not held for corner, held in inside.items()}
    follows: dict[Corner, list[Corner]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        for a, b in _square([corner for corner in inside if corner[axis] == side], inside):
            follows.setdefault(a, []).append(b)
            follows.setdefault(b, []).append(a)
    while follows:
        loop = _loop(follows)
        cuts = _cuts(loop)
        areas = [round(sum(_area(*np.array(triangle, float)) for triangle in cut), 9) for cut in cuts]
        yield from cuts[int(np.argmax(areas))]


def _loop(follows: dict[Corner, list[Corner]]) -> Loop:
    """Takes one closed path out of a graph in which every point has two neighbours."""
    path = [min(follows)]
    while True:
        ahead = [point for point in follows.pop(path[-1]) if point in follows and point not in path]
        if not ahead:
            return tuple(path)
        path.append(ahead[0])


def _cuts(loop: Loop) -> list[tuple[Loop, ...]]:
    """All ways to cut a polygon into triangles by its diagonals."""
    if len(loop) < 3:
        return [()]
    found = []
    for i in range(1, len(loop) - 1):
        for left, right in itertools.product(_cuts(loop[: i + 1]), _cuts(loop[i:])):
            found.append((*left, (loop[0], loop[i], loop[-1]), *right))
    return found


def _area(a: Array, b: Array, c: Array) -> float:
    return float(np.linalg.norm(np.cross(b - a, c - a)) / 2)
