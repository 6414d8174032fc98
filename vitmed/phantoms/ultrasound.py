"""Breast ultrasound: scatterers, a beam with a focus, shadows and enhancement, log compression. 2D only."""

import numpy as np

from vitmed.phantoms import tissues
from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.breast import TOP, breast
from vitmed.phantoms.findings import Finding
from vitmed.phantoms.picture import Picture, sections, truth_on_grid
from vitmed.physics.ellipsoids import centres, rotation
from vitmed.physics.speckle import beamform, log_compress, path_above, scatterers

FIELD = 50.0  # mm
SPEED = 1540.0  # m/s
SCATTERERS = 6000  # ten to a resolution cell (4 pi x axial x lateral): fully developed speckle
SPECULAR_DB = 20 * np.log10(3)  # specular interfaces echo three times stronger than what lies under them
REGION = breast

# Centre frequency (MHz), axial and lateral standard deviation of the point spread (mm), focus (mm), dynamic
# range (dB), gain (dB).
SITES = {
    "A": {"frequency": 7.0, "axial": 0.45, "lateral": 0.75, "focus": 22, "range": 60, "gain": 0.0},
    "B": {"frequency": 5.5, "axial": 0.60, "lateral": 1.00, "focus": 15, "range": 50, "gain": -4.0},
}


def pose(generator: np.random.Generator, flat: bool) -> tuple[np.ndarray, np.ndarray]:
    """How the probe is held: tilted by a few degrees, moved sideways by some mm."""
    turn = rotation(z=float(np.clip(generator.normal(0, 3), -7, 7)))
    return turn, np.array((0, 0, np.clip(generator.normal(0, 3), -7, 7)))


def render(
    parts: list[Part], findings: list[Finding], size, site: str, generator: np.random.Generator
) -> Picture:
    """The B-mode picture (depth, lateral), log-compressed to uint8."""
    setup = SITES[site]
    spacing = tuple(FIELD / n for n in size)
    half = FIELD / 2
    places, strengths = scatterers((TOP, -half - 2), (TOP + FIELD + 1, half + 2), SCATTERERS, generator)
    echo = np.full(len(places), float(tissues.AIR.echo))
    dimming = np.zeros(len(places))  # one-way, dB/MHz
    for ellipse, tissue, host in sections([*parts, *(p for f in findings for p in f.parts)]):
        distance = ellipse.distance(places)
        echo[distance > 0] = tissue.echo
        if tissue.echo > -20 and host.echo > -60:
            echo[np.abs(distance) < 0.15] += SPECULAR_DB
        if (excess := tissue.attenuation - host.attenuation) != 0:
            dimming += excess * path_above(ellipse, places, TOP) / 10
    depth = places[:, 0] - TOP
    # Time-gain compensation undoes what gland would take, and no more than 20 dB of doubt either way.
    excess = dimming - tissues.GLAND.attenuation * depth / 10
    two_way = np.clip(2 * setup["frequency"] * excess, -20, 60)
    lateral = setup["lateral"] * np.sqrt(1 + ((depth - setup["focus"]) / 18) ** 2)
    rows, columns = centres([2 * n for n in size], [d / 2 for d in spacing])
    image = beamform(
        places, strengths * 10 ** ((echo - two_way) / 20), rows, columns,
        axial=setup["axial"], lateral=lateral, wavelength=SPEED / setup["frequency"] / 1000,
    )  # fmt: skip
    reference = 10 * 10 ** ((12 - setup["gain"] + generator.normal(0, 2)) / 20)
    # A pixel is the mean over four points of the echo's power, as scan converters smooth speckle.
    power = (np.abs(image) ** 2).reshape(size[0], 2, size[1], 2).mean((1, 3))
    shown = log_compress(np.sqrt(power), reference, setup["range"])
    return Picture(np.round(255 * shown).astype(np.uint8), truth_on_grid(findings, size, spacing), spacing)
