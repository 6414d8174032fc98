"""Which arms are compared, and what each comparison comes to in one sentence.

A difference is real where its 95% interval excludes 0 and rests on more than one training of each side and on more than one
patient. "Not worse" is
never the absence of a difference but a stated margin that the whole interval clears (non-inferiority). Where there are
several comparisons, conclusions are given by themselves and after Holm's correction for how many there are, among those
of the study's first metric. A comparison that rests on one training has no p-value: it would hold no luck of training, be
the smallest for that, and leave less to correct in the others.
"""

import dataclasses
from typing import Any

from vitmed import words
from vitmed.evaluate.compare import chance, holm
from vitmed.runs.direction import lower_is_better
from vitmed.study.config import BEST
from vitmed.study.plan import Plan, sides

LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Pair:
    """First minus second. ``arm`` is the side whose row in the table tells of it; "" where no row does."""

    first: str
    first_budget: int | float
    second: str
    second_budget: int | float
    arm: str = ""


def pairs(planned: Plan, best: dict[int | float, str]) -> list[Pair]:
    """All comparisons of a study, each once.

    Args:
        best: the best baseline of each budget, {} where there are no baselines.
    """
    study, arms, found = planned.config.study, planned.config.arms, []
    for budget in study.budgets:
        for arm in arms:
            if study.reference and arm != study.reference:
                found.append(Pair(study.reference, budget, arm, budget, arm))
            if study.baselines and arm not in study.baselines:
                found.append(Pair(arm, budget, best[budget], budget, arm))
    for asked in study.compare:
        for first, one, second, other in sides(planned.config, asked):
            first, second = (best[b] if a == BEST else a for a, b in ((first, one), (second, other)))
            if (first, one) != (second, other):
                found.append(Pair(first, one, second, other))
    made: dict[tuple, Pair] = {}
    for pair in found:
        made.setdefault((pair.first, pair.first_budget, pair.second, pair.second_budget), pair)
    return list(made.values())


def verdict(found: dict[str, Any], higher: bool, margin: float, trainings: int) -> str:
    """``better``, ``worse``, ``not worse`` (non-inferior by ``margin``), ``open`` or ``unknown``, of the first side.

    Args:
        found: as ``vitmed.evaluate.compare.difference`` gives it.
        trainings: of the side that has fewer.
    """
    if found["value"] is None:
        return "unknown"
    if trainings == 1 or found["low"] is None:
        return "open"
    low = found["low"] if higher else -found["high"]
    high = found["high"] if higher else -found["low"]
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "not worse" if margin and low > -margin else "open"


def compare(planned: Plan, pair: Pair, metric: str, found: dict, folds: int, rows: dict) -> dict[str, Any]:
    """One comparison as ``table.json`` has it, its sentence to come (``conclude``).

    Args:
        found: of ``vitmed.evaluate.compare.difference``.
        folds: that both sides were run on.
        rows: of the table, by (budget, arm).
    """
    first, second = rows[pair.first_budget, pair.first], rows[pair.second_budget, pair.second]
    higher = not lower_is_better(metric)
    margin = planned.config.study.margin if metric == planned.config.study.metrics[0] else 0.0
    draws = [first["draws"], second["draws"]]
    trainings = min(draws) * folds
    said = verdict(found, higher, margin, trainings)
    arm, other = (second, first) if pair.arm == pair.second else (first, second)
    beyond = chance(found, *((-margin, "above") if higher else (margin, "below"))) if trainings > 1 else None
    return {
        "budget": arm["budget"],
        "labels": arm["labels"],
        "arm": arm["arm"],
        "label": arm["label"],
        "reference": other["arm"],
        "reference_label": other["label"],
        "main": bool(pair.arm),
        "metric": metric,
        **{
            f"{side}{key}": row[name]
            for side, row in (("first", first), ("second", second))
            for key, name in (("", "arm"), ("_label", "label"), ("_budget", "budget"), ("_labels", "labels"))
        },
        "difference": found["value"],
        "low": found["low"],
        "high": found["high"],
        "draws": draws,
        "folds": folds,
        "higher_is_better": higher,
        "margin": margin,
        "verdict": said,
        "real": said in ("better", "worse"),
        "favours": {"better": pair.first, "worse": pair.second}.get(said),
        "chance": chance(found) if trainings > 1 else None,
        # Doubled, so that both are judged at one level: the interval's two sides of 2.5% each.
        "chance_beyond_margin": min(1.0, 2 * beyond) if margin and beyond is not None else None,
        "examples": found["examples"],
        "patients": found["patients"],
    }


def conclude(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons of one metric with what Holm's correction leaves of each, and its sentence."""
    corrected = holm([c["chance"] for c in made])
    beyond = holm([c["chance_beyond_margin"] for c in made])
    concluded = []
    for c, one, other in zip(made, corrected, beyond, strict=True):
        used = one if c["real"] else other if c["verdict"] == "not worse" else None
        more = {
            "comparisons": len(made),
            "chance_holm": one,
            "holds": None if used is None else used < LEVEL,
        }
        concluded.append(c | more | {"sentence": sentence(c | more)})
    return concluded


def sentence(c: dict[str, Any]) -> str:
    """A comparison in plain words: which is better, by how much, how sure that is, and on how much it rests."""
    metric, margin = words.metric(c["metric"]), words.number(c["margin"])
    with_labels = [
        f"with {words.budget(c[f'{side}_budget'])} ({words.plural(c[f'{side}_labels'], 'scan')})"
        for side in ("first", "second")
    ]
    second = f"{c['second_label']} {with_labels[1]}"
    one_budget = c["first_budget"] == c["second_budget"]
    first = c["first_label"] if one_budget else f"{c['first_label']} {with_labels[0]}"
    if c["verdict"] == "unknown":
        return f"{first} and {second} cannot be compared in {metric} on these scans."
    signed = f"{words.number(c['difference'], sign=True)} {metric} {words.interval(c['low'], c['high'], sign=True)}"
    if c["real"]:
        side = 1 if c["higher_is_better"] == (c["verdict"] == "better") else -1
        low, high = sorted((side * c["low"], side * c["high"]))
        by = f"{words.number(side * c['difference'])} {metric} {words.interval(low, high)}"
        text = f"{first} is {c['verdict']} than {second} by {by}"
        if c["verdict"] == "worse" and c["margin"] and high < c["margin"]:
            text += f", though by no more than the margin of {margin} (non-inferior)"
    elif c["verdict"] == "not worse":
        text = (
            f"{first} is not worse than {second} by more than the margin of {margin} (non-inferior): "
            f"the difference is {signed}"
        )
    else:
        text = f"Whether {first} is better than {second} is not settled: the difference is {signed}"
        if min(c["draws"]) * c["folds"] == 1:
            text += ", and one draw does not tell what another would give"
        elif c["low"] is None:
            text += ", and one patient does not tell what others would give"
        elif c["margin"]:
            text += f", so that a loss of more than the margin of {margin} cannot be excluded"
    if c["comparisons"] > 1 and c["holds"] is not None:
        after = f"after Holm's correction for {c['comparisons']} comparisons"
        text += f"; {after} it {'holds' if c['holds'] else 'is not settled'}"
    return f"{text} ({_rests(c)})."


def _rests(c: dict[str, Any]) -> str:
    told = [words.plural(draws, "draw") for draws in c["draws"]]
    told = told[0] if len(set(told)) == 1 else f"{told[0]} and {told[1]}"
    if c["folds"] > 1:
        told += f" in each of {c['folds']} folds"
    told += f", {words.plural(c['examples'], 'image')}"
    if c["patients"] is None:
        return f"{told}; by image, since patients are not known, so it is probably too narrow"
    return f"{told} of {words.plural(c['patients'], 'patient')}"
