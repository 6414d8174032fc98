"""How a dataset was made, which holds for what is appended to it: left unsaid it is taken over, and said otherwise refused."""

import dataclasses

from vitmed.data import chunks
from vitmed.data.dataset import Dataset
from vitmed.data.prepare import Plan
from vitmed.errors import InputError
from vitmed.scans.how import How


def rule_of(dataset: Dataset) -> tuple[str | None, int, bool, bool]:
    """How the splits of a dataset came about: the rule (None: given), its seed, whether clusters stay together.

    Then whether there were too few patients for the rule, so that all are in train.
    """
    held = dataset.datasheet["splits"]
    how = None if held["how"] == "given" else held["how"]
    return how, held["seed"], held["dedupe"], held.get("too_few", False)


def same_rule(dataset: Dataset, split: str | None, seed: int, dedupe: bool) -> None:
    """Refuses another rule for what is appended.

    Raises:
        InputError: another rule or seed is asked for, or the set is one of several folds.
    """
    how, held_seed, held_dedupe, _ = rule_of(dataset)
    if how is not None and how.startswith("fold:"):
        raise InputError(
            f"{dataset.path} is one of several folds; ingest all of them again with the new scans"
        )
    other = [
        f"{name} {asked}"
        for name, asked, differs in (
            ("--split", split, split is not None and split != how),
            ("--seed", seed, seed not in (0, held_seed)),
            ("--dedupe", "", dedupe and not held_dedupe),
        )
        if differs
    ]
    if other:
        raise InputError(
            f"{dataset.path} was split by {how or 'what came with its scans'}, seed {held_seed}, and nobody is "
            f"moved: leave out {' and '.join(o.strip() for o in other)}"
        )


def plan_of(dataset: Dataset) -> Plan:
    """What was done to every scan of a dataset."""
    held = dataset.datasheet["plan"]
    spacing, size = (None if held[k] is None else tuple(held[k]) for k in ("spacing", "size"))
    return Plan(held["modality"], spacing, size, held.get("why", ""))


def same_plan(dataset: Dataset, plan: Plan) -> Plan:
    """The dataset's own plan, if what is asked for is not another.

    Where the files of the dataset told the modality, new ones that do not tell it may be told to be of the same.

    Raises:
        InputError: another modality, spacing or size is asked for.
    """
    own = plan_of(dataset)
    if plan.modality is not None:
        own = dataclasses.replace(own, modality=own.modality or dataset.datasheet["modality"])
    for field in ("modality", "spacing", "size"):
        asked, has = getattr(plan, field), getattr(own, field)
        if asked is not None and asked != has:
            raise _otherwise(f"--{field}", asked, has, dataset)
    return own


def reading_of(dataset: Dataset) -> dict:
    """What was decided about reading the files of a dataset, as ``How.told`` has it; {} where nothing says so."""
    plan = dataset.datasheet["plan"]
    return {name: plan[name] for name in How().told() if name in plan}


def how_of(sheet: dict) -> How | None:
    """How the files of the dataset of a datasheet were read; None where it does not say so."""
    held = sheet.get("plan") or {}
    if not How().told().keys() <= held.keys():
        return None
    return How(held["frames"], tuple(held["include"]), held["series"], tuple(held["bids_suffix"]))


def same_reading(dataset: Dataset, how: How) -> How:
    """What was decided about reading the dataset's files, if what is asked for is nothing else.

    Of a dataset that does not tell, what is asked for. ``--frames each`` is no other way than none, and contrasts may be
    named once a BIDS folder holds several.

    Raises:
        InputError: something else is asked for.
    """
    own = how_of(dataset.datasheet)
    if own is None:
        return how
    if how.frames not in (None, own.frames) and (how.frames, own.frames) != ("each", None):
        raise _otherwise("--frames", how.frames, own.frames, dataset)
    if how.include and set(how.include) != set(own.include):
        raise _otherwise("--include", ",".join(how.include), ",".join(own.include), dataset)
    if how.series is not None and not _same_rule(how.series, own.series):
        raise _otherwise("--series", "a rule", own.series and "another", dataset)
    if how.suffixes and own.suffixes and set(how.suffixes) != set(own.suffixes):
        raise _otherwise("--bids-suffix", ",".join(how.suffixes), ",".join(own.suffixes), dataset)
    return dataclasses.replace(
        how,
        frames=own.frames or how.frames,
        include=own.include,
        series=own.series,
        suffixes=how.suffixes or own.suffixes,
        elsewhere=bool(own.suffixes) and not how.suffixes,
    )


def _same_rule(one: str, other: str | None) -> bool:
    from vitmed.scans import choice

    return other is not None and choice.parse(one) == choice.parse(other)


def chunk_of(dataset: Dataset) -> tuple[int, ...] | str:
    """How the images of a dataset are stored: the shape of their chunks, or ``"none"``."""
    held = dataset.datasheet.get("chunk")
    return chunks.NONE if held is None else tuple(held)


def same_chunk(dataset: Dataset, asked: tuple[int, ...] | str | None) -> tuple[int, ...] | str:
    """How the dataset's images are stored, if nothing else is asked for.

    Raises:
        InputError: another way is asked for.
    """
    own = chunk_of(dataset)
    if asked not in (None, own):
        told = [w if isinstance(w, str) else ",".join(map(str, w)) for w in (asked, own)]
        raise _otherwise("--chunk", *told, dataset)
    return own


def _otherwise(option: str, asked, has, dataset: Dataset) -> InputError:
    made = f"with {has}; leave it out" if has else "without it; leave it out, or ingest all again with it"
    return InputError(f"{option} is {asked}, but {dataset.path} was made {made}")
