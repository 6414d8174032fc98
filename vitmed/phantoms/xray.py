"""Chest X-rays: exact line integrals, scatter, photon counting, a detector's blur and a site's display
curve."""

import numpy as np
from scipy.ndimage import gaussian_filter

from vitmed.phantoms import tissues
from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.chest import chest
from vitmed.phantoms.findings import CODES, Finding
from vitmed.phantoms.picture import Picture, attenuations, findings_by_code, mark_centre
from vitmed.physics.ellipsoids import Ellipsoid, rotation
from vitmed.physics.noise import photons, scattered
from vitmed.physics.projector import Views, detector, line_integrals, transmission

FIELD = 380.0  # mm
WATER = 0.0206  # per mm, at about 60 keV
SAMPLES = 2  # rays along each side of a detector element
REGION = chest

# Photons an element, scatter to primary, blur (elements), gamma, and the display: how far black and white lie
# outside the range of line integrals in the middle of the field, as a digital system sets it by exposure.
SITES = {
    "A": {"dose": 2.0e4, "scatter": 0.10, "blur": 0.40, "display": (0.3, 0.1), "gamma": 0.75, "marker": 1},
    "B": {"dose": 1.0e4, "scatter": 0.25, "blur": 0.55, "display": (0.6, -0.2), "gamma": 0.6, "marker": -1},
}


def pose(generator: np.random.Generator, flat: bool) -> tuple[np.ndarray, np.ndarray]:
    """How the patient stands: turned and tilted by a few degrees, off centre by up to 3 cm."""
    turn = rotation(*np.clip(generator.normal(0, (4, 3, 4)), -9, 9))
    return turn, np.clip(generator.normal(0, (12, 0, 10)), -30, 30)


def render(
    parts: list[Part], findings: list[Finding], size, site: str, generator: np.random.Generator
) -> Picture:
    """The radiograph (rows head to foot, columns right to left of the patient) of posed parts, 12 bits in
    uint16."""
    setup = SITES[site]
    spacing = tuple(FIELD / n for n in size)
    every = [*parts, *(p for f in findings for p in f.parts), *marker(setup["marker"], generator)]
    bodies, values = attenuations(every)
    views = Views.along_y(detector(size[0], spacing[0], SAMPLES), detector(size[1], spacing[1], SAMPLES))
    primary = transmission(WATER * line_integrals(bodies, values, views), (SAMPLES, SAMPLES))[0]
    dose = setup["dose"] * np.exp(generator.normal(0, 0.2))
    measured = photons(primary, dose, generator, scattered(primary, setup["scatter"], size[0] / 10))
    measured = gaussian_filter(measured, setup["blur"], mode="nearest")
    middle = measured[size[0] // 5 : -(size[0] // 5), size[1] // 4 : -(size[1] // 4)]
    below, above = np.array(setup["display"]) + generator.normal(0, 0.1, 2)
    low, high = np.quantile(middle, 0.02) - below, np.quantile(middle, 0.98) + above
    shown = np.clip((measured - low) / (high - low), 0, 1) ** setup["gamma"]
    return Picture(np.round(4095 * shown[::-1]).astype(np.uint16), shadow(findings, size, spacing), spacing)


def marker(side: int, generator: np.random.Generator) -> list[Part]:
    """The lead letter on the cassette, in an upper corner: it moves with the site, not with the patient."""
    place = np.array((168, -150, 162 * side)) + generator.normal(0, 5, 3)
    strokes = (np.array((0, 0, 0)), (11, 1, 3)), (np.array((-9, 0, 6)), (3, 1, 8))
    return [
        Part("marker", (Ellipsoid.of(place + d, axes),), tissues.METAL, tissues.AIR) for d, axes in strokes
    ]


def shadow(findings: list[Finding], size, spacing) -> np.ndarray:
    """The findings' codes where the ray through an element's centre meets them, and at their own centres."""
    views = Views.along_y(detector(size[0], spacing[0]), detector(size[1], spacing[1]))
    truth = np.zeros(size, np.uint8)
    for finding in reversed(findings_by_code(findings)):
        for part in finding.parts:
            truth[line_integrals([part.body], [1.0], views)[0] > 0] = CODES[finding.kind]
        mark_centre(truth, finding, finding.parts[-1].body[0].centre[[0, 2]], spacing)
    return truth[::-1]
