"""The chest, for X-ray and CT: a trunk with lungs, heart, ribs, vessels, and what people wear and carry.

Sizes follow an adult of 1.7 m. Everything large varies between patients (build, heart, rib spacing, lung
shape, breasts, devices); breathing and electrodes vary between scans.
"""

import numpy as np

from vitmed.phantoms import tissues as t
from vitmed.phantoms.anatomy import Part, Region, carve, paint, varied
from vitmed.physics.ellipsoids import Ellipsoid, rotation

SIDES = {"right": -1, "left": 1}


def chest(patient: np.random.Generator, scan: np.random.Generator, flat: bool) -> Region:
    """One patient's chest in one scan; `flat` brings all findings into the plane z = 0, for a single
    slice."""
    tall, deep, wide = varied(patient, (1, 1, 1), 0.07)
    breath = scan.normal(0, 9)  # mm that the diaphragm is lower than usual

    def shape(centre, axes, turn=None):
        size = np.array((tall, deep, wide))
        return Ellipsoid.of(np.asarray(centre) * size, np.asarray(axes) * size, turn)

    torso = shape((-20, 0, 0), (520, 112 + patient.normal(0, 8), 172 + patient.normal(0, 8)))
    parts = [Part("torso", (torso,), t.SOFT, t.AIR)]
    fat = float(np.clip(patient.normal(0.06, 0.03), 0.01, 0.12))  # a rim of fat under the skin
    inner = Ellipsoid(torso.centre, torso.axes * (1 - fat), torso.rotation)
    parts += [Part("fat", (torso,), t.FAT, t.SOFT), Part("fat", (inner,), t.SOFT, t.FAT)]
    for side in SIDES.values():
        shoulder = shape((175, 10, 140 * side), (85, 55, 85))
        parts += paint("shoulder", shoulder, t.SOFT, t.AIR, [(torso, t.SOFT)])

    heart_size = varied(patient, (60, 50, 70), 0.1)
    heart = shape(
        (-52 - breath / 2, -25, 30 + patient.normal(0, 5)), heart_size, rotation(y=patient.normal(-28, 8))
    )
    middle = shape((10, 0, 0), (190, 95, 27 + 5 * patient.random()))
    parts += paint("heart", heart, t.BLOOD, t.SOFT)
    lung_axes = varied(patient, (126, 84, 61), 0.04)
    for side in SIDES.values():
        lung = shape((12, 5, 83 * side), lung_axes, rotation(y=-4 * side))
        top = (-150 if side < 0 else -164) - breath + patient.normal(0, 6)
        dome = shape((top, 0, 82 * side), varied(patient, (98, 104, 74), 0.05))
        parts += carve("lung", lung, t.LUNG, t.SOFT, [dome, heart, middle])
    parts += bones(patient, shape)
    parts += vessels(patient, shape, heart, middle)
    parts.append(Part("trachea", (shape((115, 5, patient.normal(0, 3)), (72, 8, 8)),), t.AIR, t.SOFT))
    bubble = shape((-118 - breath, -10, 78 + scan.normal(0, 8)), (6 + 14 * scan.random(), 28, 28))
    parts.append(Part("stomach", (bubble,), t.AIR, t.SOFT))
    if patient.random() < 0.5:
        size = patient.uniform(0.75, 1.25)
        for side in SIDES.values():
            breast = shape((-42, -108, 78 * side), (52 * size, 34 * size, 58 * size))
            parts += paint("breast", breast, t.FAT, t.AIR, [(torso, t.SOFT)])
    parts += devices(patient, scan, shape)

    level = 0.0 if flat else 1.0
    places = {
        f"{height} {side}": tuple(np.array((level * z, y, x * sign)) * (tall, deep, wide))
        for side, sign in SIDES.items()
        for height, (z, y, x) in {"upper": (80, -32, 74), "lower": (-16, 38, 98)}.items()
    }

    def in_lung(generator):
        while True:
            u = generator.uniform(-1, 1, 3) * (level, 1, 1)
            side = generator.choice((-1, 1))
            place = (np.array((12 * level, 5, 86 * side)) + u * lung_axes) * (tall, deep, wide)
            if (u**2).sum() < 0.5 and u[0] > -0.45 and heart.level(place) > 1.25:
                return place  # away from the walls, above the dome, outside the heart

    return Region(
        tuple(parts), t.LUNG, t.TUMOUR, t.CALCIUM, places, (26, 24, 22), (10, 20), (3, 6), in_lung, in_lung
    )


def bones(patient, shape) -> list[Part]:
    """Ribs as slices of an ellipsoidal shell by tilted discs, spine, clavicles, shoulder blades."""
    outer, inner = shape((10, 5, 0), (186, 99, 153)), shape((10, 5, 0), (179, 92, 146))
    tilt, first, step = patient.normal(22, 3), patient.normal(122, 6), patient.normal(27, 1.2)
    parts = []
    for i in range(9):
        disc = shape((first - step * i, 5, 0), (patient.uniform(4.8, 6.2), 170, 240), rotation(x=tilt))
        parts += [Part("rib", (outer, disc), t.RIB, t.SOFT), Part("rib", (inner, disc), t.SOFT, t.RIB)]
    curve = patient.normal(0, 2)
    parts.append(Part("spine", (shape((0, 72, 0), (300, 17, 16), rotation(y=curve)),), t.SPINE, t.SOFT))
    for side in SIDES.values():
        lift = patient.normal(10, 4)
        collar = shape((128, -62, 66 * side), (6.5, 6.5, 70), rotation(y=lift * side))
        blade = shape((85, 88, 138 * side), (62, 5, 34), rotation(y=8 * side))
        parts += [Part("clavicle", (collar,), t.RIB, t.SOFT), Part("scapula", (blade,), t.RIB, t.SOFT)]
    return parts


def vessels(patient, shape, heart, middle) -> list[Part]:
    """Pulmonary vessels: thin ellipsoids that leave the hilum in every direction."""
    parts = []
    for side in SIDES.values():
        hilum = shape((8, 0, 40 * side), varied(patient, (22, 14, 11), 0.2))
        parts += carve("hilum", hilum, t.BLOOD, t.LUNG, [heart, middle])
        for _ in range(12):
            polar, depth = patient.uniform(-80, 80), patient.uniform(-35, 35)
            length, thick = patient.uniform(20, 38), patient.uniform(1.6, 3.4)
            turn = rotation(z=depth * side, y=polar * side)
            far = turn @ np.array((0, 0, side * (length + patient.uniform(2, 22))))
            centre = np.array((8, 0, 40 * side)) + far
            vessel = shape(centre, (thick, thick, length), turn)
            parts += carve("vessel", vessel, t.BLOOD, t.LUNG, [heart])
    return parts


def devices(patient, scan, shape) -> list[Part]:
    """Electrodes and a lead (a scan's), sometimes a pacemaker (a patient's): bright, and no disease."""
    parts = []
    for _ in range(scan.poisson(1.5)):
        z, x = scan.uniform(-120, 120), scan.uniform(-120, 120)
        parts.append(Part("electrode", (shape((z, -118, x), (5, 1.2, 5)),), t.METAL, t.AIR))
    if scan.random() < 0.25:
        turn = rotation(y=scan.uniform(50, 130))
        lead = shape(
            (scan.uniform(-40, 90), -120, scan.uniform(-60, 60)), (1.2, 1.2, scan.uniform(60, 130)), turn
        )
        parts.append(Part("lead", (lead,), t.METAL, t.AIR))
    if patient.random() < 0.06:
        parts.append(Part("pacemaker", (shape((95, -95, 85), (22, 4, 24)),), t.METAL, t.SOFT))
    return parts
