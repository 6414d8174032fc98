"""The breast under a linear ultrasound probe: skin, fat, gland with lobules and ducts, muscle, a rib.

Depth is y, -25 mm at the probe, 25 mm at the bottom of the picture; the picture is the plane z = 0, so every
finding is in it.
"""

import numpy as np

from vitmed.phantoms import tissues as t
from vitmed.phantoms.anatomy import Part, Region, varied
from vitmed.physics.ellipsoids import Ellipsoid, rotation

TOP = -25.0


def breast(patient: np.random.Generator, scan: np.random.Generator, flat: bool) -> Region:
    """One patient's breast in one scan. Always `flat`: there is no third dimension to look along."""
    parts = []

    def add(name, centre, axes, tissue, host, turn=None):
        parts.append(Part(name, (Ellipsoid.of(centre, axes, turn),), tissue, host))

    def layer(name, depth, tissue, host, bend):
        radius = 1 / bend  # mm; a huge sphere is a layer, bent a little
        add(
            name,
            (0, TOP + depth + radius, scan.normal(0, 4)),
            (radius,) * 3,
            tissue,
            host,
            rotation(z=scan.normal(0, 2)),
        )

    fat, gland = patient.uniform(3, 8), patient.uniform(26, 34)
    add("skin", (0, 475, 0), (500, 500, 500), t.SKIN, t.AIR)
    layer("fat", 1.6, t.FAT, t.SKIN, 1 / 400)
    layer("gland", 1.6 + fat, t.GLAND, t.FAT, patient.uniform(1 / 400, 1 / 90))
    for _ in range(5 + patient.poisson(4)):
        place = (0, patient.uniform(-16, 6), patient.uniform(-25, 25))
        turn = rotation(z=patient.normal(0, 12))
        add("lobule", place, varied(patient, (8, 2.4, 5.5), 0.3), t.FAT, t.GLAND, turn)
    for _ in range(patient.poisson(3)):
        place = (0, patient.uniform(-12, 8), patient.uniform(-25, 25))
        add(
            "duct",
            place,
            (8, 0.5, patient.uniform(3, 8)),
            t.FLUID,
            t.GLAND,
            rotation(z=patient.normal(0, 20)),
        )
    layer("muscle", 1.6 + fat + gland, t.SOFT, t.GLAND, 1 / 500)
    if patient.random() < 0.6:
        add("rib", (0, 23, patient.uniform(-22, 22)), (20, 3, 6), t.RIB, t.SOFT)

    places = {
        f"{height} {side}": (0.0, y, x * sign)
        for side, sign in {"right": -1, "left": 1}.items()
        for height, (y, x) in {"upper": (-10, 14), "lower": (7, 14)}.items()
    }

    def in_gland(generator):
        return np.array((0, generator.uniform(-9, 7), generator.uniform(-18, 18)))

    cyst = t.FLUID
    return Region(
        tuple(parts),
        t.GLAND,
        t.CARCINOMA,
        cyst,
        places,
        (8, 4, 6),
        (3.5, 6.5),
        (1.2, 2.4),
        in_gland,
        in_gland,
    )
