"""What one scan's predicted mask is worth beside the true one, structure by structure.

Where a structure is in neither mask, Dice, NSD and HD95 are not defined: the scan does not count for it. Where it is in one
alone, Dice and NSD are 0 and HD95 is infinite: a failure, which no mean of distances can hold and which is counted beside
it instead. ``surface-distance`` gives the same values, but an infinite HD95 for two empty masks too. MONAI leaves a scan
out of Dice wherever the structure is not in the true mask, also if it was predicted there, and its HD95 is nan or
infinite with a warning where one mask is empty; what becomes of it in a mean is the caller's affair. Here a model that
marks what is not there pays for it, and none gains by missing what is hard to outline: studies compare by Dice and NSD, and
refuse HD95, whose mean is over other scans in each arm.

What the true mask leaves unmarked (255) counts on neither side.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.evaluate import surface
from vitmed.infer import Model, truth
from vitmed.scans.layout import UNMARKED

Array = np.ndarray

QUANTITIES = ("dice", "nsd", "hd95", "voxels")
TOLERANCE = 1.0  # of NSD, millimetres, or pixels where no spacing is known


def dice(one: Array, other: Array) -> float:
    """Dice's coefficient of two masks (*S) bool: twice what they share over what they hold; nan where both are empty."""
    held = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / held if held else float("nan")


def judge(
    truth: Array, predicted: Array, structures: int, spacing: Sequence[float], tolerance: float = TOLERANCE
) -> tuple[Array, Array, Array]:
    """One scan's numbers.

    Args:
        truth: (*S) class indices, 0 background, ``UNMARKED`` where nobody has looked.
        predicted: (*S) class indices.
        structures: K, how many classes there are beside the background.
        spacing: (n) millimetres a voxel, array order; ones give distances in pixels.
        tolerance: of NSD, in the unit of ``spacing``.

    Returns:
        (4 K,) float64: Dice of every structure, then NSD, HD95 and predicted voxels, nan where not defined, HD95 infinite
        where one mask is empty; (K,) true voxels; (K,) weights: 0 where the whole scan is unmarked, else 1.
    """
    looked = truth != UNMARKED
    score = np.full((len(QUANTITIES), structures), np.nan)
    voxels = np.zeros(structures)
    for k in range(structures):
        one, other = truth == k + 1, (predicted == k + 1) & looked
        found = surface.surfaces(one, other, tuple(spacing))
        score[:, k] = (
            dice(one, other),
            surface.nsd(found, tolerance),
            surface.hausdorff(found),
            int(other.sum()),
        )
        voxels[k] = int(one.sum())
    return score.ravel(), voxels, np.full(structures, float(looked.any()), np.float32)


def spacings(spacing: Array) -> tuple[Array, str]:
    """Millimetres a voxel of each scan and "mm", or ones and "pixels" where any scan's spacing is not known.

    Args:
        spacing: (m, n) millimetres, nan where unknown; of float32 the shortest decimals that it stands for, as 0.8.
    """
    if np.isfinite(spacing).all():
        return np.array([[float(str(mm)) for mm in row] for row in np.asarray(spacing)]).reshape(
            np.shape(spacing)
        ), "mm"
    return np.ones(np.shape(spacing)), "pixels"


def failures(
    score: Array, label: Array, known: Array, structures: Sequence[str]
) -> dict[str, dict[str, int]]:
    """How often each structure was where, in scans with a true mask.

    Args:
        score, label, known: (m, 4 K), (m, K) and (m, K) as ``judge`` gives them of each scan.

    Returns:
        {structure: {"scans" (that count for it), "neither" (neither marked nor predicted), "missed" (marked, nothing
        predicted), "invented" (predicted, not marked)}}
    """
    there = np.asarray(label) > 0
    said = np.asarray(score).reshape(len(there), len(QUANTITIES), -1)[:, QUANTITIES.index("voxels")] > 0
    known = np.asarray(known) > 0
    return {
        name: {
            "scans": int((known & (there | said))[:, k].sum()),
            "neither": int((known & ~there & ~said)[:, k].sum()),
            "missed": int((known & there & ~said)[:, k].sum()),
            "invented": int((known & ~there & said)[:, k].sum()),
        }
        for k, name in enumerate(structures)
    }


class Judging:
    """The numbers of a split's scans, one after another, so that no two masks need be held at once.

    Args:
        data, split: whose true masks and spacings.
        structures: names of the classes, from 1.
        tolerance: of NSD.

    Attributes:
        unit: of the tolerance and of HD95: "mm" or "pixels".
    """

    def __init__(self, data: Dataset, split: str, structures: Sequence[str], tolerance: float = TOLERANCE):
        self._data, self._split, self._tolerance = data, split, tolerance
        self._structures = list(structures)
        self._spacing, self.unit = spacings(data.spacings(split))
        self._rows: list[tuple[Array, Array, Array]] = []

    def add(self, index: int, predicted: Array) -> None:
        """Judges what was predicted for a scan, (*S) class indices, beside its true mask."""
        true = truth(self._data, self._split, index)
        known = np.full(predicted.shape, UNMARKED, np.uint8) if true is None else true
        spacing = self._spacing[index]
        self._rows.append(judge(known, predicted, len(self._structures), spacing, self._tolerance))

    @property
    def notes(self) -> list[str]:
        """What a person should hear of the unit."""
        if self.unit == "mm":
            return []
        return ["the spacing of scans is not known: NSD's tolerance and HD95 are in pixels"]

    def stacked(self) -> tuple[Array, Array, Array]:
        """What ``judge`` gave of each scan, in the order they were added: (m, 4 K), (m, K), (m, K)."""
        score, label, weight = (np.stack(rows) for rows in zip(*self._rows, strict=True))
        return score, label, weight

    def counted(self) -> dict:
        """What belongs beside the numbers: ``tolerance`` of NSD with its ``unit``, and ``failures``."""
        return {
            "tolerance": {"value": self._tolerance, "unit": self.unit},
            "failures": failures(*self.stacked(), self._structures),
        }


def judged(
    model: Model,
    data: Dataset,
    split: str,
    indices: Array | None = None,
    tolerance: float = TOLERANCE,
    advance: Callable[[], None] = lambda: None,
) -> Judging:
    """The numbers of what a run marks in the scans of a split, or those of ``indices``.

    Args:
        advance: called after each scan.

    Raises:
        InputError: as ``Model.probabilities``.
    """
    judging = Judging(data, split, model.structures, tolerance)
    for index, predicted in model.segment(data, split, indices):
        judging.add(index, predicted)
        advance()
    return judging
