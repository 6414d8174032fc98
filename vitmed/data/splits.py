"""Who is trained on and who is tested: splits by patient, stratified by label, the same for one seed."""

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict

from vitmed.errors import InputError

NAMES = ("train", "val", "test")
FEW = 10  # with fewer patients than this a held-out part would say nothing


@dataclasses.dataclass(frozen=True)
class Splits:
    """The split of each example, in order, and how it came about.

    Attributes:
        split: one name an example.
        how: ``given`` or the rule.
        by: ``patient`` or ``image``; None where the split was given.
        notes: what a person should hear.
    """

    split: list[str]
    how: str
    by: str | None
    notes: tuple[str, ...] = ()


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


def make(
    ids: list[str],
    patients: list[str],
    strata: list[str],
    given: list[str | None],
    asked: str | None = None,
    seed: int = 0,
) -> Splits:
    """Splits examples.

    Args:
        ids: one an example; equal ids (copies of one scan) stay together.
        patients: one an example, "" unknown.
        strata: what the parts should be alike in, such as the class; "" where it is not known.
        given: the split an example came with, or None.
        asked: a rule the person gave, which overrules ``given``.
        seed: draws the patients.

    Raises:
        InputError: some examples came with a split and some without, or ``asked`` is no rule.
    """
    known = [p for p in patients if p]
    by = "patient" if known else "image"
    if asked is None and any(given):
        if not all(given):
            raise InputError(
                f"{given.count(None)} of {len(given)} scans have no split though others do, "
                f"first {ids[given.index(None)]}; give every scan one, or --split 80/10/10"
            )
        return Splits(list(given), "given", None, _leaks(patients, given))
    groups = [p or f"\0{i}" for p, i in zip(patients, ids, strict=True)]
    count = len(set(groups))
    notes = []
    if known and len(known) < len(patients):
        notes.append(f"{len(patients) - len(known)} scans have no patient; each of them counts as its own.")
    if not known:
        notes.append("No patients are known: splits are by image, so one person may be on both sides.")
    if asked is None and count < FEW:
        return Splits(
            ["train"] * len(ids), "train", by, (f"Fewer than {FEW} {by}s ({count}): all go to train.",)
        )
    text = (asked or "80/10/10").strip().lower()
    where = draw(groups, strata, rule(text), seed)
    if text.startswith("train"):
        notes = []
    return Splits(where, "train" if text.startswith("train") else text, by, tuple(notes))


def draw(groups: list[str], strata: list[str], fractions: tuple[float, ...], seed: int) -> list[str]:
    """Assigns whole groups to splits, so that each split's share of every stratum is near its fraction.

    Groups come in an order keyed by the seed, and each goes where most is lacking, in its stratum and in all.
    A group is of its most frequent stratum. Adding a scan moves few others: the order does not depend on it.
    """
    size = Counter(groups)
    votes: dict[str, Counter] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        votes[group][stratum] += 1
    stratum_of = {g: min(v, key=lambda s: (-v[s], s)) for g, v in votes.items()}
    order = sorted(size, key=lambda g: (_draw(seed, g), g))
    have = {key: [0.0] * len(fractions) for key in ("all", *(("of", s) for s in set(strata)))}
    where = {}
    for group in order:
        n, keys = size[group], ("all", ("of", stratum_of[group]))
        lack = [
            sum(f * (sum(have[k]) + n) - have[k][i] for k in keys) if f else float("-inf")
            for i, f in enumerate(fractions)
        ]
        best = max(range(len(fractions)), key=lambda i: (lack[i], -i))
        where[group] = NAMES[best]
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
    shared = f"{len(both)} patient{'s' * (len(both) > 1)}"
    return (f"The given splits share {shared}: numbers on them will flatter.",)
