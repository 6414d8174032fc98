"""Breast ultrasound: scatterers, a beam with a focus, shadows and enhancement, log compression.

In 2D the plane under a linear probe; in 3D the volume that a probe swept across its plane collects, as
automated breast ultrasound does. Shin, Kim & Cha, "Automated ultrasound of the breast for diagnosis:
interobserver agreement on lesion detection and characterization", AJR 197 (2011), has such a scanner.
"""

import numpy as np

from vitmed.phantoms import tissues
from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.breast import TOP, breast
from vitmed.phantoms.findings import Finding
from vitmed.phantoms.picture import Picture, shapes, truth_on_grid
from vitmed.physics.ellipsoids import centres, rotation
from vitmed.physics.speckle import beamform, log_compress, path_above, scatterers, sweep, under

FIELD = 50.0  # mm
SPEED = 1540.0  # m/s
# Ten to a resolution cell (2 sqrt(pi) by each standard deviation of the point spread): developed speckle.
SCATTERERS = {2: 6000, 3: 70000}
INTERFACE = 0.15  # mm to either side of a boundary
SPECULAR_DB = 20 * np.log10(3)  # specular interfaces echo three times stronger than what lies under them
REGION = breast

# Centre frequency (MHz), axial, lateral and elevational standard deviation of the point spread (mm), focus
# (mm), dynamic range (dB), gain (dB).
SITES = {
    "A": {
        "frequency": 7.0, "axial": 0.45, "lateral": 0.75, "elevational": 1.2, "focus": 22, "range": 60,
        "gain": 0.0,
    },
    "B": {
        "frequency": 5.5, "axial": 0.60, "lateral": 1.00, "elevational": 1.5, "focus": 15, "range": 50,
        "gain": -4.0,
    },
}  # fmt: skip


def pose(generator: np.random.Generator, flat: bool) -> tuple[np.ndarray, np.ndarray]:
    """How the probe is held: tilted by a few degrees, moved sideways by some mm."""
    turn = rotation(z=float(np.clip(generator.normal(0, 3), -7, 7)))
    shift = np.array((0, 0, np.clip(generator.normal(0, 3), -7, 7)))
    if not flat:
        turn = rotation(x=float(np.clip(generator.normal(0, 3), -7, 7))) @ turn
        shift[0] = np.clip(generator.normal(0, 3), -7, 7)
    return turn, shift


def render(
    parts: list[Part], findings: list[Finding], size, site: str, generator: np.random.Generator
) -> Picture:
    """The B-mode picture (depth, lateral) at z = 0, or the volume (sweep, depth, lateral), log-compressed to
    uint8."""
    setup = SITES[site]
    spacing = tuple(FIELD / n for n in size)
    half = FIELD / 2
    low, high = (TOP, -half - 2), (TOP + FIELD + 1, half + 2)
    if len(size) == 3:
        low, high = (-half - 3, *low), (half + 3, *high)
    places, strengths = scatterers(low, high, SCATTERERS[len(size)], generator)
    echo = np.full(len(places), float(tissues.AIR.echo))
    dimming = np.zeros(len(places))  # one-way, dB/MHz
    for shape, tissue, host in shapes([*parts, *(p for f in findings for p in f.parts)], len(size)):
        column = under(shape, places, INTERFACE)
        distance = shape.distance(places[column])
        echo[column[distance > 0]] = tissue.echo
        if tissue.echo > -20 and host.echo > -60:
            echo[column[np.abs(distance) < INTERFACE]] += SPECULAR_DB
        if (excess := tissue.attenuation - host.attenuation) != 0:
            dimming[column] += excess * path_above(shape, places[column], TOP) / 10
    depth = places[:, -2] - TOP
    # Time-gain compensation undoes what gland would take, and no more than 20 dB of doubt either way.
    excess = dimming - tissues.GLAND.attenuation * depth / 10
    two_way = np.clip(2 * setup["frequency"] * excess, -20, 60)
    widening = np.sqrt(1 + ((depth - setup["focus"]) / 18) ** 2)
    beam = {
        "axial": setup["axial"], "lateral": setup["lateral"] * widening,
        "wavelength": SPEED / setup["frequency"] / 1000,
    }  # fmt: skip
    echoes, fine = strengths * 10 ** ((echo - two_way) / 20), [d / 2 for d in spacing]
    pixels = centres([2 * n for n in size], fine)
    if len(size) == 3:
        image = sweep(places, echoes, *pixels, elevational=setup["elevational"] * widening, **beam)
    else:
        image = beamform(places, echoes, *pixels, **beam)
    reference = 10 * 10 ** ((12 - setup["gain"] + generator.normal(0, 2)) / 20)
    # A pixel is the mean over two points along each axis of the echo's power, as scan converters smooth
    # speckle.
    split = [part for n in size for part in (n, 2)]
    power = (np.abs(image) ** 2).reshape(split).mean(tuple(range(1, 2 * len(size), 2)))
    shown = log_compress(np.sqrt(power), reference, setup["range"])
    return Picture(np.round(255 * shown).astype(np.uint8), truth_on_grid(findings, size, spacing), spacing)
