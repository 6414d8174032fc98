"""The breast under a linear ultrasound probe: skin, fat, gland with lobules and ducts, muscle, a rib.

Depth is y, -25 mm at the probe, 25 mm at the bottom of the picture. A picture is the plane z = 0, and every
finding is in it; a volume holds the same breast, filled with more lobules and ducts to either side of that
plane, and its findings lie at any z.
"""

import numpy as np

from vitmed.phantoms import tissues as t
from vitmed.phantoms.anatomy import Part, Region, varied
from vitmed.physics.ellipsoids import Ellipsoid, rotation

TOP = -25.0


def breast(patient: np.random.Generator, scan: np.random.Generator, flat: bool) -> Region:
    """One patient's breast in one scan; `flat` brings all findings into the plane z = 0, for a picture."""
    parts = []
    # A volume's own draws come from their own stream, so that the picture's breast is in it as it is.
    aside = np.random.Generator(patient.bit_generator.jumped())

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

    def fill(generator, lobules, ducts, beside):
        for _ in range(lobules + generator.poisson(4)):
            place = (beside(), generator.uniform(-16, 6), generator.uniform(-25, 25))
            turn = rotation(z=generator.normal(0, 12))
            add("lobule", place, varied(generator, (8, 2.4, 5.5), 0.3), t.FAT, t.GLAND, turn)
        for _ in range(generator.poisson(ducts)):
            place = (beside(), generator.uniform(-12, 8), generator.uniform(-25, 25))
            long = generator.uniform(3, 8)
            turn = rotation(z=generator.normal(0, 20))
            add("duct", place, (8, 0.5, long), t.FLUID, t.GLAND, turn)

    fill(patient, 5, 3, lambda: 0)
    if not flat:
        fill(aside, 18, 7, lambda: aside.choice((-1, 1)) * aside.uniform(8, 30))
    layer("muscle", 1.6 + fat + gland, t.SOFT, t.GLAND, 1 / 500)
    if patient.random() < 0.6:
        add("rib", (0, 23, patient.uniform(-22, 22)), (20 if flat else 80, 3, 6), t.RIB, t.SOFT)

    level = 0.0 if flat else 1.0
    places = {
        f"{height} {side}": (level * z, y, x * sign)
        for side, sign in {"right": -1, "left": 1}.items()
        for height, (z, y, x) in {"upper": (9, -10, 14), "lower": (-9, 7, 14)}.items()
    }

    def in_gland(generator):
        y, x = generator.uniform(-9, 7), generator.uniform(-18, 18)
        return np.array((0 if flat else generator.uniform(-15, 15), y, x))

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
