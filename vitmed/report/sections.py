"""What stands in each section of the page, as plain values for the template."""

from pathlib import Path
from typing import Any

from vitmed import words
from vitmed.data import fingerprint
from vitmed.report import charts
from vitmed.report.provenance import relative

_REFUSED_SHOWN = 20
_BY_GROUP = (
    "dice",
    "nsd",
    "hd95",
    "auroc",
    "balanced_accuracy",
    "sensitivity_at_90_specificity",
    "ece",
    "mae",
    "r2",
    "pearson",
)


def dataset(found: dict[str, Any], samples: list[dict]) -> dict[str, Any]:
    """A dataset: facts, splits, classes, what was refused, sample scans."""
    sheet = found["sheet"]
    spacing = sheet["spacing"]
    facts = [
        ("modality", words.MODALITIES.get(sheet["modality"], sheet["modality"])),
        ("size", words.size(sheet["size"]) + _channels(sheet["channels"])),
        ("spacing", words.size(spacing, "mm") if spacing else "not known"),
        ("values", f"{sheet['dtype']}, {_unit(sheet)}"),
    ]
    if suits := patch(sheet):
        facts.append(("patch of a ViT", suits))
    splits = sheet.get("splits") or {}
    if splits.get("how"):
        by = f", by {splits['by']}" if splits.get("by") else ""
        waits = "all to train, too few yet for " * splits.get("too_few", False)
        facts.append(("split", f"{waits}{splits['how']}{by}"))
    if set(found["sites"]) - {""}:
        facts.append(
            ("sites", ", ".join(f"{site or 'unknown'}: {n:,}" for site, n in sorted(found["sites"].items())))
        )
    if sheet.get("task"):
        facts.append(("labels", f"{sheet['task']}: {', '.join(sheet['classes'])}"))
    if sheet.get("marked"):
        scans = f"{sheet['marked']['scans']:,} of {sum(sheet['examples'].values()):,} scans"
        facts.append(("masks", f"{scans}: {structures(sheet)}"))
    if sheet.get("chunk"):
        facts.append(("stored", f"in chunks of {words.size(sheet['chunk'])}"))
    refused = sheet.get("refused") or {}
    histogram = sheet["intensity"].get("histogram") or {"edges": [], "counts": []}
    classes = list(
        dict.fromkeys(name for split in (sheet.get("class_counts") or {}).values() for name in split)
    )
    return {
        "name": sheet["name"],
        "facts": facts,
        "classes": classes,
        "splits": [
            {
                "name": name,
                "examples": n,
                "patients": (sheet["patients"] or {}).get(name),
                "counts": [(sheet["class_counts"] or {}).get(name, {}).get(c) for c in classes],
            }
            for name, n in sheet["examples"].items()
        ],
        "patients_known": any((sheet["patients"] or {}).values()) or splits.get("by") == "patient",
        "refused": sorted(refused.items(), key=lambda item: -item[1]),
        "refused_files": (sheet.get("refused_files") or [])[:_REFUSED_SHOWN],
        "refused_total": sum(refused.values()),
        "samples": samples,
        "histogram": charts.histogram(histogram["edges"], histogram["counts"], _unit(sheet)),
        "copies": [words.copies(where, n) for where, n in (sheet.get("duplicates") or {}).items() if n],
        "notes": sheet.get("notes") or [],
    }


def structures(sheet: dict[str, Any]) -> str:
    """What masks hold and in how many scans, as one line: ``1 anterior (260), 2 posterior (258)``."""
    values = {name: " ".join(map(str, many)) + " " for name, many in (sheet.get("structures") or {}).items()}
    counts = sheet["marked"]["structures"]
    told = (f"{values[n]}{n} ({k:,})" if n in values else f"value {n} ({k:,})" for n, k in counts.items())
    return ", ".join(told) or "nothing marked"


def pretraining(run: dict[str, Any], triples: dict[str, Any] | None, changed: bool) -> dict[str, Any]:
    """A pretraining run: what it does to scans, and its losses.

    Args:
        triples: what is shown of its reconstructions.
        changed: whether its dataset is another by now.
    """
    ratio = run["flat"].get("objective.mask_ratio")
    if isinstance(
        ratio, tuple
    ):  # of self-distillation, the least and the most, whose loss is not of hidden patches alone
        ratio, hidden = None, " to ".join(f"{100 * share:g}" for share in ratio)
    else:
        hidden = f"{100 * ratio:g}" if ratio else ""
    return {
        "name": ", ".join(filter(None, (run["datasheet"].get("name"), f"run {run['name']}"))),
        "objective": run["objective"],
        "facts": _model_facts(run) + ([("hidden", f"{hidden}% of the patches")] if hidden else []),
        "mask_ratio": ratio,
        "patchwise": run["flat"].get("objective.target") == "patch",
        "triples": triples,
        "changed": changed,
        "curves": charts.curves(run["curves"], "training steps", "loss (lower is better)"),
    }


def evaluated(run: dict[str, Any], outlines: list[dict[str, Any]]) -> dict[str, Any]:
    """A supervised run: its losses and each of its evaluations, with the ``outlines`` of each beside the numbers."""
    return {
        "name": run["name"],
        "facts": _model_facts(run),
        "curves": charts.curves(run["curves"], "training steps", "loss (lower is better)"),
        "evaluations": [
            _evaluation(e) | shown for e, shown in zip(run["evaluations"], outlines, strict=True)
        ],
    }


def study(found: dict[str, Any], home: Path) -> dict[str, Any]:
    """A study: the comparisons first, then its figures, its table and its cells."""
    metrics, budgets = found["metrics"], found["budgets"]
    rows = found["rows"]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    label = {row["arm"]: row["label"] for row in rows}
    at = {(row["budget"], row["arm"]): row for row in rows}
    first = metrics[0]
    compared = [c for c in found["comparisons"] if c["metric"] == first]
    lead = found["reference"] or next((c["arm"] for c in compared), arms[0])

    def points(arm):
        values = [at[b, arm]["metrics"][first] if (b, arm) in at else None for b in budgets]
        return [(v["value"], v["low"], v["high"]) if v and v["low"] is not None else None for v in values]

    columns = [
        f"{words.capital(words.budget(b))}\n{words.plural(at[b, arms[0]]['labels'], 'scan')}" for b in budgets
    ]
    forest = [_forest(found, c, arms) for c in compared if c["low"] is not None]
    title = f"{label[lead]} minus the other" if found["reference"] else "first minus second"
    return {
        "name": found["study"],
        "split": found["split"],
        "draws": words.draws(found["draws"]),
        "metrics": metrics,
        "first": first,
        "minus": found.get("minus", f"{label[lead]} minus it"),
        "judged": _judged(found),
        "patients": found["patients"],
        "comparisons": [
            {"text": c["sentence"], "class": _finding(found, c)}
            for c in found["comparisons"]
            if c["metric"] == first
        ],
        "corrected": any(c.get("holds") is not None for c in compared),
        "others": [c["sentence"] for c in found["comparisons"] if c["metric"] != first],
        # Of too few scans a metric may be undefined in every cell, or have no interval, which leaves nothing to draw.
        "efficiency": charts.efficiency(
            columns, [{"name": label[a], "points": points(a)} for a in arms], words.metric(first)
        )
        if any(p for a in arms for p in points(a))
        else None,
        "differences": charts.differences(forest, f"{title}, {words.metric(first)}", _margin(found, first))
        if forest
        else None,
        "margin": found.get("margin"),
        "groups": [_group(found, at, compared, budget, arms) for budget in budgets],
        "notes": found["notes"],
        "cells": [c | {"path": relative(found["path"] / c["run"], home)} for c in found["cells"]],
    }


def _judged(found: dict) -> str:
    """How many scans of how many patients: a budget that was run on fewer folds has fewer (older tables do not tell)."""
    rows = [found | row for row in found["rows"]]
    text = words.between([row["examples"] for row in rows], "scan")
    patients = [row["patients"] for row in rows]
    return text if None in patients else f"{text} of {words.between(patients, 'patient')}"


def _forest(found: dict, c: dict, arms: list[str]) -> dict[str, Any]:
    """A comparison as a row of the forest. Those of two budgets have a group of their own."""
    group = words.capital(words.budget(c["budget"]))
    if found["reference"] and c.get("main", True):
        name = f"\N{MINUS SIGN} {c['label']}"
    else:
        sides = [c["first_label"], c["second_label"]]
        if c["first_budget"] != c["second_budget"]:
            sides = [f"{s}, {words.share(c[f'{k}_budget'])}" for s, k in zip(sides, ("first", "second"))]
            group = "Across budgets"
        name = f"{sides[0]} \N{MINUS SIGN} {sides[1]}"
    given = {key: c[into] for key, into in (("value", "difference"), ("low", "low"), ("high", "high"))}
    return {
        "group": group,
        "name": name,
        "series": arms.index(c["arm"]),
        "real": c["favours"] is not None and c.get("holds") is not False,
        **given,
    }


def _finding(found: dict, c: dict) -> str:
    """How a sentence is marked: for its first side, against it, within the margin, or open."""
    said = c.get("verdict")
    if said is None and c["favours"] is not None:
        said = "better" if c["favours"] == found["reference"] else "worse"
    marked = {"better": "real", "worse": "against", "not worse": "within"}.get(said, "")
    return f"{marked} half" if c.get("holds") is False and said != "not worse" else marked


def _margin(found: dict, metric: str) -> float | None:
    """Where the line of the margin lies on the axis of differences."""
    margin = found.get("margin")
    return None if not margin else -margin if found["higher_is_better"][metric] else margin


def _group(
    found: dict, at: dict, compared: list[dict], budget: int | float, arms: list[str]
) -> dict[str, Any]:
    present = [arm for arm in arms if (budget, arm) in at]
    higher = found["higher_is_better"]
    best = {}
    for metric in found["metrics"]:
        values = {arm: at[budget, arm]["metrics"][metric]["value"] for arm in present}
        values = {arm: v for arm, v in values.items() if v is not None}
        best[metric] = (max if higher[metric] else min)(values, key=values.get) if values else None
    against = {c["arm"]: c for c in compared if c["budget"] == budget and c.get("main", True)}
    beside = at[budget, present[0]].get("labels_beside")
    return {
        "budget": words.share(budget),
        "labels": words.plural(at[budget, present[0]]["labels"], "scan"),
        "beside": f"+ {words.count(beside)} of validation" if beside else "",
        "rows": [
            {
                "label": at[budget, arm]["label"],
                **charts.look(arms.index(arm)),
                "scores": [
                    at[budget, arm]["metrics"][m] | {"best": best[m] == arm} for m in found["metrics"]
                ],
                "against": against.get(arm),
                "standing": at[budget, arm].get("standing", "reference"),
                "settings": at[budget, arm].get("settings", []),
            }
            for arm in present
        ],
    }


def _evaluation(found: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's numbers and what stands around them."""
    confusion = found.get("confusion") or {}
    if "counts" in confusion:
        tables = [{"title": "", "classes": confusion["classes"], "counts": confusion["counts"]}]
    else:
        by_column = confusion.get("columns", {})
        tables = [
            {"title": name, "classes": ["absent", "present"], "counts": c} for name, c in by_column.items()
        ]
    return {
        "split": words.split(found["split"], found["of"]),
        "content": found["content"],
        "checkpoint": found["checkpoint"],
        "examples": found["examples"],
        "patients": found.get("patients"),
        "opened": found.get("opened"),
        "notes": found.get("notes") or [],
        "thresholds": [
            f"{name} from {words.number(value)}" for name, value in (found.get("threshold") or {}).items()
        ],
        "threshold_from": found.get("threshold_from"),
        "metrics": [
            {"name": words.metric(name), "interval": None, **value}
            for name, value in found["metrics"].items()
        ],
        "intervals": found.get("intervals") or {},
        "structures": _structures(found) if found.get("task") == "segmentation" else None,
        "confusion": tables,
        "subgroups": [
            _subgroups(column, groups, found.get("notes") or [])
            for column, groups in (found.get("subgroups") or {}).items()
        ],
    }


def _structures(found: dict[str, Any]) -> dict[str, Any]:
    """The numbers of masks: a row a structure, and one for their mean."""
    unit = {"mm": "mm", "pixels": "px"}[found["tolerance"]["unit"]]
    heads = {"dice": "Dice", "nsd": f"NSD at {found['tolerance']['value']:g} {unit}", "hd95": f"HD95, {unit}"}
    nothing = {"value": None, "low": None, "high": None}

    def row(name, suffix, count):
        scores = [
            found["metrics"].get(f"{metric}{suffix}", nothing) | {"digits": 2 if metric == "hd95" else 3}
            for metric in heads
        ]
        counts = {key: count.get(key) for key in ("scans", "missed", "invented")}
        return {"name": name, "scores": scores, **counts}

    rows = [row(name, f"/{name}", count) for name, count in found["failures"].items()]
    return {"heads": list(heads.values()), "rows": rows + ([row("Mean", "", {})] if len(rows) > 1 else [])}


def _subgroups(column: str, groups: list[dict[str, Any]], said: list[str]) -> dict[str, Any]:
    """The groups of one column: a row each, with the few metrics that fit beside one another."""
    present = {name for group in groups for name in group["metrics"]}
    names = [name for name in _BY_GROUP if name in present]
    return {
        "column": column,
        "metrics": names,
        "rows": [
            {
                "group": group["group"] or "unknown",
                "examples": group["examples"],
                "patients": group["patients"],
                "too_small": group["too_small"],
                "scores": [group["metrics"].get(name) for name in names],
                "notes": [note for note in group["notes"] if note not in said],
            }
            for group in groups
        ],
    }


def _model_facts(run: dict[str, Any]) -> list[tuple[str, str]]:
    flat = run["flat"]
    facts = [("model", str(flat.get("model.variant")))]
    if flat.get("model.patch_size"):
        facts.append(("patch", words.size(flat["model.patch_size"])))
    # Of weights from a file nobody knows for how long they were trained.
    if batch := flat.get("train.batch_size"):
        facts.append(("trained", f"{words.plural(run['step'], 'step')} of {words.plural(batch, 'scan')}"))
    if flat.get("data.labels") is not None:
        facts.append(
            ("labels", f"{words.budget(flat['data.labels'])}, draw {flat.get('data.label_seed', 0)}")
        )
    elif run["learned_from"] is not None:
        facts.append(("learned from", words.plural(run["learned_from"], "scan")))
    return facts


def patch(sheet: dict[str, Any]) -> str:
    """The patch that suits a ViT on a dataset, as the flag that gives it: of about equal millimetres; "" where none does."""
    found = fingerprint.patch_for(sheet)
    if found is None:
        return ""
    sides, mm = found
    flag = f"--config.model.patch_size={','.join(map(str, sides))}"
    return f"{flag} ({words.size(mm, 'mm')})" if mm else flag


def _channels(n: int) -> str:
    return "" if n == 1 else f", {n} channels"


def _unit(sheet: dict[str, Any]) -> str:
    low, high = sheet["window"]
    return f"HU, {low:g} to {high:g}" if sheet["unit"] == "HU" else "relative intensity"
