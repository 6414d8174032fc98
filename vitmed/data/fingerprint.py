"""The spacing and size that suit a set, from the spacings and sizes of its scans.

As nnU-Net plans a set (Isensee et al., Nature Methods 18, 203, 2021): the median spacing of each axis; where the
largest of them is over three times the smallest, the 10th percentile on that axis, though no finer than the
others, so that few scans are blurred. The size is the median extent at that spacing, rounded up to whole patches.
A patch whose sides are of about equal millimetres follows from the two.
"""

import contextlib
import dataclasses

import numpy as np

from vitmed.data.prepare import Plan
from vitmed.errors import InputError
from vitmed.progress import Bar
from vitmed.scans.measure import Measured, measure
from vitmed.scans.scan import Refused, Source

AUTO = "auto"
ANISOTROPIC = 3.0  # times the smallest median spacing
PATCH = {2: 16, 3: 8}  # pixels or voxels a side that the configs cut a scan into
GRID = {2: 7, 3: 4}  # patches a side below which a small scan has smaller ones
UNEVEN = 1.1  # times the smallest spacing of an axis, from which volumes are said to differ
_FITS = 2.0  # times the side that was wanted, or a part of it, up to which a divisor of the size will do


def measured(sources: list[Source], progress: bool = False) -> dict[str, Measured]:
    """Size and spacing of each scan whose header has no fault; the others are refused when they are read."""
    found = {}
    with Bar("measuring", len(sources), "scans", quiet=not progress) as bar:
        for source in sources:
            with contextlib.suppress(Refused):
                found[source.id] = measure(source)
            bar.advance()
    return found


def resolved(plan: Plan, sources: list[Source], spacing: bool, size: bool, progress: bool = False) -> Plan:
    """The plan with what is asked to be chosen by the set, and why.

    Args:
        spacing, size: whether each is to be chosen.
        progress: whether to show on standard error how many are measured.

    Raises:
        InputError: nothing to measure, images and volumes in one set, or a spacing that is not known.
    """
    if not (spacing or size):
        return plan
    flags = " and ".join(f"--{name} auto" for name, asked in (("spacing", spacing), ("size", size)) if asked)
    scans = measured(sources, progress)
    if not scans:
        raise InputError(f"{flags} found no scan that can be measured; see what is refused without it")
    _one_dimension(scans, flags)
    why = []
    if spacing:
        unknown = [scan for scan, (_, mm) in scans.items() if mm is None]
        if unknown:
            raise InputError(
                f"{flags} needs to know the spacing of every scan; {len(unknown)} of {len(scans)} do not tell it, "
                f"first {unknown[0]}"
            )
        chosen, reason = spacing_of(np.array([mm for _, mm in scans.values()]))
        plan = dataclasses.replace(plan, spacing=chosen)
        why.append(reason)
    if size:
        chosen, reason = size_of(list(scans.values()), plan.spacing)
        plan = dataclasses.replace(plan, size=chosen)
        why.append(reason)
    return dataclasses.replace(plan, why=f"Chosen by {flags} from {len(scans)} scans: {'; '.join(why)}.")


def advice(sources: list[Source], plan: Plan, progress: bool = False) -> str:
    """The flags that bring a set whose sizes differ to one size, for a person to take or to change."""
    scans = measured(sources, progress)
    try:
        _one_dimension(scans, "")
    except InputError:
        return "some are images and some volumes, which go apart; or give --size and those that do not fit are refused"
    spacing, flags, auto = plan.spacing, "", "--size auto"
    known = [mm for _, mm in scans.values() if mm is not None]
    if spacing is None and len(known) == len(scans) and np.ptp(known, axis=0).max() > 1e-3 * np.max(known):
        spacing, _ = spacing_of(np.array(known))
        flags, auto = f"--spacing {_list(spacing)} ", "--spacing auto --size auto"
    size, _ = size_of(list(scans.values()), spacing)
    return f"by the medians of its {len(scans)} scans give {flags}--size {_list(size)}, which {auto} does too"


def spacing_of(spacings: np.ndarray) -> tuple[tuple[float, ...], str]:
    """The spacing for a set, and why.

    Args:
        spacings: (scans, n) millimetres in array order.
    """
    chosen = np.median(spacings, axis=0)
    reason = f"spacing {_list(chosen)} mm is the median"
    worst, least = int(chosen.argmax()), float(chosen.min())
    if chosen[worst] > ANISOTROPIC * least:
        median = chosen[worst]
        tenth = float(np.percentile(spacings[:, worst], 10))
        chosen[worst] = max(tenth, np.delete(chosen, worst).max())
        reason = (
            f"spacing {_list(chosen)} mm is the median, but on axis {worst}, whose median of {median:.4g} is over "
            f"{ANISOTROPIC:g} times the smallest, the 10th percentile"
        )
    return tuple(float(f"{v:.4g}") for v in chosen), reason


def size_of(scans: list[Measured], spacing: tuple[float, ...] | None) -> tuple[tuple[int, ...], str]:
    """The size for a set that is resampled to ``spacing`` (None: is not), and why."""
    extents = np.array([size for size, _ in scans], float)
    if spacing is not None:
        at = np.array([(spacing if mm is None else mm) for _, mm in scans])
        extents = np.maximum(1, np.rint(extents * at / np.array(spacing)))
    median = np.median(extents, axis=0)
    patch = PATCH[len(median)]
    size = tuple(int(patch * np.ceil(m / patch)) for m in median)
    where = "" if spacing is None else " at that spacing"
    return size, f"size {_list(size)} is the median {_list(median)}{where}, rounded up to patches of {patch}"


def patch_for(sheet: dict) -> tuple[tuple[int, ...], tuple[float, ...] | None] | None:
    """The patch that suits a ViT on a dataset, and its sides in millimetres, or None where no divisors of its size do.

    It has as many voxels as a cube of ``PATCH``, or of ``GRID`` patches along the mean side of a smaller scan. The sides
    are those divisors of the size that come nearest to equal millimetres, so where slices are thick a patch has fewer.

    Args:
        sheet: its datasheet. Where spacings vary, the middle of what the files had decides, and the millimetres are None.
    """
    size, spacing = sheet["size"], sheet["spacing"]
    if size is None:
        return None
    held = (sheet.get("spacings") or {}).get("axes") or []
    mm = np.array(spacing or [_middle(axis) for axis in held] or [1.0] * len(size))
    side = min(PATCH[len(size)], _mean(size) / GRID[len(size)])
    wanted = np.maximum(1.0, side * _mean(mm) / mm)
    patch = tuple(
        min(_divisors(n), key=lambda d, w=w: abs(np.log(d / w))) for n, w in zip(size, wanted, strict=True)
    )
    if np.abs(np.log(patch / wanted)).max() > np.log(_FITS):
        return None
    sides = [p * s for p, s in zip(patch, spacing, strict=True)] if spacing else None
    return patch, None if sides is None else tuple(float(f"{s:.3g}") for s in sides)


def uneven(spacings: np.ndarray) -> str:
    """What is to be said of volumes that are stored at the spacings they came with, where these differ clearly; else "".

    Args:
        spacings: (scans, n) millimetres in array order, nan where unknown.
    """
    known = spacings[np.isfinite(spacings).all(axis=1)]
    if spacings.shape[1] < 3 or not len(known) or (known.max(0) / known.min(0)).max() <= UNEVEN:
        return ""
    found = " x ".join(
        f"{low:.3g}" if high <= UNEVEN * low else f"{low:.3g}..{high:.3g}"
        for low, high in zip(known.min(0), known.max(0), strict=True)
    )
    chosen, _ = spacing_of(known)
    return (
        f"Volumes are {found} mm a voxel and are stored as they came, so that one organ has different sizes: "
        f"--spacing {_list(chosen)}, which --spacing auto takes too, brings them to one."
    )


def _mean(values) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _middle(histogram: dict) -> float:
    """The middle of the bin that holds the median."""
    edges, counts = np.array(histogram["edges"]), np.cumsum(histogram["counts"])
    at = int(np.searchsorted(counts, counts[-1] / 2))
    return float(edges[at] + edges[at + 1]) / 2


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _one_dimension(scans: dict[str, Measured], flags: str) -> None:
    first: dict[int, str] = {}
    for scan, (size, _) in scans.items():
        first.setdefault(len(size), scan)
    if len(first) > 1:
        raise InputError(
            f"{flags}: {first[2]} is an image and {first[3]} a volume, which have no size in common; ingest them apart"
        )


def _list(values) -> str:
    return ",".join(f"{v:.4g}" for v in values)
