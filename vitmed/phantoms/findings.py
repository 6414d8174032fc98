"""Disease, decoys, and the class that two distant findings decide together.

Classes, in every modality:

- `lesion` (.3): one mass of diseased tissue with two lobes. One in seven is iso-intense: it has the tissue of
  its surroundings and shows by a thin capsule alone.
- `paired` (.3): two faint patches on **opposite** sides, one upper, one lower.
- `normal` (.4): neither.

Everybody has one upper and one lower patch. In `normal` and `lesion` both are on the same side. Each of the
four places is thus taken in half the scans of every class, and each scan has two patches: no place, no count
and no bag of local findings tells `paired` from the rest; only the two together do. Benign decoys
(calcifications; cysts in ultrasound; Poisson, 1.2 a scan) are small and dense.

**How hard, and why.** Set from measured contrasts and from looking at the pictures; not to be tuned to a
result. No network was trained before it was set, but it was not set in one go, nor blind: contrasts were
raised after the first pictures, lowered when lesions measured a CNR of 6 against an intended 2 to 3, and
raised again (with the lower patches moved clear of the diaphragm and the display brightened) when findings
could not be seen and a fixed blob detector gave .3 to .6 of its own deviation. By then the linear controls
of controls.py had been fitted to the X-rays once, at AUROCs of .47 to .50.

The contrast-to-noise ratio (CNR) is the peak contrast over the root sum of squares of measurement noise and
of the clutter that small anatomy (ribs, vessels) makes in its place. Rose's criterion asks a detectability of
5 of a single known shape in white noise, and a structured background asks more (Burgess, Jacobson & Judy,
"Human observer detection experiments with mammograms and power-law noise", Med. Phys. 28, 2001). So lesions
span CNR 3 to 10, iso-intense ones lie near 2, and patches near 6, so that `paired` is hard for its
conjunction and not for its contrast. Medians over patients, measured on these phantoms
(tests/phantoms/test_difficulty.py measures those of X-ray in 2D and 3D and of ultrasound volumes; for CT, MR
and ultrasound, the mean contrast over the finding takes the place of the peak):

- X-ray (5.9 mm pixels; line integrals p): lesions of radius 10-20 mm and .5 to 1 of a solid nodule's density
  add p = .45 (.24 to .68) over 15 pixels; iso-intense ones .15; patches .43 over 37; decoys .13 over 2.
  Photons give .016 at site A and .022 at B; clutter .067. CNR: lesion 6.5 (3.5 to 10), iso-intense 2.2, patch
  6, decoy 2. Heart, diaphragm, breasts and build move p by .3 to 3: a fixed blob detector (difference of
  Gaussians, in the lung) sees a lesion at 1.2 to 1.3 of its own deviation, a patch at .7 to .8, an
  iso-intense lesion at .4.
- CT (12.5 mm voxels): lesion +310 to +360 HU, patch +290 to +310 (partial volume takes a third), noise 3 (A)
  and 9 (B), clutter 20 to 30: CNR 13 to 15 and 10 to 13, over 10 and 36 voxels. The easiest of the four.
- MR (7.5 mm voxels; relative to white matter's signal): lesion +.6, patch +.45; noise .03 to .04, clutter
  .10: CNR 5 to 6 and 3 to 4, over 13 to 21 voxels.
- Ultrasound (fully developed speckle of 5.6 dB): lesion -8 to -16 dB over 110 pixels, patch -7 to -10 dB over
  120: CNR 1.8 and 1.4 a pixel, whose neighbours share their speckle.
- Tomosynthesis (X-ray in 3D; attenuation in units of water's, noise and clutter where the finding is above
  half its height). At 32 x 16 x 32 (12 x 15 x 12 mm): lesion .12 (.06 to .17) over 21 voxels, patch .10 over
  90; noise .0013 at site A and .002 at B, clutter .007 and .009. CNR: lesion 18 (5 to 29) and 14 (4 to 26),
  patch 17 and 9. At 64 x 24 x 64 (site A): lesion .17 over 130, patch .10 over 560, noise .003, clutter
  .016; CNR 11 and 5.6. So coarse voxels make the small anatomy vanish, not the findings harder to see.
  Iso-intense lesions: .05 to .11 and CNR 5 to 7, from one patient alone.
- Ultrasound volumes (1.6 mm voxels, eight points a voxel, speckle of 4 dB): lesion -4.4 dB over 63 voxels,
  patch -5 dB over 210, decoy -2 to -4 dB over 8; CNR 1.1, 1.3 and .7 to 1.1 a voxel, each with its own
  speckle along the sweep. Contrasts are lower than the picture's, as a larger part of a finding is boundary,
  which echoes.

The two new kinds took the bodies, the findings' tissues and sizes and the sites' beams as they were: no
contrast was set for them, and what is said above is what came of it.

Build, pose, breathing, heart, devices and site move every pixel by more than any finding does: few labels
teach little. The intent is an AUROC near .9 with very many labels, since iso-intense lesions and those behind
the heart or a dome remain; it is a guess from these contrasts, and has not been measured.
"""

import dataclasses

import numpy as np

from vitmed.phantoms.anatomy import Part, Region, varied
from vitmed.phantoms.streams import stream
from vitmed.physics.ellipsoids import Ellipsoid, rotation

CLASSES = ("normal", "lesion", "paired")
FREQUENCY = (0.4, 0.3, 0.3)
PERSISTENCE = (
    0.5  # chance that a scan shows the patient's own class; else it is drawn afresh: disease comes and goes
)
ISO_INTENSE = 1 / 7
CODES = {"lesion": 1, "patch": 2, "decoy": 3}  # in truth masks; 0 is none


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
    """One finding: its kind (a key of CODES), a word on it, and the parts it is made of, the outermost
    first."""

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
    """All findings of one scan of class `name`, in the region's own frame. A patient's lesion and patches
    keep their place from scan to scan; decoys and a few mm of each come with the scan."""
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
    tissue = region.host.towards(region.diseased, own.uniform(0.45, 0.6))
    return Finding("patch", place, (Part("patch", (shape,), tissue, region.host),))


def lesion(region: Region, own, now) -> Finding:
    """A mass with two lobes, or one that only its capsule shows."""
    centre = region.lesion_place(own)
    radius = own.uniform(*region.lesion_radius)
    axes = varied(own, (radius,) * 3, 0.12) * now.uniform(0.95, 1.1)
    turn = rotation(*own.uniform(-40, 40, 3))
    strength, iso = own.uniform(0.5, 1.0), own.random() < ISO_INTENSE
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
    return Finding(
        "lesion", f"strength {strength:.2f}", (*parts, Part("lesion", (whole,), tissue, region.host))
    )


def decoy(region: Region, now) -> Finding:
    """A small dense benign spot."""
    radius = now.uniform(*region.decoy_radius)
    shape = Ellipsoid.of(region.decoy_place(now), varied(now, (radius,) * 3, 0.15))
    tissue = region.host.towards(region.decoy, now.uniform(0.5, 1.0))
    return Finding("decoy", f"radius {radius:.1f} mm", (Part("decoy", (shape,), tissue, region.host),))
