"""How hard the X-ray phantoms are, measured from physics, as their docstring says.

This guards the numbers from being tuned: whoever changes a contrast changes this test, and sees why not to.
"""

import numpy as np

from vitmed.phantoms import xray
from vitmed.phantoms.findings import findings
from vitmed.phantoms.picture import attenuations
from vitmed.phantoms.streams import stream
from vitmed.physics.projector import Views, detector, line_integrals

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
