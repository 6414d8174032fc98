"""The first lines of a report: what was found, said from the numbers and from nothing else."""

from typing import Any

from vitmed import words

_LOOSE = "which correction for several comparisons leaves unsettled"


def lead(datasets: list[dict], runs: list[dict], studies: list[dict]) -> list[str]:
    """A few plain sentences."""
    said = []
    for study in studies:
        said += _study(study)
    if not studies:
        said += [_run(run, test) for run in runs if run["supervised"] for test in run["evaluations"][:1]]
    pretrained = [run for run in runs if run["objective"] == "mae"]
    if not said and pretrained:
        said = [_pretrained(run) for run in pretrained]
    return said or [f"This page describes {words.listed([d['sheet']['name'] for d in datasets])}."]


def tiles(datasets: list[dict], runs: list[dict], studies: list[dict]) -> list[tuple[str, str]]:
    """Three or four numbers to know first: (number, what it is)."""
    made = []
    if datasets:
        scans = sum(sum(d["sheet"]["examples"].values()) for d in datasets)
        patients = [sum(n or 0 for n in d["sheet"]["patients"].values()) for d in datasets]
        who = f"of {words.plural(sum(patients), 'patient')}" if all(patients) else "patients not known"
        made.append((words.count(scans), f"scans, {who}"))
    for study in studies[:1]:
        first, reference = study["budgets"][0], subject(study)
        row = next(r for r in study["rows"] if r["arm"] == reference and r["budget"] == first)
        name = study["metrics"][0]
        made.append(
            (words.count(row["labels"]), f"labelled scans at the smallest budget ({words.budget(first)})")
        )
        value = row["metrics"][name]
        made.append(
            (
                words.number(value["value"]),
                f"{words.metric(name)} then, {row['label']}, {words.interval(value['low'], value['high'])}",
            )
        )
        made.append((words.count((study | row)["examples"]), f"scans in the {study['split']} split that decided"))
    if not studies:
        for run in [r for r in runs if r["evaluations"]][:2]:
            test = run["evaluations"][0]
            name, value = next(iter(test["metrics"].items()))
            on = f" on the {words.split(test['split'], test['of'])}" if test["of"] else ""
            made.append(
                (
                    words.number(value["value"]),
                    f"{words.metric(name)} of {run['name']}{on} {words.interval(value['low'], value['high'])}",
                )
            )
    return made


def subject(study: dict[str, Any]) -> str:
    """The arm that the first lines speak of: the reference, or the first that is compared with the baselines."""
    if study["reference"]:
        return study["reference"]
    compared = [c["arm"] for c in study["comparisons"] if c["main"]]
    return compared[0] if compared else study["rows"][0]["arm"]


def with_few(study: dict[str, Any]) -> bool:
    """Whether it has a budget of less than all labels."""
    return any(budget != 1.0 or isinstance(budget, int) for budget in study["budgets"])


def _study(study: dict[str, Any]) -> list[str]:
    metric = study["metrics"][0]
    said = []
    pretrain = study["pretrains"][0] if study["pretrains"] else None
    if pretrain is not None:
        scans = _learned_from(pretrain)
        few = f"few labels, in {words.draws(study['draws'])} of which scans carry them"
        labels = few if with_few(study) else f"all labels, by {words.plural(max(study['draws']), 'seed')}"
        how = ", by filling in what was hidden from it" if pretrain["objective"] == "mae" else ""
        if len(study["pretrains"]) > 1:
            how = f", in {len(study['pretrains'])} ways"
        said.append(
            f"A Vision Transformer ({pretrain['flat'].get('model.variant')}) first learned from {scans} "
            f"{'by their labels' if pretrain['supervised'] else 'without labels'}{how}; then it was fine-tuned with {labels}."
        )
    budgets = study["budgets"]
    if not study["reference"]:
        found = [c for c in study["comparisons"] if c["metric"] == metric and c["main"]]
        ends = [[c for c in found if c["budget"] == b] for b in dict.fromkeys([budgets[0], budgets[-1]])]
        return said + [_against_best(of_one) for of_one in ends if of_one]
    rows, reference = {(r["budget"], r["arm"]): r for r in study["rows"]}, study["reference"]
    for budget in dict.fromkeys([budgets[0], budgets[-1]]):
        own = rows[budget, reference]
        others = [r for (b, arm), r in rows.items() if b == budget and arm != reference]
        value = own["metrics"][metric]
        against = words.listed(
            [f"{words.number(r['metrics'][metric]['value'])} for {r['label']}" for r in others]
        )
        text = (
            f"With {words.budget(budget)} ({words.plural(own['labels'], 'scan')}), {own['label']} reaches "
            f"{words.metric(metric)} {words.number(value['value'])} "
            f"{words.interval(value['low'], value['high'])}"
        )
        text += f", against {against}: " + _verdict(study, budget) if others else "."
        said.append(text)
    return said


def _against_best(found: list[dict[str, Any]]) -> str:
    """The comparisons of one budget with its best baseline: the sentence of the only one, or all in a few words."""
    if len(found) == 1:
        return found[0]["sentence"]
    kinds = {"better": "better", "worse": "worse", "not worse": "not worse by more than the margin"}
    parts = []
    for verdict, text in (*kinds.items(), ("", "not settled")):
        held = [c for c in found if (c["verdict"] if c["verdict"] in kinds else "") == verdict]
        loose = [c for c in held if verdict and c.get("holds") is False]
        for names, more in (
            ([c["label"] for c in held if c not in loose], ""),
            ([c["label"] for c in loose], f", {_LOOSE}"),
        ):
            if names:
                parts.append(f"{words.listed(names)} {'is' if len(names) == 1 else 'are'} {text}{more}")
    first = found[0]
    return (
        f"With {words.budget(first['budget'])} ({words.plural(first['labels'], 'scan')}), against "
        f"{first['reference_label']}, the best baseline: {'; '.join(parts)}."
    )


def _verdict(study: dict[str, Any], budget: int | float) -> str:
    at = study["budgets"].index(budget)
    if study["draws"][at] * study.get("folds", [1] * (at + 1))[at] == 1:
        return "one draw of the labels, which does not tell what another would give."
    metric = study["metrics"][0]
    found = [
        c
        for c in study["comparisons"]
        if c["budget"] == budget and c["metric"] == metric and c.get("main", True)
    ]
    kinds = {
        (True, True): "a real gain over {}",
        (True, False): f"a gain over {{}}, {_LOOSE}",
        (False, True): "really worse than {}",
        (False, False): f"worse than {{}}, {_LOOSE}",
        (None, True): "no difference from {} that these scans can show",
    }
    said: dict[tuple[bool | None, bool], list[str]] = {}
    for c in found:
        better = None if c["favours"] is None else c["favours"] == study["reference"]
        settled = better is None or c.get("holds") is not False
        said.setdefault((better, settled), []).append(c["label"])
    return (
        "; ".join(text.format(words.listed(said[kind])) for kind, text in kinds.items() if kind in said) + "."
    )


def _run(run: dict[str, Any], test: dict[str, Any]) -> str:
    name, value = next(iter(test["metrics"].items()))
    who = f" of {words.plural(test['patients'], 'patient')}" if test.get("patients") else ""
    return (
        f"{words.capital(run['name'])} reaches {words.metric(name)} {words.number(value['value'])} "
        f"{words.interval(value['low'], value['high'])} on {words.plural(test['examples'], 'scan')}{who} "
        f"of the {words.split(test['split'], test['of'])}."
    )


def _pretrained(run: dict[str, Any]) -> str:
    last = {name: values[-1] for name, _, values in run["curves"]}
    loss = (
        f"; its loss on scans that it did not learn from is {last['validation']:.3f}"
        if "validation" in last
        else ""
    )
    long = f", for {words.plural(run['step'], 'step')}" if "train" in run["config"] else ""
    return f"{words.capital(run['name'])} learned from {_learned_from(run)} without labels{long}{loss}."


def _learned_from(run: dict[str, Any]) -> str:
    known = run["learned_from"]
    return "scans" if known is None else words.plural(known, "scan")
