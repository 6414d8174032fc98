"""Head MRI: T2-weighted spin echo, exact k-space, four coils, complex noise, ringing, bias field."""

import numpy as np

from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.findings import Finding
from vitmed.phantoms.head import head
from vitmed.phantoms.picture import Picture, shapes, truth_on_grid
from vitmed.physics.ellipsoids import rotation
from vitmed.physics.kspace import scan, spin_echo

FIELD = 240.0  # mm
COILS = 4
REGION = head

# Repetition and echo time (ms), noise of one coil (a voxel of density 1 without relaxation gives 1), how
# strongly the coils fall off, and the arbitrary unit of the stored numbers.
SITES = {
    "A": {"repetition": 4000, "echo": 90, "sigma": 0.013, "falloff": 0.5, "unit": 1500},
    "B": {"repetition": 2800, "echo": 75, "sigma": 0.018, "falloff": 0.75, "unit": 900},
}


def pose(generator: np.random.Generator, flat: bool) -> tuple[np.ndarray, np.ndarray]:
    """How the head lies in the coil: turned by some degrees, off centre by up to 1 cm."""
    limit = np.array((5, 0, 0) if flat else (5, 4, 4))
    turn = rotation(*np.clip(generator.normal(0, 1, 3) * limit, -11, 11))
    return turn, np.clip(generator.normal(0, (0 if flat else 4, 4, 4)), -10, 10)


def render(
    parts: list[Part], findings: list[Finding], size, site: str, generator: np.random.Generator
) -> Picture:
    """The magnitude volume (z, y, x), or the slice (y, x) at z = 0, in arbitrary units as int16."""
    setup = SITES[site]
    spacing = tuple(FIELD / n for n in size)
    every = [*parts, *(p for f in findings for p in f.parts)]
    bodies, inside, outside = zip(*shapes(every, len(size)), strict=True)

    def signal(tissue):
        return spin_echo(tissue.density, tissue.t1, tissue.t2, setup["repetition"], setup["echo"])

    values = [signal(a) - signal(b) for a, b in zip(inside, outside, strict=True)]
    gains = np.exp(
        generator.normal(0, 0.12, COILS)
    )  # one coil lies closer than another: the bias field's tilt
    image = scan(
        bodies, values, size, spacing, coils=COILS, falloff=setup["falloff"],
        sigma=setup["sigma"], generator=generator, gains=gains,
    )  # fmt: skip
    unit = setup["unit"] * np.exp(generator.normal(0, 0.15))
    stored = np.clip(np.round(unit * image), 0, 32767).astype(np.int16)
    return Picture(stored, truth_on_grid(findings, size, spacing), spacing)
