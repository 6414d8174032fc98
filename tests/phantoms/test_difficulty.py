"""How hard the X-ray phantoms and the volumes of tomosynthesis and ultrasound are, measured from physics, as
their docstring says.

This guards the numbers from being tuned: whoever changes a contrast changes this test, and sees why not to.
"""

import numpy as np
from scipy.ndimage import binary_dilation

from vitmed.phantoms import tomosynthesis, ultrasound, xray
from vitmed.phantoms.example import example
from vitmed.phantoms.findings import findings
from vitmed.phantoms.picture import attenuations, truth_on_grid
from vitmed.phantoms.streams import stream
from vitmed.physics.projector import (
    Views,
    detector,
    filtered_backprojection,
    limited_angles,
    line_integrals,
)

SMALL = {"rib", "vessel", "clavicle", "scapula", "hilum", "electrode", "lead"}


def test_contrast_to_noise_is_as_documented():
    """Lesion 6.5, patch 6 at the median, iso-intense lesions near 2: neither given away nor hidden."""
    pitch = xray.FIELD / 64
    views = Views.along_y(detector(64, pitch), detector(64, pitch))

    def project(parts):
        return xray.WATER * line_integrals(*attenuations(parts), views)[0]

    ratios = {"lesion": [], "patch": [], "iso-intense": []}
    for patient in range(40):
        now = stream(0, "pose", "xray", patient, 0)
        region = xray.REGION(stream(0, "body", patient), now, False)
        turn, shift = xray.pose(now, False)
        parts = [p.moved(turn, shift) for p in region.parts]
        through = project(parts)
        clutter = project([p for p in parts if p.name in SMALL])
        for finding in findings(region, "lesion", 0, "xray", patient, 0):
            kind = "iso-intense" if finding.detail == "iso-intense" else finding.kind
            if kind == "decoy":
                continue
            added = project(finding.moved(turn, shift).parts)
            there = added > added.max() / 4
            counted = xray.SITES["A"]["dose"] * np.exp(-through[there]) * (1 + xray.SITES["A"]["scatter"])
            noise = np.hypot(clutter[there].std(), np.mean(counted**-0.5))
            ratios[kind].append(added.max() / noise)
    lesion, patch, iso = (np.quantile(ratios[k], (0.1, 0.5, 0.9)) for k in ("lesion", "patch", "iso-intense"))
    assert 5 < lesion[1] < 8.5 and lesion[0] < 5
    assert 4.5 < patch[1] < 8
    assert 1 < iso[1] < 3.5


def test_contrast_to_clutter_in_tomosynthesis_is_as_documented():
    """What is added to a plane, over what ribs and vessels of all depths leave there."""
    size, arc = (32, 16, 32), np.radians(tomosynthesis.SITES["A"]["arc"])
    spacing = tuple(f / n for f, n in zip(tomosynthesis.FIELD, size, strict=True))
    rays = Views.tilted(limited_angles(21, arc), detector(64, spacing[0]), detector(32, spacing[2]))

    def planes(parts):
        integrals = line_integrals(*attenuations(parts), rays)
        return filtered_backprojection(
            integrals, spacing[0], size[1::-1], spacing[1::-1], 0.7, arc, tomosynthesis.FIELD[1]
        )

    ratios = {"lesion": [], "patch": []}
    for patient in range(10):
        now = stream(0, "pose", "xray", patient, 0)
        region = xray.REGION(stream(0, "body", patient), now, False)
        turn, shift = xray.pose(now, False)
        clutter = planes([p.moved(turn, shift) for p in region.parts if p.name in SMALL])
        for finding in findings(region, "lesion", 0, "xray", patient, 0):
            if finding.kind != "decoy" and finding.detail != "iso-intense":
                added = planes(finding.moved(turn, shift).parts)
                ratios[finding.kind].append(added.max() / clutter[added > added.max() / 2].std())
    lesion, patch = np.median(ratios["lesion"]), np.median(ratios["patch"])
    print(lesion, patch)
    assert 10 < lesion < 28 and 11 < patch < 24


def test_contrast_in_an_ultrasound_volume_is_as_documented():
    """Patches lie some dB below the gland beside them, in speckle of some dB."""
    size, below, speckle = (24, 24, 24), [], []
    for patient in range(8):
        made = example("ultrasound", 0, patient, 0, size)
        shown = made.picture.image / 255 * ultrasound.SITES[made.site]["range"]
        for finding in made.findings[:2]:
            inside = truth_on_grid([finding], size, made.picture.spacing) > 0
            beside = binary_dilation(inside, iterations=2) & (made.picture.truth == 0)
            beside &= inside.any((0, 2))[:, None]  # not above it, not in its shadow
            below.append(shown[beside].mean() - shown[inside].mean())
            speckle.append(shown[beside].std())
    print(np.median(below), np.median(speckle))
    assert 3.5 < np.median(below) < 6.5 and 2.8 < np.median(speckle) < 5
