"""What a reader of a study's table must know: labels that count beside the budget, what was tried, whose luck is in it."""

from typing import Any

from vitmed import words
from vitmed.evaluate.score import few
from vitmed.study.plan import Plan

_TOLD = ("no patient", "only ", "guard:")  # notes of evaluations that tables say in words of their own
_NO_THRESHOLD = ("auroc", "average_precision", "sensitivity_at_90_specificity", "ece")


def beside(planned: Plan, facts: dict[str, Any], results: dict[str, dict]) -> dict[str, Any]:
    """The labels that every training read beside its budget, and what for.

    Returns:
        ``labels``: how many, in a fold; ``why``: what they decided, [] where they decided nothing.
    """
    config, why = planned.config, []
    yes_no = [m for m in config.study.metrics if m.partition("/")[0] not in _NO_THRESHOLD]
    from_val = any(found.get("threshold_from") == "val" for found in results.values())
    if config.study.threshold == "val" and from_val and yes_no:
        why.append(f"the threshold of {words.listed([words.metric(m) for m in yes_no])}")
    if config.tune is not None and config.tune.by == "val" and config.tried > 1:
        why.append("the choice of settings")
    if config.study.checkpoint == "best":
        why.append("the choice of the checkpoint")
    each = round(facts["validation"] / len({cell.fold for cell in planned.cells}))
    return {"labels": each if why else 0, "why": why}


def notes(
    planned: Plan, table: dict, facts: dict, opened: dict[str, int], results: dict[str, dict]
) -> list[str]:
    """The notes below a table, the protocol first.

    Args:
        results: of each cell's evaluation, by its name.
    """
    study = planned.config.study
    again = [name for name, times in opened.items() if times > 1]
    made = [
        f"The {study.split} split was opened once in every cell, after all else about it was fixed."
        if not again
        else f"The {study.split} split was opened more than once in {words.listed(again)}."
    ]
    if study.split != "test":
        made.append(
            "These numbers are of a split that choices are made on: they are for choosing, not for reporting."
        )
    made += [_labels(planned, table, facts), _tried(planned), *_published(planned), *_guarded(planned, table)]
    made += [*_baselines(table), *_several(table), *facts["notes"]]
    if table["patients"] is None:
        made.append("Patients are not known: intervals are by image and probably too narrow.")
    else:
        made += [words.capital(note) + "." for note in few(table["patients"])]
    made += _luck(planned, table)
    for budget in study.budgets:
        labels = next(r["labels_per_draw"] for r in table["rows"] if r["budget"] == budget)
        if min(labels) != max(labels):
            made.append(
                f"{words.capital(words.budget(budget))}: whole patients are labelled, "
                f"{min(labels)} to {max(labels)} scans a draw."
            )
        elif isinstance(budget, float) and budget >= 1 and study.draws_of[budget] > 1:
            made.append("With all labels the draws differ in their seed alone.")
    if max(table["folds"]) > 1:
        made.append(
            "Metrics are computed in each fold and averaged, weighted by scans: the folds' models have no common scale."
        )
    return made + [words.capital(note) + "." for note in _alike(planned, results)]


def _alike(planned: Plan, results: dict[str, dict]) -> list[str]:
    """What the evaluations of all cells say, then what those of one fold say: the rest is of single models."""
    of_fold: dict[int, list[list[str]]] = {}
    for cell in planned.cells:
        said = [note for note in results[cell.name].get("notes", []) if not note.startswith(_TOLD)]
        of_fold.setdefault(cell.fold, []).append(said)
    shared = {fold: _shared(said) for fold, said in of_fold.items()}
    everywhere = _shared(list(shared.values()))
    return everywhere + [
        f"fold {fold}: {note}" for fold, said in shared.items() for note in said if note not in everywhere
    ]


def _shared(said: list[list[str]]) -> list[str]:
    return [note for note in said[0] if all(note in other for other in said)]


def _labels(planned: Plan, table: dict, facts: dict) -> str:
    beside, by = table["beside"], planned.config.study.threshold
    if beside["labels"]:
        return (
            f"Beside its budget every cell used {words.plural(beside['labels'], 'label')} of the validation split, which "
            f"count: for {words.listed(beside['why'])}."
        )
    inside = {
        "budget": ": thresholds were cross-validated within it",
        "half": ": thresholds are 0.5",
    }.get(by, "")
    used = "decided anything by" if facts["probed"] else "used"
    return f"No cell {used} a label beyond its budget{inside}."


def _tried(planned: Plan) -> str:
    config = planned.config
    if config.tried == 1:
        return "Every arm has one setting; what was tried before this study is not known to it."
    how = (
        f"cross-validated in {config.tune.folds} parts of its own label budget"
        if config.tune.by == "budget"
        else "on validation"
    )
    return (
        f"Every arm tried {config.tried} settings in every cell, chosen by {words.metric(config.study.metrics[0])} {how}; "
        "what was tried before this study is not known to it."
    )


def _published(planned: Plan) -> list[str]:
    if not planned.left_out:
        return []
    baselines = words.listed([planned.label(arm) for arm in planned.config.study.baselines])
    return [
        f"No published encoder took part (config.study.published): the baselines are {baselines}."
        if baselines
        else "No published encoder took part (config.study.published)."
    ]


def _guarded(planned: Plan, table: dict) -> list[str]:
    """How often the guard of each guarded arm kept supervised fine-tuning instead."""
    made = []
    for arm in planned.config.arms:
        cells = [cell for cell in table["cells"] if cell["arm"] == arm and cell["guard"]]
        if not cells:
            continue
        asked = planned.config.arms[arm].config["objective"]["name"]
        instead = [cell for cell in cells if cell["guard"] != asked]
        where = []
        for budget in planned.config.study.budgets:
            of = [cell for cell in cells if cell["budget"] == budget]
            count = sum(cell in instead for cell in of)
            if count:
                where.append(f"{count} of {len(of)} cells with {words.budget(budget)}")
        made.append(
            f"{planned.label(arm)}: the guard trained {instead[0]['guard']} instead in {words.listed(where)}, where "
            f"{asked} was not better in cross-validation within the label budget."
            if instead
            else f"{planned.label(arm)}: the guard never stepped in; {asked} was better in cross-validation within the "
            f"label budget in all {len(cells)} cells."
        )
    return made


def _baselines(table: dict) -> list[str]:
    labels = {row["arm"]: row["label"] for row in table["rows"]}
    told = []
    for budget, found in zip(table["budgets"], table["baselines"].values()):
        others = [
            f"{labels[arm]} {words.number(value)}"
            for arm, value in found["validation"].items()
            if arm != found["arm"]
        ]
        if others:
            own = words.number(found["validation"][found["arm"]])
            told.append(f"{found['label']} ({own}; {', '.join(others)}) with {words.budget(budget)}")
    if not told:
        return []
    metric = words.metric(table["metrics"][0])
    return [
        f"The best baseline, chosen by its mean {metric} on validation: {words.listed(told)}. No arm learned from that."
    ]


def _several(table: dict) -> list[str]:
    count = sum(c["metric"] == table["metrics"][0] for c in table["comparisons"])
    if count < 2:
        return []
    return [
        f"There are {count} comparisons: each interval is 95% by itself, not adjusted, and what holds after Holm's correction "
        "for their number is said with each."
    ]


def _luck(planned: Plan, table: dict) -> list[str]:
    study, made = planned.config.study, []
    alone = [
        budget
        for budget, draws, folds in zip(table["budgets"], table["draws"], table["folds"])
        if draws * folds == 1
    ]
    if alone:
        made.append(
            f"There is one draw{_with(alone, study.budgets)}: intervals do not hold the luck of which scans were labelled, nor of the seed."
        )
    if not planned.pretrains:
        return made
    each = "one pretraining" + " of each" * (len({cell.pretraining for cell in planned.pretrains}) > 1)
    # Of folds the pretrainings differ too; of draws that begin from one after the other several are needed to see it.
    runs = list(zip(table["budgets"], table["draws"], table["folds"]))
    hold = [budget for budget, draws, folds in runs if folds > 1 or min(study.pretrain_seeds, draws) > 1]
    lack = [budget for budget, draws, folds in runs if budget not in hold and draws > 1]
    if lack:
        seeds = {
            c.config.get("train", {}).get("seed", 0)
            for c in planned.pretrains
            if c.source == 0 and c.fold < 2
        }
        seed = words.listed([str(seed) for seed in sorted(seeds)])
        made.append(
            f"All draws{_with(lack, study.budgets)} start from {each} (seed {seed}): intervals do not hold its own luck."
        )
    if study.pretrain_seeds > 1 and hold:
        made.append(
            f"Each pretraining was made {words.times(study.pretrain_seeds)}, and the draws start from one after the other: "
            f"intervals{_with(hold, study.budgets)} hold its luck."
        )
    return made


def _with(some: list[int | float], budgets: tuple[int | float, ...]) -> str:
    """`` with 5% of the labels``, or nothing where it is of all budgets."""
    return "" if len(some) == len(budgets) else f" with {words.listed([words.budget(b) for b in some])}"
