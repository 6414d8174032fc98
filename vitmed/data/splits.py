"""Who is trained on and who is tested: splits by patient, stratified by label, the same for one seed.

A rule is ``80/10/10``, ``train`` (everything), ``fold:2/5`` (the second of five folds is tested on, the next one
validates, and the five datasets made so test on everybody once) or ``site:NAME`` (that site is tested on, of the
other patients one in ten validates). Patients that are in a dataset already stay where they are. Where nobody asks for a
rule, a few patients all train, and the rule waits for those who are appended.
"""

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from vitmed import words
from vitmed.data.joined import Joined
from vitmed.errors import InputError

NAMES = ("train", "val", "test")
WITHOUT_SITE = (0.9, 0.1, 0.0)  # of the patients of all other sites
DEFAULT = "80/10/10"
FEW = 10  # with fewer patients than this a held-out part would say nothing


@dataclasses.dataclass(frozen=True)
class Splits:
    """The split of each example, in order, and how it came about.

    Attributes:
        split: one name an example.
        how: ``given`` or the rule.
        by: ``patient`` or ``image``; None where the split was given.
        notes: what a person should hear.
        too_few: whether all are in train because there are too few of them for ``how`` yet.
    """

    split: list[str]
    how: str
    by: str | None
    notes: tuple[str, ...] = ()
    too_few: bool = False


def rule(text: str) -> tuple[float, float, float]:
    """Fractions of train, val and test from ``80/10/10`` or ``train`` (everything).

    Raises:
        InputError: anything else.
    """
    if text.strip().lower() in ("train", "train-only"):
        return 1.0, 0.0, 0.0
    if not re.fullmatch(r"\d+(\.\d+)?(/\d+(\.\d+)?){2}", text.strip()):
        raise InputError(f"--split {text!r} is not TRAIN/VAL/TEST in percent such as 80/10/10, nor train")
    parts = [float(p) for p in text.split("/")]
    if abs(sum(parts) - 100) > 1e-6 or parts[0] == 0:
        raise InputError(f"--split {text!r} must add up to 100, with something left to train on")
    return parts[0] / 100, parts[1] / 100, parts[2] / 100


@dataclasses.dataclass(frozen=True)
class Rule:
    """How to split: fractions of train, val and test, and the fold (from 1) or site to hold out instead."""

    text: str
    fractions: tuple[float, ...]
    fold: int = 0
    folds: int = 0
    site: str = ""


def parse(text: str) -> Rule:
    """A rule from what a person writes.

    Raises:
        InputError: it is none.
    """
    kind, _, rest = text.strip().partition(":")
    if kind == "site":
        if not rest:
            raise InputError("--split site: names no site; write --split site:NAME")
        return Rule(f"site:{rest}", WITHOUT_SITE, site=rest)
    if kind == "fold":
        found = re.fullmatch(r"(\d+)/(\d+)", rest)
        fold, folds = map(int, found.groups()) if found else (0, 0)
        if folds < 3 or not 1 <= fold <= folds:
            raise InputError(
                f"--split {text!r} is not fold:K/N with K from 1 to N and N at least 3, such as fold:1/5"
            )
        return Rule(f"fold:{fold}/{folds}", (1 / folds,) * folds, fold, folds)
    fractions = rule(text)
    text = text.strip().lower()
    return Rule("train" if text.startswith("train") else text, fractions)


def make(
    ids: list[str],
    patients: list[str],
    strata: list[str],
    given: list[str | None],
    asked: str | None = None,
    seed: int = 0,
    *,
    sites: list[str] | None = None,
    clusters: list[int] | None = None,
    fixed: list[str | None] | None = None,
    drawn_by: list[str] | None = None,
    too_few: bool = False,
    persons: list[str] | None = None,
) -> Splits:
    """Splits examples.

    Args:
        ids: one an example; equal ids (copies of one scan) stay together.
        patients: one an example, "" unknown.
        strata: what the parts should be alike in, such as the class; "" where it is not known.
        given: the split an example came with, or None.
        asked: a rule the person gave, which overrules ``given``.
        seed: draws the patients.
        sites: one an example, for ``site:NAME``.
        clusters: one an example; those of one cluster come to one split. None does not look at them.
        fixed: the split an example must keep, or None; None for a new set.
        drawn_by: the name that an example's patient is drawn by, where it is not ``patients`` or ``ids``.
        persons: what else an example's patient is called, "" nothing: who shares it comes to one split, whatever
            ``patients`` says.
        too_few: whether those of ``fixed`` are in train because they were too few for ``asked`` until now.

    Raises:
        InputError: some examples came with a split and some without, or ``asked`` is no rule or does not fit.
    """
    fixed = fixed or [None] * len(ids)
    known = [p for p in patients if p]
    by = "patient" if known else "image"
    if all(fixed) and not too_few:
        how, by = (asked, by) if asked else ("given", None)
        return Splits(list(fixed), how, by, _leaks(patients, fixed))
    if asked is None and (any(given) or any(fixed)):
        where = [f or g for f, g in zip(fixed, given, strict=True)]
        if not all(where):
            raise InputError(
                f"{where.count(None)} of {len(where)} scans have no split though others do, "
                f"first {ids[where.index(None)]}; give every scan one, or --split 80/10/10"
            )
        where, notes = _gathered(where, clusters, fixed)
        return Splits(where, "given", None, notes + _leaks(patients, where))
    groups = [p or f"\0{i}" for p, i in zip(patients, ids, strict=True)]
    notes = []
    if known and len(known) < len(patients):
        notes.append(
            f"{words.plural(len(patients) - len(known), 'scan has', 'scans have')} no patient; each of them counts as its own."
        )
    if not known:
        notes.append("No patients are known: splits are by image, so one person may be on both sides.")
    names = {g: n for g, n in zip(groups, drawn_by or groups, strict=True)}
    groups = _together(groups, persons and [p or f"\0{i}" for i, p in enumerate(persons)], names)
    groups = _together(groups, clusters, names)
    count = len(set(groups))
    settled = _settled(groups, fixed)
    chosen = parse(asked or DEFAULT)
    if (asked is None or too_few) and count < FEW:
        note = (
            f"Fewer than {FEW} {by}s ({count}): all go to train, and {chosen.text} is for those whom --append adds "
            f"from {FEW} on."
        )
        return Splits(["train"] * len(ids), chosen.text, by, (note,), too_few=True)
    if too_few:
        notes.append(
            f"{len(settled)} {by}s stay in train, where all were while there were fewer than {FEW}; the others are split "
            f"{chosen.text}."
        )
    if chosen.folds:
        if count < chosen.folds:
            raise InputError(f"--split {asked} needs at least {chosen.folds} {by}s; there are {count}")
        folds = [str(k) for k in range(chosen.folds)]
        where = draw(groups, strata, chosen.fractions, seed, names=folds, drawn_by=names)
        test, val = chosen.fold - 1, chosen.fold % chosen.folds
        where = [{test: "test", val: "val"}.get(int(k), "train") for k in where]
    elif chosen.site:
        held_out = {
            g for g, site in zip(groups, sites or [""] * len(ids), strict=True) if site == chosen.site
        }
        if not held_out or len(held_out) == count:
            many = len(set(sites or [""]))
            raise InputError(
                f"--split {asked} leaves nothing to {'test' if not held_out else 'train on'}: {len(held_out)} of {count} {by}s "
                f"are of it, and there are {many} sites. Give a site as the column site names it, or else the header "
                "(InstitutionName), whose names are not repeated here"
            )
        settled = {**dict.fromkeys(held_out, "test"), **settled}
        where = draw(groups, strata, chosen.fractions, seed, settled, drawn_by=names, apart=held_out)
    else:
        where = draw(groups, strata, chosen.fractions, seed, settled, drawn_by=names)
    if chosen.text == "train":
        notes = []
    where = [f or w for f, w in zip(fixed, where, strict=True)]
    return Splits(where, chosen.text, by, (*notes, *(_leaks(patients, where) if settled else ())))


def _together(groups: list[str], clusters: list | None, names: dict[str, str]) -> list[str]:
    """Groups of which those that share a cluster are one, called as the first of them by ``names``."""
    if clusters is None:
        return groups
    number = {g: i for i, g in enumerate(sorted(set(groups), key=lambda g: (names[g], g)))}
    name = list(number)
    joined = Joined(len(number))
    first: dict[int | str, int] = {}
    for group, cluster in zip(groups, clusters, strict=True):
        joined.join(number[group], first.setdefault(cluster, number[group]))
    return [name[joined.of(number[g])] for g in groups]


def _settled(groups: list, fixed: list[str | None]) -> dict:
    """The split of each group that has one already: the first of them, should it lie in several."""
    settled: dict = {}
    for group, split in zip(groups, fixed, strict=True):
        if split:
            settled[group] = min(settled.get(group, split), split, key=NAMES.index)
    return settled


def _gathered(
    where: list[str], clusters: list[int] | None, fixed: list[str | None]
) -> tuple[list[str], tuple[str, ...]]:
    """Given splits with each cluster in one of them, the first that holds any of it: a test set only shrinks."""
    if clusters is None:
        return where, ()
    first = _settled(clusters, fixed)  # what must stay speaks first
    first = {**_settled(clusters, where), **first}
    moved = [f or first[c] for f, c in zip(fixed, clusters, strict=True)]
    counts = Counter((a, b) for a, b in zip(where, moved, strict=True) if a != b)
    notes = [f"{n} of {a} moved to {b}, where copies of them are." for (a, b), n in sorted(counts.items())]
    return moved, tuple(notes)


def draw(
    groups: list[str],
    strata: list[str],
    fractions: tuple[float, ...],
    seed: int,
    settled: dict[str, str] | None = None,
    *,
    names: Sequence[str] = NAMES,
    drawn_by: dict[str, str] | None = None,
    apart: Collection[str] = (),
) -> list[str]:
    """Assigns whole groups to splits, so that each split's share of every stratum is near its fraction.

    Groups come in an order keyed by the seed, and each goes where most is lacking, in its stratum and in all.
    A group is of its most frequent stratum. Adding a scan moves few others: the order does not depend on it.

    Args:
        settled: the split of groups that have one; they are counted first and never move.
        names: of the splits, one a fraction.
        drawn_by: the name by which a group is drawn, where it is another than its own.
        apart: groups of ``settled`` that lie outside the fractions, such as a site held out.
    """
    settled, drawn_by = settled or {}, drawn_by or {}
    size = Counter(groups)
    votes: dict[str, Counter] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        votes[group][stratum] += 1
    stratum_of = {g: min(v, key=lambda s: (-v[s], s)) for g, v in votes.items()}
    keyed = {g: _draw(seed, drawn_by.get(g, g)) for g in size}
    order = sorted(size, key=lambda g: (g not in settled, keyed[g], g))
    have = {key: [0.0] * len(fractions) for key in ("all", *(("of", s) for s in set(strata)))}
    where = {}
    for group in order:
        n, keys = size[group], ("all", ("of", stratum_of[group]))
        if group in settled:
            where[group] = settled[group]
            if group in apart:
                continue
            best = names.index(settled[group])
        else:
            lack = [
                sum(f * (sum(have[k]) + n) - have[k][i] for k in keys) if f else float("-inf")
                for i, f in enumerate(fractions)
            ]
            best = max(range(len(fractions)), key=lambda i: (lack[i], -i))
            where[group] = names[best]
        for key in keys:
            have[key][best] += n
    return [where[group] for group in groups]


def _draw(seed: int, group: str) -> bytes:
    key = int(seed).to_bytes(8, "little", signed=True)
    return hashlib.blake2b(group.encode(), digest_size=8, key=key).digest()


def _leaks(patients: list[str], split: list[str]) -> tuple[str, ...]:
    seen: dict[str, set[str]] = defaultdict(set)
    for patient, name in zip(patients, split, strict=True):
        if patient:
            seen[patient].add(name)
    both = sorted(p for p, names in seen.items() if len(names) > 1)
    if not both:
        return ()
    shared = words.plural(len(both), "patient")
    return (f"The given splits share {shared}: numbers on them will flatter.",)
