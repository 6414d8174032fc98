"""What a study makes sure of before it starts: nothing learns from a scan that it is judged or chosen by.

Arms learn from another split than they are chosen and judged by. Pretrainings, the unlabelled scans of semi-supervised
arms, and what the runs from elsewhere that any of them start from have learned, are compared with the validation and test
splits by content: by the copies that ingest counted within a dataset, by the pixels where another dataset is learned from.
What looks alike and is no copy is told, not refused. Folds must be the folds of one set of scans, tested on once each.
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vitmed import durable, words
from vitmed.data import budget, datasheet, lookalikes
from vitmed.data.copies import copies
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.study import sources
from vitmed.study.plan import Cell, Plan
from vitmed.study.sources import Source

FILE = "protocol.json"


def check(planned: Plan, quiet: bool = False) -> dict[str, Any]:
    """Checks the datasets of a study, and what it starts from.

    Args:
        quiet: no progress on standard error.

    Returns:
        ``validation``: labelled scans of the validation splits, over the folds that are run; ``probed``: how many labels
        of the training split whoever learned with ``config.probe`` was looked at with, in a fold; ``contents``: the
        content hash of each dataset that is read, by its path; ``notes``: what a reader should know.

    Raises:
        InputError: arms that learn from, or choose by, what they are judged by; a pretraining, an unlabelled stream or a
            run to start from that would see, or has seen, scans of the validation or test split, or labels that no
            budget counts; folds that are not those of one set.
    """
    _check_splits(planned)
    opened: dict[str, Dataset] = {}
    for cell in planned.everything:
        opened.setdefault(cell.config.data.path, Dataset.open(cell.config.data.path))
    if planned.config.data.folds:
        _check_folds(planned, opened)
    found, unknown = [], []
    for key, cell in _everyone(planned):
        own = opened[cell.config.data.path]
        known, missing = sources.of(key, cell, own, planned.masks)
        found += [(source, own) for source in known]
        unknown += missing
    told = _compare(planned, found, quiet)
    first = planned.cells[0].config.data
    probed = _probed(planned, opened)
    return {
        "validation": sum(
            _labelled(dataset, first.get("val_split", "val"), planned.masks) for dataset in opened.values()
        ),
        "probed": probed,
        "contents": {
            path: datasheet.read(path)["content_hash"]
            for cell in planned.everything
            for path in cell.datasets
        },
        "notes": [
            *_notes(planned, list(opened.values()), first.get("split", "train")),
            *told,
            *dict.fromkeys(unknown),
            *(
                f"While it learned, {key} was looked at with the labels of {words.plural(count, 'scan')} of its training "
                "split (config.probe): they decided nothing, and are in no budget."
                for key, count in probed.items()
            ),
        ],
    }


def _check_splits(planned: Plan) -> None:
    """InputError where an arm learns from what it is chosen or judged by, or chooses by what it is judged by."""
    by = {key: cell.config.data.get("val_split", "val") for key, cell in _everyone(planned)}
    for key, split in by.items():
        if split == "test":
            raise InputError(
                f"{key}.data.val_split is 'test': settings, thresholds and checkpoints would be chosen by the scans that "
                "models are judged by; validate on another"
            )
    chosen = {cell.config.data.get("val_split", "val") for cell in planned.cells}
    if len(chosen) > 1:
        raise InputError(
            f"config.arms validate on the splits {', '.join(sorted(chosen))} (config.data.val_split); all arms must be chosen "
            "by the same examples"
        )
    for key, cell in _everyone(planned):
        split = cell.config.data.get("split", "train")
        if cell.arm and split in _held_apart(planned):
            raise InputError(
                f"{key}.data.split is {split!r}, which models are chosen or judged by; learn from another"
            )


def _held_apart(planned: Plan) -> list[str]:
    """The splits that are judged or chosen by."""
    val = planned.cells[0].config.data.get("val_split", "val")
    return list(dict.fromkeys([val, planned.config.study.split, "test"]))


def _everyone(planned: Plan) -> list[tuple[str, Cell]]:
    """The keys of the training configs, and one cell of each in each fold."""
    found = {}
    for cell in planned.everything:
        if cell.arm:
            key = f"config.arms.{cell.arm}.config"
        else:
            named = cell.pretraining in planned.config.pretrains
            key = f"config.pretrains.{cell.pretraining}" if named else "config.pretrain"
        found.setdefault((key, cell.fold), (key, cell))
    return list(found.values())


def _compare(planned: Plan, found: list[tuple[Source, Dataset]], quiet: bool) -> list[str]:
    """Holds each source against the splits kept apart of the study's dataset in its fold.

    A copy of the dataset's folder is the dataset. What was compared is written down, for next time.

    Returns:
        Notes of what looks alike, and of labels that no budget counts.

    Raises:
        InputError: a scan is on both sides, or labels of the study's dataset were learned from beside the budgets.
    """
    file = planned.workdir / FILE
    before = durable.read_json(file) if file.exists() else {}
    seen, alike = set(before.get("apart", ())), dict(before.get("alike", {}))
    looks, notes = {}, []
    for source, own in found:
        other = Dataset.open(source.path)
        same = other.datasheet["content_hash"] == own.datasheet["content_hash"]
        other = own if same else other
        held = [name for name in _held_apart(planned) if own.has_split(name)]
        related = not sources.states(own.path).isdisjoint(sources.states(other.path))
        _check_labels(planned, source, related)
        if source.labels and not related:
            notes.append(f"{source.learner} learned from labels of {source.path}, which are in no budget.")
        seen |= _check_apart(source, own, other, held, seen)
        counts, why = _alike(source, own, other, held, alike, quiet)
        if why:
            between = f"within {own.path}" if same else f"between {own.path} and {source.path}"
            notes.append(f"Near-duplicates {between} were not looked for: {why}.")
        where = "" if same else f" of {source.path}"
        # Once for who learns from a dataset in two streams, and once in each fold.
        looks |= {(name, where, source.learner, own.path): count for name, count in counts.items()}
    planned.workdir.mkdir(parents=True, exist_ok=True)
    durable.write_json(file, {"format": 1, "apart": sorted(seen), "alike": alike})
    sums, learners = Counter(), defaultdict(list)
    for (name, where, learner, _), count in looks.items():
        sums[name, where, learner] += count
    for (name, where, learner), count in sums.items():
        learners[name, where, count].append(learner)
    notes += [
        f"{words.plural(count, 'scan')} of the {name} split {'looks' if count == 1 else 'look'} like scans{where} that are "
        f"learned from by {words.listed(by)}: numbers are flattered by that."
        for (name, where, count), by in learners.items()
        if count
    ]
    return list(dict.fromkeys(notes))


def _check_labels(planned: Plan, source: Source, related: bool) -> None:
    few = [b for b in planned.config.study.budgets if isinstance(b, int) or b < 1]
    if source.labels and related and few:
        without = " and excludes no structure of its masks" if planned.masks else ""
        raise InputError(
            f"{source.who} from labels of {source.path} that the budget of {words.budget(few[0])} does not count; begin "
            f"with what learns without labels{without}"
        )


def _check_apart(source: Source, own: Dataset, other: Dataset, held: list[str], seen: set[str]) -> set[str]:
    """Marks of what was compared; InputError where a scan is on both sides."""
    done, same = set(), other is own
    if same and source.split in held:
        if source.run is None:
            raise InputError(
                f"{source.key}.data.split is {source.split!r}, which models are judged by; learn from another"
            )
        raise InputError(
            f"{source.who} from the {source.split} split of {own.path}, which models are judged by; start from another run"
        )
    for name in (name for name in held if name not in source.apart):
        known = own.datasheet.get("duplicates", {}).get(f"{source.split}/{name}") if same else None
        mark = _mark(own, name, other, source.split)
        if known is None and mark not in seen:
            known = len(copies(other, source.split, own, [name]))
            done.add(mark)
        if known:
            mend = (
                f"leave them out with {source.key}.data.apart={tuple(held)!r} (of arms in all alike), or ingest with --dedupe"
                if source.run is None
                else "start from another run"
            )
            raise InputError(
                f"{source.who} from copies of scans that models are judged by ({known} of the {name} split of "
                f"{own.path}, in {other.path}); {mend}"
            )
    return done


def _alike(
    source: Source, own: Dataset, other: Dataset, held: list[str], known: dict[str, int], quiet: bool
) -> tuple[dict[str, int], str]:
    """How many scans of splits of ``held`` look like one that is learned from; adds to what is ``known``.

    Where that cannot be told of some splits they are left out, and the second is why.
    """
    counts = own.datasheet.get("near_duplicates", {}) if other is own else {}
    marks = {name: _mark(own, name, other, source.split) for name in held}
    found = {name: counts.get(f"{source.split}/{name}", known.get(marks[name])) for name in held}
    missing = [name for name in held if found[name] is None]
    why = lookalikes.not_sought(other, source.split, own, missing) if missing else ""
    if missing and not why:
        sought = lookalikes.count(other, source.split, own, missing, progress=not quiet)
        known |= {marks[name]: count for name, count in sought.items()}
        found |= sought
    return {name: count for name, count in found.items() if count is not None}, why


def _mark(own: Dataset, name: str, other: Dataset, split: str) -> str:
    return " ".join([own.datasheet["content_hash"], name, other.datasheet["content_hash"], split])


def _probed(planned: Plan, opened: dict[str, Dataset]) -> dict[str, int]:
    """How many labels each training config's looks at its features take, at most, of those that take any."""
    from vitmed.evaluate import health  # late: it loads JAX

    found: dict[str, int] = {}
    for key, cell in _everyone(planned):
        probe, data = cell.config.get("probe", {}), cell.config.data
        if not probe.get("every", 0):
            continue
        examples = probe.get("examples", health.ProbeConfig.examples)
        looked = health.choose(opened[data.path], data.get("split", "train"), examples)
        if looked.learn is not None:
            found[key] = max(found.get(key, 0), len(looked.indices))
    return found


def _check_folds(planned: Plan, opened: dict[str, Dataset]) -> None:
    folds, first, tested = planned.config.data.folds, None, {}
    for cell in planned.cells:
        tested.setdefault(cell.fold, opened[cell.config.data.path])
    for fold, dataset in tested.items():
        splits = dataset.datasheet["splits"]
        if splits["how"] != f"fold:{fold}/{folds}":
            raise InputError(
                f"{dataset.path} is split by {splits['how']}; fold {fold} of config.data.folds={folds} is a dataset of "
                f"`vitmed ingest --split fold:{fold}/{folds}`"
            )
        known = [scan for split in dataset.splits for scan in dataset.ids(split)]
        alike = {"scans": sorted(known), "seed": splits["seed"], "dedupe": splits["dedupe"]}
        first = first or alike
        for what in alike:
            if alike[what] != first[what]:
                raise InputError(
                    f"{dataset.path} is no fold of the same set as {next(iter(tested.values())).path}: their {what} "
                    "differ; ingest all folds from one source with the same options"
                )
    where: dict[str, Path] = {}
    for dataset in tested.values():
        for scan in dataset.ids("test"):
            if where.setdefault(scan, dataset.path) != dataset.path:
                raise InputError(
                    f"{scan} is tested on in {where[scan]} and in {dataset.path}; ingest all folds alike"
                )


def _labelled(dataset: Dataset, split: str, masks: bool) -> int:
    if not dataset.has_split(split):
        return 0
    if masks:
        return len(budget.marked(dataset, split))
    return int(np.sum((dataset.labels(split)[1] > 0).any(axis=1)))


def _notes(planned: Plan, datasets: list[Dataset], split: str) -> list[str]:
    reported, notes = planned.config.study.split, []
    apart = reported in planned.cells[0].config.data.get("apart", ())  # of copies, not of what looks alike
    for kind, what in (("duplicates", "are copies of"), ("near_duplicates", "look like"))[apart:]:
        counts = [d.datasheet.get(kind, {}).get(f"{split}/{reported}", 0) for d in datasets]
        if sum(counts):
            notes.append(
                f"{words.plural(sum(counts), 'scan')} of the {reported} split {what} scans with labels in {split}: numbers "
                "of all arms are flattered by them."
            )
    for who, cells in (("Pretrainings", planned.pretrains), ("Arms", planned.cells)):
        left = sorted({name for cell in cells for name in cell.config.data.get("apart", ())})
        if left:
            notes.append(f"{who} leave out what is a copy of a scan of {words.listed(left)}.")
    return notes
