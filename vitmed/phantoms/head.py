"""The head, for MRI: scalp, skull, fluid, grey and white matter, ventricles, sulci.

Every part is one ellipsoid within its host, so that its Fourier transform is known exactly.
"""

import numpy as np

from vitmed.phantoms import tissues as t
from vitmed.phantoms.anatomy import Part, Region, varied
from vitmed.physics.ellipsoids import Ellipsoid, rotation


def head(patient: np.random.Generator, scan: np.random.Generator, flat: bool) -> Region:
    """One patient's head in one scan; `flat` brings all findings into the plane z = 0, for a single slice."""
    size = varied(patient, (1, 1, 1), 0.045)
    age = patient.random()  # widens sulci and ventricles

    def shape(centre, axes, turn=None):
        return Ellipsoid.of(np.asarray(centre) * size, np.asarray(axes) * size, turn)

    parts = []

    def add(name, centre, axes, tissue, host, turn=None):
        parts.append(Part(name, (shape(centre, axes, turn),), tissue, host))

    scalp = patient.uniform(4, 8)
    add("scalp", (0, 0, 0), np.array((105, 90, 70)) + scalp, t.FAT, t.AIR)
    add("skull", (0, 0, 0), (105, 90, 70), t.RIB, t.FAT)
    add("fluid", (0, 0, 0), (98, 83, 63), t.FLUID, t.RIB)
    add("brain", (0, 0, 0), np.array((96, 81, 61)) - 2 * age, t.GREY, t.FLUID)
    for side in (-1, 1):
        tilt = patient.normal(0, 4)
        add(
            "white",
            (8, 0, 28 * side),
            varied(patient, (66, 62, 24.5), 0.03),
            t.WHITE,
            t.GREY,
            rotation(z=tilt),
        )
        horn = varied(patient, (13, 27, 4.5), 0.12) * (1 + 0.5 * age)
        add("ventricle", (10, 4, 13 * side), horn, t.FLUID, t.WHITE, rotation(z=10 * side))
        add("thalamus", (-4, 10, 20 * side), varied(patient, (9, 13, 6.5), 0.08), t.GREY, t.WHITE)
    add("cerebellum", (-66, 34, 0), varied(patient, (17, 24, 34), 0.06), t.WHITE, t.GREY)
    add("fissure", (25, 0, 0), (66, 76, 1.5 + age), t.FLUID, t.GREY)
    for _ in range(18):
        polar, around = patient.uniform(-25, 70), patient.uniform(0, 360)
        turn = rotation(z=around, y=polar)
        out = turn @ np.array((0.0, 0.0, 1.0))
        centre = 0.9 * out * (96, 81, 61)
        add("sulcus", centre, (patient.uniform(8, 22), 1.2 + 1.6 * age, 9), t.FLUID, t.GREY, turn)

    level = 0.0 if flat else 1.0
    places = {
        f"{height} {side}": tuple(np.array((level * z, y, x * sign)) * size)
        for side, sign in {"right": -1, "left": 1}.items()
        for height, (z, y, x) in {"upper": (34, -34, 30), "lower": (-16, 36, 30)}.items()
    }

    def in_white(generator):
        u = generator.standard_normal(3)
        u *= generator.random() ** (1 / 3) / np.linalg.norm(u)
        side = generator.choice((-1, 1))
        return (np.array((8, 0, 30 * side)) + u * (52, 46, 13)) * (level, 1, 1) * size

    return Region(
        tuple(parts),
        t.WHITE,
        t.TUMOUR,
        t.CALCIUM,
        places,
        (13, 12, 10),
        (8, 14),
        (2.5, 4.5),
        in_white,
        in_white,
    )
