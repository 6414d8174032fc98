"""The datasheet: what a dataset holds, what was refused and why, and what its numbers look like."""

import json
from collections import Counter
from pathlib import Path

import numpy as np

import vitmed
from vitmed.data import duplicates
from vitmed.data.annotations import Labels
from vitmed.data.exposed import FACE, TEXT
from vitmed.data.prepare import BINS
from vitmed.data.splits import NAMES, Splits
from vitmed.errors import InputError
from vitmed.scans.layout import UNMARKED
from vitmed.scans.recipe import unit_of, window_of
from vitmed.scans.scan import Refusals

FILE = "datasheet.json"
PAGE = "datasheet.html"
SIZE_BINS = 24  # of the histograms of sizes and spacings


def make(
    *,
    name: str,
    modality: str,
    dtype: np.dtype,
    metas: list,
    labels: Labels,
    splits: Splits,
    seed: int,
    dedupe: bool,
    ids: list[str],
    patients: list[str],
    sites: list[str],
    cluster: list[int],
    privacy: dict,
    plan: dict,
    series: list[dict],
    history: list[dict],
    refused: Refusals,
    notes: list[str],
    simulated: bool,
    structures: dict[str, list[int]],
    content_hash: str,
    chunk: tuple[int, ...] | None = None,
) -> dict:
    """The datasheet of a set, as it is written to ``datasheet.json``.

    Args:
        metas: one ``Stored`` or ``Kept`` an example, in the order of the other lists.
        ids, patients: as the dataset calls them.
        cluster: of each example, by ``duplicates.clusters``.
        privacy: what is said of pseudonyms, beside what pixels expose.
        plan: how files were read, and what was done to every scan.
        series: ``id`` and why it was ``chosen``, of each scan that a rule for series chose.
        history: earlier states of a set that was appended to or withdrawn from.
        refused: (file, reason, detail).
        structures: the values of each structure in the masks, by its name; {} where nobody named them.
        content_hash: SHA-256 over the records.
        chunk: shape of the chunks that images are stored in, None where they are stored whole.
    """
    digests = [m.digest for m in metas]
    used = [n for n in NAMES if n in set(splits.split)]
    torn = duplicates.contradictions(digests, labels.label, labels.weight, ids) if labels.task else []
    near = duplicates.contradictions(cluster, labels.label, labels.weight, ids) if labels.task else []
    told = {scan for group in torn for scan in group}  # the cluster of an exact contradiction is no other one
    train = [m for m, s in zip(metas, splits.split, strict=True) if s == "train"] or metas
    return {
        "format": 1,
        "name": name,
        "vitmed": vitmed.__version__,
        "modality": modality,
        "unit": unit_of(modality),
        "window": list(window_of(modality)),
        "channels": metas[0].shape[-1],
        "size": list(metas[0].shape[:-1]),
        "spacing": _common_spacing(metas),
        "dtype": dtype.name,
        "task": labels.task,
        "classes": labels.classes,
        "class_counts": {n: _class_counts(labels, [s == n for s in splits.split]) for n in used},
        "unlabelled": {n: _unlabelled(labels, [s == n for s in splits.split]) for n in used},
        "examples": {n: splits.split.count(n) for n in used},
        "patients": {n: _patients(patients, splits.split, n) for n in used},
        "sites": {n: _sites(sites, splits.split, n) for n in used},
        "sizes": _sizes(metas),
        "spacings": _spacings(metas),
        "refused": dict(sorted(Counter(reason for _, reason, _ in refused).items())),
        "refused_files": [
            {"file": file, "reason": f"{reason}: {detail}" if detail else reason}
            for file, reason, detail in refused
        ],
        "intensity": _intensity(train, window_of(modality)),
        "splits": {
            "how": splits.how,
            "by": splits.by,
            "seed": seed,
            "dedupe": dedupe,
            "too_few": splits.too_few,
        },
        "masks": any(m.mask_bytes for m in metas),
        "structures": structures,
        **_marked(metas, structures),
        "duplicates": duplicates.count(digests, splits.split),
        "duplicate_groups": duplicates.groups(digests, ids)[: duplicates.SHOWN],
        "near_duplicates": duplicates.count_near(digests, cluster, splits.split),
        "near_duplicate_groups": duplicates.near_groups(digests, cluster, ids)[: duplicates.SHOWN],
        "contradictions": len(torn),
        "near_contradictions": sum(told.isdisjoint(group) for group in near),
        "contradiction_groups": near[: duplicates.SHOWN],
        "privacy": privacy
        | {
            name: sorted(i for i, m in zip(ids, metas, strict=True) if name in m.exposed)
            for name in (TEXT, FACE)
        },
        "plan": plan,
        "series": series,
        "history": history,
        "notes": notes,
        "simulated": simulated,
        "content_hash": content_hash,
        # Only where there are any, so that sets stored whole are what they were before there were chunks.
        **({} if chunk is None else {"chunk": list(chunk)}),
    }


def read(dataset: str | Path) -> dict:
    """The datasheet of a dataset folder.

    Raises:
        InputError: no such folder, or one without a readable datasheet of format 1.
    """
    dataset = Path(dataset)
    path = dataset / FILE
    if dataset.is_file():
        raise InputError(f"{dataset} is a file; a dataset is a folder, made with `vitmed ingest`")
    if not dataset.is_dir():
        raise InputError(
            f"dataset {dataset} does not exist; make it with `vitmed ingest SOURCE --out {dataset}`"
        )
    try:
        sheet = json.loads(path.read_text())
        version = sheet["format"]
    except FileNotFoundError:
        raise InputError(
            f"{dataset} is not a vitmed dataset (it has no {FILE}); make one with `vitmed ingest`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a datasheet ({error}); run `vitmed ingest` again") from None
    if version != 1:
        raise InputError(f"{dataset} is a dataset of format {version}; vitmed here reads format 1: update it")
    return sheet


def _sites(sites: list[str], splits: list[str], name: str) -> dict[str, int]:
    return dict(sorted(Counter(t for t, s in zip(sites, splits, strict=True) if s == name).items()))


def _sizes(metas: list) -> list[dict]:
    """A histogram an axis of the voxels that the files had."""
    sizes = np.array([m.read_size for m in metas], np.int64)
    return [_histogram(axis, whole=True) for axis in sizes.T]


def _spacings(metas: list) -> dict:
    """A histogram an axis of the millimetres that the files had, and how many did not say."""
    spacing = np.array([m.read_spacing for m in metas], np.float64)
    known = np.isfinite(spacing).all(axis=1)
    axes = [_histogram(axis) for axis in spacing[known].T] if known.any() else []
    return {"unknown": int((~known).sum()), "axes": axes}


def _histogram(values: np.ndarray, whole: bool = False) -> dict:
    low, high = float(values.min()), float(values.max())
    if whole:
        step = max(1, -(-int(high - low + 1) // SIZE_BINS))
        edges = np.arange(low - 0.5, high + step, step)
    else:
        margin = 0.0 if high > low else 0.05 * (abs(low) or 1.0)
        edges = np.linspace(low - margin, high + margin, (SIZE_BINS if high > low else 1) + 1)
    return {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist()}


def _common_spacing(metas: list) -> list[float] | None:
    spacing = np.array([m.spacing for m in metas], float)
    if not np.isfinite(spacing).all() or np.abs(spacing / spacing[0] - 1).max() > 1e-3:
        return None
    return [float(f"{s:.6g}") for s in spacing[0]]


def _class_counts(labels: Labels, chosen: list[bool]) -> dict[str, int]:
    label, weight = labels.label[chosen], labels.weight[chosen]
    if labels.task == "multiclass":
        held = label[weight[:, 0] > 0, 0]
        return {name: int((held == i).sum()) for i, name in enumerate(labels.classes)}
    if labels.task == "multilabel":
        return {name: int((label[:, i] * weight[:, i]).sum()) for i, name in enumerate(labels.classes)}
    return {name: int((weight[:, i] > 0).sum()) for i, name in enumerate(labels.classes)}


def _unlabelled(labels: Labels, chosen: list[bool]) -> int:
    return int((labels.weight[chosen] == 0).all(axis=1).sum())


def _patients(patients: list[str], splits: list[str], name: str) -> int | None:
    held = [p for p, s in zip(patients, splits, strict=True) if s == name]
    return len(set(held)) if all(held) else None


def _marked(metas: list, structures: dict[str, list[int]]) -> dict[str, dict]:
    """How many scans have a mask, and how many hold each structure; a value that nobody named is its own name."""
    held = [set(m.marked) - {UNMARKED} for m in metas if m.marked is not None]
    if not any(m.mask_bytes for m in metas):
        return {}
    named = {value for values in structures.values() for value in values}
    others = {str(v): [v] for v in sorted(set().union(*held) - named - {0})}
    counts = {
        name: sum(not h.isdisjoint(values) for h in held) for name, values in (structures | others).items()
    }
    return {"marked": {"scans": sum(map(bool, held)), "structures": counts}}


def _intensity(metas: list, window: tuple[float, float]) -> dict:
    """Mean and spread per channel over all voxels, and the histogram, of clipped units."""
    voxels = sum(int(np.prod(m.shape[:-1])) for m in metas)
    mean = np.sum([m.total for m in metas], axis=0) / voxels
    variance = np.sum([m.square for m in metas], axis=0) / voxels - np.square(mean)
    std = np.sqrt(np.maximum(variance, 0.0))
    return {
        "mean": mean.tolist(),
        # A set of one grey level has no spread to divide by.
        "std": np.where(std > 1e-6 * (window[1] - window[0]), std, 1.0).tolist(),
        "histogram": {
            "edges": np.linspace(*window, BINS + 1).tolist(),
            "counts": sum((m.histogram for m in metas), np.zeros(BINS, np.int64)).tolist(),
        },
    }
