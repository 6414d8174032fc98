"""Chest tomosynthesis: X-ray in 3D. A short sweep of low-dose projections, reconstructed plane by plane.

The tube moves from head to foot over some 30 degrees about a patient who stands as for a radiograph; each
coronal plane is filtered back-projection (shift-and-add of ramp-filtered projections). Structures of other
depths are blurred along z, not removed: what the missing angles would have told is missing. Dobbins &
McAdams, "Chest tomosynthesis: technical principles and clinical update", Eur. J. Radiol. 72 (2009); systems
in use take some 60 projections over 30 to 35 degrees, with several times the dose of one radiograph.

Simplified: rays are parallel and the detector turns with them, where a real one stands still under a
diverging beam. That moves magnification and sampling, not which frequencies of the body are seen.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from vitmed.phantoms import xray
from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.findings import Finding
from vitmed.phantoms.picture import Picture, attenuations, truth_on_grid
from vitmed.physics.noise import photons, scattered
from vitmed.physics.projector import (
    Views,
    detector,
    filtered_backprojection,
    limited_angles,
    line_integrals,
    transmission,
)

FIELD = (xray.FIELD, 240.0, xray.FIELD)  # mm (z, y, x)
REGION, pose = xray.REGION, xray.pose  # the patient stands where the radiograph was taken

# The sweep (degrees) and its projections, photons an element in all of them together, scatter to primary,
# blur (elements), the filter's window (0 sharp, 1 smooth), and the display as in `xray.SITES`.
SITES = {
    "A": {
        "arc": 35, "views": 61, "dose": 2.0e5, "scatter": 0.10, "blur": 0.40, "smooth": 0.7,
        "display": (0.10, 0.08), "gamma": 1.0,
    },
    "B": {
        "arc": 30, "views": 41, "dose": 1.0e5, "scatter": 0.25, "blur": 0.55, "smooth": 0.4,
        "display": (0.20, 0.10), "gamma": 0.8,
    },
}  # fmt: skip


def render(
    parts: list[Part], findings: list[Finding], size, site: str, generator: np.random.Generator
) -> Picture:
    """The volume (z, y, x) of coronal planes of posed parts, 12 bits in uint16, without units: the display
    spans the reconstructed attenuation, as the systems that do this show it."""
    setup = SITES[site]
    spacing = tuple(f / n for f, n in zip(FIELD, size, strict=True))
    arc, pitch = np.radians(setup["arc"]), spacing[0]
    margin = FIELD[1] / 2 * np.sin(arc / 2)  # so that every voxel is seen at every angle
    count = size[0] + 2 * int(np.ceil(margin / pitch))
    rays = Views.tilted(
        limited_angles(setup["views"], arc), detector(count, pitch, 2), detector(size[2], spacing[2], 2)
    )
    bodies, values = attenuations([*parts, *(p for f in findings for p in f.parts)])
    primary = transmission(xray.WATER * line_integrals(bodies, values, rays), (2, 2))
    dose = setup["dose"] / setup["views"] * np.exp(generator.normal(0, 0.2))
    measured = photons(primary, dose, generator, scattered(primary, setup["scatter"], size[0] / 10))
    measured = gaussian_filter(measured, (0, setup["blur"], setup["blur"]), mode="nearest")
    # The trunk goes on beyond the detector: without a continuation its ends would ring through the planes.
    measured = np.pad(measured, ((0, 0), (count // 2, count // 2), (0, 0)), mode="edge")
    planes = filtered_backprojection(
        measured, pitch, (size[1], size[0]), (spacing[1], spacing[0]), setup["smooth"], arc, FIELD[1]
    )
    volume = planes.transpose(2, 1, 0) / xray.WATER
    middle = volume[size[0] // 5 : -(size[0] // 5), :, size[2] // 4 : -(size[2] // 4)]
    below, above = np.array(setup["display"]) + generator.normal(0, 0.03, 2)
    low, high = np.quantile(middle, 0.02) - below, np.quantile(middle, 0.98) + above
    shown = np.clip((volume - low) / (high - low), 0, 1) ** setup["gamma"]
    return Picture(np.round(4095 * shown).astype(np.uint16), truth_on_grid(findings, size, spacing), spacing)
