"""Chest CT: exact parallel projections, photon counting, filtered back-projection, Hounsfield units."""

import numpy as np

from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.chest import chest
from vitmed.phantoms.findings import Finding
from vitmed.phantoms.picture import Picture, attenuations, truth_on_grid
from vitmed.physics.ellipsoids import rotation
from vitmed.physics.noise import photons
from vitmed.physics.projector import (
    Views,
    detector,
    filtered_backprojection,
    line_integrals,
    to_hounsfield,
    transmission,
)

FIELD = (320.0, 400.0, 400.0)  # mm (z, y, x)
SLICE = 10.0  # mm, of a single slice
WATER = 0.0195  # per mm, at about 70 keV
REACH = 1.42  # detector width in fields of view: the corners must be seen at every angle
REGION = chest

# Photons an element, and the kernel: 0 sharp, 1 smooth. Site B's sharp kernel has thrice site A's noise.
SITES = {"A": {"dose": 1.0e5, "smooth": 0.6}, "B": {"dose": 3.0e4, "smooth": 0.1}}


def pose(generator: np.random.Generator, flat: bool) -> tuple[np.ndarray, np.ndarray]:
    """How the patient lies on the table: turned by a few degrees, off centre by up to 2 cm."""
    limit = np.array((4, 0, 0) if flat else (4, 2, 2))
    turn = rotation(*np.clip(generator.normal(0, 1, 3) * limit, -9, 9))
    shift = np.clip(generator.normal(0, (0 if flat else 8, 8, 8)), -20, 20)
    return turn, shift


def render(
    parts: list[Part], findings: list[Finding], size, site: str, generator: np.random.Generator
) -> Picture:
    """The volume (z, y, x), or the slice (y, x) at z = 0, in HU as int16."""
    setup = SITES[site]
    plane = size[-2:]
    field = FIELD if len(size) == 3 else FIELD[1:]
    spacing = tuple(f / n for f, n in zip(field, size, strict=True))
    slices, thickness = (size[0], spacing[0]) if len(size) == 3 else (1, SLICE)
    views, pitch = int(1.5 * max(plane)), spacing[-1]
    count = int(np.ceil(REACH * max(plane)))
    bodies, values = attenuations([*parts, *(p for f in findings for p in f.parts)])
    rays = Views.around(
        np.arange(views) * np.pi / views, detector(count, pitch, 2), detector(slices, thickness, 2)
    )
    through = transmission(WATER * line_integrals(bodies, values, rays), (2, 2))
    dose = setup["dose"] * np.exp(generator.normal(0, 0.2))
    sinogram = photons(through, dose, generator)
    slices_mu = filtered_backprojection(sinogram, pitch, plane, spacing[-2:], setup["smooth"])
    hu = np.clip(np.round(to_hounsfield(slices_mu, WATER)), -1024, 3071).astype(np.int16)
    return Picture(hu.reshape(size), truth_on_grid(findings, size, spacing), spacing)
