"""Disease, decoys, and the class that two distant findings decide together.

Classes, in every modality:

- `lesion` (.3): one mass of diseased tissue with two lobes. One in seven is iso-intense: it has the tissue of its
  surroundings and shows by a thin capsule alone.
- `paired` (.3): two faint patches on **opposite** sides, one upper, one lower.
- `normal` (.4): neither.

Everybody has one upper and one lower patch. In `normal` and `lesion` both are on the same side. Each of the four
places is thus taken in half the scans of every class, and each scan has two patches: no place, no count and no
bag of local findings tells `paired` from the rest; only the two together do. Benign decoys (calcifications;
cysts in ultrasound; Poisson, 1.2 a scan) are as conspicuous as lesions but smaller.

**How hard, and why.** Fixed from the physics below, before any model was trained; never tuned to a result. The
contrast-to-noise ratio (CNR) is the peak contrast over the root sum of squares of measurement noise and of the
clutter that anatomy makes in its place:

- X-ray (6.25 mm pixels, line integrals p): a lesion of radius 9-16 mm and 0.4-1.0 of a solid nodule's density
  (-458 to 40 HU in lung of -790) adds p = .12 to .55, median about .29. In the lung, photons give .02 (.03 at
  site B), crossing ribs and vessels .10 to .15: CNR 1 to 4, median 2.3, over 6 to 20 pixels. A patch adds .13 (.10
  to .17) over 30 to 40 pixels: CNR 1. A rib adds .05 to .15, a decoy .2: so brightness alone decides nothing.
  Radiologists find nodules in such clutter at CNR around 2, and miss a quarter.
- CT (12 mm voxels at 32): lesion +330 to +830 HU, patch +160 to +250 HU, partial volume about one half, against 15 to
  40 HU of noise and 100 HU of vessels and lung edges: CNR 2 to 4 and 1.
- MR (7.5 mm voxels, T2-weighted, SNR of white matter 15 to 20): lesion +.05 to +.16 and patch +.04 to +.06 of a
  signal of .22 to .26; noise .013 to .018, grey matter .07 away: CNR .7 to 2 to clutter, 3 to 10 to noise.
- Ultrasound: lesion -6 to -16 dB, patch -4 to -6 dB; one speckle has 5.6 dB (Rayleigh) and the lesion holds 20 to 80
  of them; fat lobules at -11 dB are the clutter.

With contrast like this one scan is seldom certain, so a detector's AUROC should end near .9, not 1; and since
build, pose, breathing, heart, devices and site move every pixel by more than any finding does, few labels teach
little.
"""

import dataclasses

import numpy as np

from vitmed.phantoms.anatomy import Part, Region, varied
from vitmed.phantoms.streams import stream
from vitmed.physics.ellipsoids import Ellipsoid, rotation

CLASSES = ("normal", "lesion", "paired")
FREQUENCY = (0.4, 0.3, 0.3)
PERSISTENCE = 0.5  # chance that a scan shows the patient's own class; else it is drawn afresh: disease comes and goes
ISO_INTENSE = 1 / 7
CODES = {"lesion": 1, "patch": 2, "decoy": 3}  # in truth masks; 0 is none


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
    """One finding: its kind (a key of CODES), a word on it, and the parts it is made of, the outermost first."""

    kind: str
    detail: str
    parts: tuple[Part, ...]

    def moved(self, rotation: np.ndarray, shift: np.ndarray) -> "Finding":
        return dataclasses.replace(self, parts=tuple(p.moved(rotation, shift) for p in self.parts))


def label(seed: int, modality: str, patient: int, scan: int) -> str:
    """The class of one scan. A patient's scans are correlated; those of different patients are not."""
    generator = stream(seed, "label", modality, patient, scan)
    if generator.random() < PERSISTENCE:
        generator = stream(seed, "class", patient)
    return CLASSES[generator.choice(len(CLASSES), p=FREQUENCY)]


def arrangement(name: str, generator: np.random.Generator) -> tuple[str, str]:
    """The places of the upper and the lower patch: on opposite sides in `paired`, on one side otherwise."""
    upper, other = generator.permutation(("left", "right"))
    return f"upper {upper}", f"lower {other if name == 'paired' else upper}"


def findings(region: Region, name: str, seed: int, modality: str, patient: int, scan: int) -> list[Finding]:
    """All findings of one scan of class `name`, in the region's own frame. A patient's lesion and patches keep
    their place from scan to scan; decoys and a few mm of each come with the scan."""
    own, now = stream(seed, "findings", modality, patient), stream(seed, "findings", modality, patient, scan)
    result = [patch(region, place, own, now) for place in arrangement(name, own)]
    mass = lesion(region, own, now)  # drawn for everybody, so that nobody's patches depend on it
    for _ in range(now.poisson(1.2)):
        result.append(decoy(region, now))
    return result + ([mass] if name == "lesion" else [])


def patch(region: Region, place: str, own, now) -> Finding:
    """A faint, broad, smooth patch: an old scar, or half of a disease."""
    centre = np.array(region.places[place]) + now.normal(0, 0.08, 3) * region.patch
    turn = rotation(z=own.normal(0, 10))
    shape = Ellipsoid.of(centre, varied(own, region.patch, 0.1), turn)
    tissue = region.host.towards(region.diseased, own.uniform(0.3, 0.45))
    return Finding("patch", place, (Part("patch", (shape,), tissue, region.host),))


def lesion(region: Region, own, now) -> Finding:
    """A mass with two lobes, or one that only its capsule shows."""
    centre = region.lesion_place(own)
    radius = own.uniform(*region.lesion_radius)
    axes = varied(own, (radius,) * 3, 0.12) * now.uniform(0.95, 1.1)
    turn = rotation(*own.uniform(-40, 40, 3))
    strength, iso = own.uniform(0.3, 0.9), own.random() < ISO_INTENSE
    lobes = []
    for _ in range(2):
        way = own.standard_normal(3)
        lobes.append((centre + axes * way / np.linalg.norm(way) * 0.8, axes * own.uniform(0.35, 0.6)))
    whole = Ellipsoid.of(centre, axes, turn)
    if iso:
        capsule = region.host.towards(region.diseased, 0.8)
        core = Ellipsoid(whole.centre, whole.axes * 0.8, whole.rotation)
        parts = Part("lesion", (whole,), capsule, region.host), Part("lesion", (core,), region.host, capsule)
        return Finding("lesion", "iso-intense", parts)
    tissue = region.host.towards(region.diseased, strength)
    weak = region.host.towards(region.diseased, 0.4 * strength)
    parts = [Part("lesion", (Ellipsoid.of(c, a, turn),), weak, region.host) for c, a in lobes]
    return Finding("lesion", f"strength {strength:.2f}", (*parts, Part("lesion", (whole,), tissue, region.host)))


def decoy(region: Region, now) -> Finding:
    """A small dense benign spot."""
    radius = now.uniform(*region.decoy_radius)
    shape = Ellipsoid.of(region.decoy_place(now), varied(now, (radius,) * 3, 0.15))
    tissue = region.host.towards(region.decoy, now.uniform(0.5, 1.0))
    return Finding("decoy", f"radius {radius:.1f} mm", (Part("decoy", (shape,), tissue, region.host),))
