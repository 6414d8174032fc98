"""The scans themselves, voxel by voxel, as they were when their difficulty was set.

A result on phantoms means something only beside another on the same phantoms: whoever changes a contrast, a
draw or a filter makes new data, and must say so by making new goldens.
"""

from pathlib import Path

import numpy as np
import pytest

from vitmed.phantoms.example import example
from vitmed.pool import one_thread

GOLDEN = Path(__file__).parents[1] / "goldens" / "phantoms.npz"
# Patients 0 to 2, scan 1 of seed 3: normal, lesion and paired are among them.
CASES = {
    "xray 2D": (24, 24), "ct 2D": (24, 24), "ct 3D": (8, 16, 16), "mr 2D": (24, 24), "mr 3D": (8, 16, 16),
    "ultrasound 2D": (24, 24),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_scans_are_the_goldens(case):
    """The same patients must be as hard to read as they were: to the bit on one kind of machine, and but for
    a rounding in a thousand voxels where another processor's exp and sums end in another last bit."""
    golden = np.load(GOLDEN)
    with one_thread():
        made = [example(case.split()[0], 3, patient, 1, CASES[case]).picture for patient in range(3)]
    images, truth = np.stack([m.image for m in made]), np.stack([m.truth for m in made])
    assert images.dtype == golden[case].dtype and np.array_equal(truth, golden[case + " truth"])
    off = np.abs(images.astype(int) - golden[case])
    assert off.max() <= 1 and (off > 0).mean() <= 1e-3
