"""A body as parts painted over one another, and what disease needs to know about it.

A part says "here is `tissue` instead of `host`": every linear measurement (line integral, Fourier sample) is
the sum over parts of the measurement of (tissue - host), exactly; a point measurement (which tissue is a
scatterer in?) is the last part that holds the point. `body` is the intersection of its ellipsoids.

Coordinates are (z, y, x) in mm, LPS: z to the head, y to the back, x to the patient's left.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from vitmed.phantoms.tissues import Tissue
from vitmed.physics.ellipsoids import Ellipsoid


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """`tissue` in place of `host` within the intersection of `body`."""

    name: str
    body: tuple[Ellipsoid, ...]
    tissue: Tissue
    host: Tissue

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> "Part":
        return dataclasses.replace(self, body=tuple(e.moved(rotation, shift) for e in self.body))


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """One part of a patient's body, and where and how disease shows there.

    Fields: parts; host, the tissue findings grow in; diseased, what a lesion is made of; decoy, what benign
    decoys are made of; places, the four centres (3,) of the paired findings, "upper left" and so on; patch,
    half axes (3,) of a paired finding; lesion_radius and decoy_radius ranges, all mm; lesion_place, a draw of
    where a lesion is; decoy_place likewise.
    """

    parts: tuple[Part, ...]
    host: Tissue
    diseased: Tissue
    decoy: Tissue
    places: dict[str, tuple[float, float, float]]
    patch: tuple[float, float, float]
    lesion_radius: tuple[float, float]
    decoy_radius: tuple[float, float]
    lesion_place: Callable[[np.random.Generator], np.ndarray]
    decoy_place: Callable[[np.random.Generator], np.ndarray]


def paint(name: str, shape: Ellipsoid, tissue: Tissue, base: Tissue, over=()) -> list[Part]:
    """`shape` in `base`, taking over from each (ellipsoid, tissue) of `over` where they meet."""
    parts = [Part(name, (shape,), tissue, base)]
    parts += [Part(name, (shape, other), base, theirs) for other, theirs in over]
    return parts


def carve(name: str, shape: Ellipsoid, tissue: Tissue, base: Tissue, cutters: list[Ellipsoid]) -> list[Part]:
    """`shape` in `base`, except where any of `cutters` meets it: inclusion and exclusion."""
    parts = [Part(name, (shape,), tissue, base)]
    for count in range(1, len(cutters) + 1):
        pair = (base, tissue) if count % 2 else (tissue, base)
        parts += [Part(name, (shape, *some), *pair) for some in itertools.combinations(cutters, count)]
    return parts


def varied(generator: np.random.Generator, values, spread: float) -> np.ndarray:
    """`values`, each times an independent factor exp(N(0, spread)), held within two standard deviations."""
    return np.asarray(values, float) * np.exp(spread * np.clip(generator.standard_normal(len(values)), -2, 2))
