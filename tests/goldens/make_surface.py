"""Makes surface.npz: what the reference implementation ``surface-distance`` says of masks that stay here as rules.

  pip install surface-distance-based-measures && python tests/goldens/make_surface.py ../shared/data

In the file: ``area/SPACING`` (256,) or (16,) sizes of surface elements by code (bit i for the i-th corner of
``itertools.product``), and for each case ``CASE`` (8,): Dice, NSD at .5, 1 and 2.5 mm, robust Hausdorff distance at 50, 95 and
100 percent, and the mean distance from the first surface to the second. The cases are phantoms, and hippocampi of real
scans beside what is left of them when they are moved, thinned or grown; of these only numbers are in the file.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

FILE = Path(__file__).with_name("surface.npz")
SPACINGS = ((1.0, 1.0, 1.0), (3.0, 0.7, 0.9), (0.5, 2.1, 1.3), (1.0, 1.0), (0.4, 1.7))
TOLERANCES, PERCENTS = (0.5, 1.0, 2.5), (50.0, 95.0, 100.0)
VOLUMES = ("001", "033", "204")


def phantoms() -> dict[str, tuple]:
    """{case: (one, other, spacing)}: blobs and ellipses, smooth and ragged, also against the edge of the array."""
    draw = np.random.Generator(np.random.Philox(key=5))
    found = {}
    for spacing in SPACINGS:
        size = (13, 18, 15)[: len(spacing)]
        for width in (0.6, 2.0):
            noise = (ndimage.gaussian_filter(draw.standard_normal(size), width) for _ in range(2))
            found[f"blobs/{spacing}/{width}"] = (*(n > n.std() * 0.4 for n in noise), spacing)
        at = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(size, spacing)), indexing="ij"))
        middle = np.mean(at.reshape(len(size), -1), axis=1).reshape(-1, *(1,) * len(size))
        reach = np.array(at).max(axis=tuple(range(1, at.ndim)), keepdims=True) / 2
        ball = (((at - middle) / reach) ** 2).sum(axis=0) < 0.7
        found[f"ball/{spacing}"] = (ball, np.roll(ball, 2, axis=0), spacing)
        found[f"point/{spacing}"] = (ball, np.indices(size).sum(axis=0) == 0, spacing)
    return found


def hippocampi(data: Path) -> dict[str, tuple]:
    """The same of real masks; ``data`` is the folder of real scans."""
    import nibabel

    found = {}
    for number, spacing in zip(VOLUMES, SPACINGS[:3], strict=True):
        volume = nibabel.load(data / "hippocampus" / "labels" / f"hippocampus_{number}.nii.gz")
        mask = np.asarray(volume.dataobj)
        for value in (1, 2):
            one = mask == value
            others = {
                "moved": np.roll(one, (1, -2, 1), axis=(0, 1, 2)),
                "thinned": ndimage.binary_erosion(one),
                "grown": ndimage.binary_dilation(one, iterations=2),
            }
            for how, other in others.items():
                found[f"hippocampus_{number}/{value}/{how}"] = (one, other, spacing)
    return found


def _reference():
    """The package, for NumPy and SciPy of today, which have other names for some of what it uses."""
    vars(np)["Inf"] = np.inf
    ndimage.filters = ndimage.morphology = ndimage
    from surface_distance import lookup_tables, metrics

    return lookup_tables, metrics


def make(data: Path) -> dict[str, np.ndarray]:
    """The arrays of the file, computed now."""
    tables, metrics = _reference()
    arrays = {}
    for spacing in SPACINGS:
        if len(spacing) == 3:
            kernel, table = (
                tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL,
                tables.create_table_neighbour_code_to_surface_area,
            )
        else:
            kernel, table = (
                tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL,
                tables.create_table_neighbour_code_to_contour_length,
            )
        sizes, corners = table(np.array(spacing)), list(itertools.product((0, 1), repeat=len(spacing)))
        theirs = [
            sum(int(np.array(kernel)[c]) for i, c in enumerate(corners) if code >> i & 1)
            for code in range(2 ** len(corners))
        ]
        arrays[f"area/{spacing}"] = np.array(sizes)[theirs]
    for name, (one, other, spacing) in {**phantoms(), **hippocampi(data)}.items():
        found = metrics.compute_surface_distances(one, other, spacing)
        arrays[name] = np.array(
            [
                metrics.compute_dice_coefficient(one, other),
                *(metrics.compute_surface_dice_at_tolerance(found, t) for t in TOLERANCES),
                *(metrics.compute_robust_hausdorff(found, p) for p in PERCENTS),
                metrics.compute_average_surface_distance(found)[0],
            ]
        )
    return arrays


if __name__ == "__main__":
    np.savez_compressed(FILE, **make(Path(sys.argv[1])))
