"""What a rendered scan is, and the sums over parts that the modalities share."""

import dataclasses

import numpy as np

from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.findings import CODES, Finding
from vitmed.phantoms.tissues import Tissue
from vitmed.physics.ellipsoids import Ellipsoid, points


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """One scan: image (*S,) in the integers that a file stores, truth (*S,) uint8 with the codes of
    `findings.CODES`, spacing (mm, array order)."""

    image: np.ndarray
    truth: np.ndarray
    spacing: tuple[float, ...]


def attenuations(parts: list[Part]) -> tuple[list[tuple[Ellipsoid, ...]], list[float]]:
    """The bodies of all parts and the X-ray attenuation each adds to its host's, in units of water's."""
    values = [p.tissue.attenuation_of_water() - p.host.attenuation_of_water() for p in parts]
    return [p.body for p in parts], values


def truth_on_grid(findings: list[Finding], size, spacing) -> np.ndarray:
    """The findings' codes where a cell's centre lies in them; a 2D grid is the plane z = 0.

    The cell that holds a finding's own centre is always marked, so that none is too small to have a mask.
    """
    where = points(size, spacing)
    if len(size) == 2:
        where = np.concatenate([np.zeros((*size, 1)), where], -1)
    truth = np.zeros(size, np.uint8)
    for finding in reversed(findings_by_code(findings)):
        for part in finding.parts:
            inside = np.all([e.level(where) < 1 for e in part.body], axis=0)
            truth[inside] = CODES[finding.kind]
        mark_centre(truth, finding, finding.parts[-1].body[0].centre[-len(size) :], spacing)
    return truth


def mark_centre(truth: np.ndarray, finding: Finding, centre, spacing) -> None:
    """Write the finding's code into the cell that holds `centre` (mm), where the grid has it."""
    shape = np.array(truth.shape)
    cell = np.floor(np.asarray(centre) / spacing + shape / 2).astype(int)
    if ((cell >= 0) & (cell < shape)).all():
        truth[tuple(cell)] = CODES[finding.kind]


def findings_by_code(findings: list[Finding]) -> list[Finding]:
    """Lesions first: where findings overlap, the lowest code is written last and stays."""
    return sorted(findings, key=lambda f: CODES[f.kind])


def shapes(parts: list[Part], dimension: int) -> list[tuple[Ellipsoid, Tissue, Tissue]]:
    """Parts of one ellipsoid each as (shape, tissue, host): whole in 3D, cut by the plane z = 0 in 2D."""
    if dimension == 2:
        return sections(parts)
    return [(p.body[0], p.tissue, p.host) for p in parts]


def sections(parts: list[Part], position: float = 0.0) -> list[tuple[Ellipsoid, Tissue, Tissue]]:
    """Parts of one ellipsoid each, cut by the plane z = position: (ellipse, tissue, host) of those it
    meets."""
    cut = [(p.body[0].section(position), p.tissue, p.host) for p in parts]
    return [(ellipse, tissue, host) for ellipse, tissue, host in cut if ellipse is not None]
