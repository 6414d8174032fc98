"""The spacing and size that suit a set, from the spacings and sizes of its scans.

As nnU-Net plans a set (Isensee et al., Nature Methods 18, 203, 2021): the median spacing of each axis; where the
largest of them is over three times the smallest, the 10th percentile on that axis, though no finer than the
others, so that few scans are blurred. The size is the median extent at that spacing, rounded up to whole patches.
"""

import dataclasses

import numpy as np

from vitmed.data.prepare import Plan
from vitmed.errors import InputError
from vitmed.scans.measure import Measured, measure
from vitmed.scans.scan import Refused, Source

AUTO = "auto"
ANISOTROPIC = 3.0  # times the smallest median spacing
PATCH = {2: 16, 3: 8}  # pixels or voxels a side that the configs cut a scan into


def measured(sources: list[Source]) -> dict[str, Measured]:
    """Size and spacing of each scan whose header has no fault; the others are refused when they are read."""
    found = {}
    for source in sources:
        try:
            found[source.id] = measure(source)
        except Refused:
            continue
    return found


def resolved(plan: Plan, sources: list[Source], spacing: bool, size: bool) -> Plan:
    """The plan with what is asked to be chosen by the set, and why.

    Args:
        spacing, size: whether each is to be chosen.

    Raises:
        InputError: nothing to measure, images and volumes in one set, or a spacing that is not known.
    """
    if not (spacing or size):
        return plan
    flags = " and ".join(f"--{name} auto" for name, asked in (("spacing", spacing), ("size", size)) if asked)
    scans = measured(sources)
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


def advice(sources: list[Source], plan: Plan) -> str:
    """The flags that bring a set whose sizes differ to one size, for a person to take or to change."""
    scans = measured(sources)
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
