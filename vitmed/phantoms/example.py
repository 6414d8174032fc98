"""One simulated scan, as a function of (modality, seed, patient, scan, size) and of nothing else."""

import dataclasses

from vitmed.errors import InputError
from vitmed.phantoms import ct, mr, tomosynthesis, ultrasound, xray
from vitmed.phantoms.findings import Finding, findings, label
from vitmed.phantoms.picture import Picture
from vitmed.phantoms.streams import stream

# By modality and dimension.
SCANNERS = {
    "xray": {2: xray, 3: tomosynthesis},
    "ct": {2: ct, 3: ct},
    "mr": {2: mr, 3: mr},
    "ultrasound": {2: ultrasound, 3: ultrasound},
}
SIZES = {"xray": (64, 64), "ct": (32, 32, 32), "mr": (32, 32, 32), "ultrasound": (64, 64)}


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """A scan and everything that is true of it."""

    picture: Picture
    label: str
    patient: str
    site: str
    findings: tuple[Finding, ...]


def patient_name(seed: int, patient: int) -> str:
    """The pseudonym of a patient; the same body in every modality of one seed."""
    return f"S{seed}P{patient:05d}"


def check(modality: str, size) -> tuple[int, ...]:
    """The size to make, the modality's own where `size` is None. InputError for what is not simulated."""
    if modality not in SCANNERS:
        raise InputError(f"modality {modality!r} is not simulated: choose one of {', '.join(SCANNERS)}")
    size = SIZES[modality] if size is None else tuple(int(n) for n in size)
    if len(size) not in SCANNERS[modality] or min(size) < 8:
        kinds = " or ".join(f"{n}D" for n in SCANNERS[modality])
        raise InputError(f"size {size} does not suit {modality}: give {kinds}, at least 8 along each axis")
    return size


def example(modality: str, seed: int, patient: int, scan: int, size=None) -> Example:
    """Scan number `scan` of patient number `patient`: always the same, whatever else is made."""
    size = check(modality, size)
    scanner, flat = SCANNERS[modality][len(size)], len(size) == 2 and modality != "xray"
    name = label(seed, modality, patient, scan)
    now = stream(seed, "pose", modality, patient, scan)
    region = scanner.REGION(stream(seed, "body", patient), now, flat)
    turn, shift = scanner.pose(now, flat)
    found = [f.moved(turn, shift) for f in findings(region, name, seed, modality, patient, scan)]
    parts = [p.moved(turn, shift) for p in region.parts]
    site = "AB"[stream(seed, "site", patient).integers(2)]
    noise = stream(seed, "noise", modality, patient, scan)
    picture = scanner.render(parts, found, size, site, noise)
    return Example(picture, name, patient_name(seed, patient), site, tuple(found))
