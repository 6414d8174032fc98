"""The datasheet of a dataset as one self-contained page: its scans, its numbers, its faults."""

from pathlib import Path
from typing import Any

import numpy as np

import vitmed
from vitmed import durable, words
from vitmed.data.dataset import Dataset
from vitmed.data.datasheet import PAGE
from vitmed.report import charts, gather, page, pictures, planes, sections

_CLUSTERS = 12  # shown with pictures
_MEMBERS = 5  # of each
_FILES = 500  # refused files listed
_SERIES = 100  # chosen series listed


def write(dataset: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page of ``dataset`` to ``out`` (``DATASET/datasheet.html`` if None) and returns its path.

    Raises:
        InputError: no such dataset, or a shard of it is damaged.
        MachineError: the disk is full or refuses.
    """
    found = gather.dataset(Path(dataset))
    out = Path(dataset) / PAGE if out is None else Path(out)
    sheet = found["sheet"]
    series = sheet.get("series") or []
    split = pictures.shown_split(found["opened"])
    context = {
        "title": f"Datasheet of {sheet['name']}",
        "banner": words.SIMULATED if sheet.get("simulated") else "",
        "d": sections.dataset(found, pictures.samples(found["opened"], split)),
        "split": split,
        "volumes": planes.volumes(found["opened"], split),
        "structures": _structures(sheet),
        "tiles": _tiles(sheet),
        "sizes": _sizes(sheet),
        "spacings": _spacings(sheet),
        "spacing_unknown": (sheet.get("spacings") or {}).get("unknown", 0),
        "sites": _sites(sheet),
        "near": [words.copies(w, n) for w, n in (sheet.get("near_duplicates") or {}).items() if n],
        "near_known": "near_duplicates" in sheet,
        "torn": _clusters(found["opened"], sheet.get("contradiction_groups") or []),
        "alike": _clusters(found["opened"], sheet.get("near_duplicate_groups") or []),
        "contradictions": sheet.get("contradictions", 0),
        "near_contradictions": sheet.get("near_contradictions", 0),
        "privacy": _privacy(sheet),
        "chosen": [{"file": s["id"], "reason": s["chosen"]} for s in series[:_SERIES]],
        "chosen_total": len(series),
        "refused_files": (sheet.get("refused_files") or [])[:_FILES],
        "history": sheet.get("history") or [],
        "hash": sheet["content_hash"],
        "made": sheet.get("vitmed", ""),
        "seed": (sheet.get("splits") or {}).get("seed"),
        "version": vitmed.__version__,
    }
    durable.write_text(out, page.environment().get_template("datasheet.html").render(context))
    return out


def _tiles(sheet: dict[str, Any]) -> list[tuple[str, str]]:
    patients = [n for n in sheet["patients"].values()]
    across = sum(
        n for key in ("duplicates", "near_duplicates") for w, n in (sheet.get(key) or {}).items() if "/" in w
    )
    return [
        _tile(sum(sheet["examples"].values()), "scan", "scans"),
        _tile(None if None in patients else sum(patients), "patient", "patients"),
        _tile(sum((sheet.get("refused") or {}).values()), "file refused", "files refused"),
        (words.count(across), "copies and near-duplicates across splits"),
    ]


def _tile(n: int | None, one: str, many: str) -> tuple[str, str]:
    return words.count(n), one if n == 1 else many


def _structures(sheet: dict[str, Any]) -> list[dict[str, str]]:
    """What masks hold: name, number of scans, and the colour it is shown in."""
    values = {name: many[0] for name, many in (sheet.get("structures") or {}).items()}
    return [
        {
            "name": name if name in values else f"value {name}",
            "scans": words.plural(n, "scan"),
            "colour": "#" + bytes(pictures.colour_of(values[name] if name in values else int(name))).hex(),
        }
        for name, n in (sheet.get("marked") or {}).get("structures", {}).items()
    ]


def _axes(count: int) -> tuple[str, ...]:
    return ("rows", "columns") if count == 2 else ("slices (z)", "rows (y)", "columns (x)")


def _sizes(sheet: dict[str, Any]) -> list[dict]:
    sizes = sheet.get("sizes") or []
    return _histograms(sizes, "pixels" if len(sizes) == 2 else "voxels")


def _spacings(sheet: dict[str, Any]) -> list[dict]:
    return _histograms((sheet.get("spacings") or {}).get("axes") or [], "mm")


def _histograms(held: list[dict], unit: str) -> list[dict]:
    """A histogram an axis, or the one value that all scans have."""
    made = []
    for name, h in zip(_axes(len(held)), held, strict=False):
        same = f"{sum(h['edges']) / 2:.4g}" if len(h["counts"]) == 1 else ""
        chart = None if same else charts.histogram(h["edges"], h["counts"], f"{name}, {unit}")
        made.append({"name": name, "unit": unit, "same": same, "chart": chart})
    return made


def _sites(sheet: dict[str, Any]) -> list[tuple[str, list[int]]]:
    held = sheet.get("sites") or {}
    names = sorted({site for split in held.values() for site in split})
    if names in ([], [""]):
        return []
    return [(name or "unknown", [held[split].get(name, 0) for split in held]) for name in names]


def _privacy(sheet: dict[str, Any]) -> list[str]:
    held = sheet.get("privacy")
    if held is None:
        return ["This dataset was made by an older vitmed, which stored patient ids as they were given."]
    said = []
    if held["pseudonyms"]:
        said.append(
            f"Patients are pseudonyms: keyed hashes ({held['pseudonyms']}), made with key {held['key']}."
        )
    if held["hidden_ids"]:
        said.append(
            f"{words.plural(held['hidden_ids'], 'id')} had parts that showed the patient; these are hashes too."
        )
    for name, what in (
        ("text", "likely with text burned into the pixels"),
        ("face", "of a head likely with its face"),
    ):
        scans = held.get(name) or []
        if scans:
            first = ", ".join(scans[:3]) + (" ..." if len(scans) > 3 else "")
            said.append(f"{words.plural(len(scans), 'scan')} {what}: {first}; datasheet.json lists all.")
        else:
            said.append(f"No scan {what} was noticed.")
    return said


def _clusters(dataset: Dataset, groups: list[list[str]]) -> list[dict[str, Any]]:
    """The first clusters with pictures of their scans, each with its split and label."""
    shown = groups[:_CLUSTERS]
    wanted = {scan for group in shown for scan in group[:_MEMBERS]}
    if not wanted:
        return []
    task, classes = dataset.datasheet["task"], dataset.datasheet["classes"]
    made = {}
    for split in dataset.splits:
        at = np.array([k for k, scan in enumerate(dataset.ids(split)) if scan in wanted], int)
        if not len(at):
            continue
        images = pictures.displayed(pictures.flat(dataset, split, at), dataset.datasheet["window"])
        label, weight = dataset.labels(split)
        for image, k in zip(images, at, strict=True):
            named = task == "multiclass" and weight[k, 0] > 0
            made[dataset.ids(split)[k]] = {
                "src": pictures.data_uri(pictures.picture(image)),
                "text": f"{split}, {classes[int(label[k, 0])]}" if named else split,
            }
    return [
        {
            "images": [{"id": scan, **made[scan]} for scan in group[:_MEMBERS]],
            "more": len(group) - len(group[:_MEMBERS]),
        }
        for group in shown
    ]
