"""What a run is asked about: scans that were never ingested, or a split of a dataset; and what of it is refused.

A scan is read and prepared as ingest did the run's own dataset: frames and series chosen alike, the run's modality, the
spacing of its recipe, and its size.
A run that learned masks from boxes of scans (``config.data.crop``) is asked about the whole of each, at least one box
large; one that scores them about the box in the middle of what ingest would have kept.
What does not fit is refused with a reason that names both sides; ``force`` takes it all the same where that has a
meaning, and says so.
"""

import dataclasses
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitmed.data import as_before, spool
from vitmed.data.dataset import Dataset
from vitmed.data.held import SPLIT, held
from vitmed.data.prepare import OTHER_MODALITY, Plan, Task
from vitmed.data.spool import Stored
from vitmed.errors import InputError
from vitmed.infer import SAME_SPACING, Model
from vitmed.scans.find import survey
from vitmed.scans.how import How
from vitmed.scans.measure import measure
from vitmed.scans.recipe import unit_of, window_of
from vitmed.scans.scan import Refusals, Refused, Source

Fed = Iterator[tuple[Dataset, str, np.ndarray]]


class Asked:
    """What a run is asked about.

    Attributes:
        ids: of the scans, in order; those that are refused among them.
        told: what ``result.json`` says of the input.
        truth: the dataset and the split whose labels or masks are the truth; None of scans.
        refused: (scan, reason, detail) so far.
        forced: {scan: what was forced}.
    """

    def __init__(self, ids: list[str], told: dict, truth: tuple[Dataset, str] | None = None):
        self.ids, self.told, self.truth = ids, told, truth
        self.refused: Refusals = []
        self.forced: dict[str, list[str]] = {}

    def fed(self) -> Fed:
        """Datasets, splits of them and indices there, which together are the scans that are not refused, in order."""
        raise NotImplementedError

    def reasons(self) -> dict[str, int]:
        """How many scans were refused for which reason."""
        return dict(sorted(Counter(reason for _, reason, _ in self.refused).items()))


class Split(Asked):
    """Examples of a split of a dataset.

    Args:
        count: at most so many, the first ones; None is all.
        force: ask also about a dataset of another modality, of the same unit.

    Raises:
        InputError: no such split, or a dataset that does not fit the run.
    """

    def __init__(self, model: Model, path: Path, split: str, count: int | None, force: bool):
        data = Dataset.open(path)
        ids = data.ids(split)[:count]
        told = {"dataset": str(path), "content_hash": data.datasheet["content_hash"], "split": split}
        super().__init__(ids, told, (data, split))
        theirs = data.datasheet["modality"]
        if force and theirs != model.recipe.modality:
            data.datasheet = data.datasheet | {"modality": model.recipe.modality}
            what = f"modality {theirs}; the run learned from {model.recipe.modality}"
            self.forced = {name: [what] for name in ids}
        model.check(data, whole=not model.gives_masks)
        self._model = model

    def fed(self) -> Fed:
        data, split = self.truth
        for indices in self._model.stretches(len(self.ids)):
            yield data, split, indices


class Scans(Asked):
    """Scans, prepared a few at a time.

    Args:
        paths: files and folders.
        folder: an empty one, for what waits.
        count: at most so many, the first ones; None is all.
        force: take what does not fit, where that has a meaning.
        workers: processes that read; None for one a core.

    Raises:
        InputError: no such path, or two scans of one name.
    """

    def __init__(
        self,
        model: Model,
        paths: Sequence[Path],
        folder: Path,
        count: int | None = None,
        force: bool = False,
        workers: int | None = None,
    ):
        how = as_before.how_of(model.datasheet) or How()
        # A contrast was chosen of a BIDS folder; what is asked about now need not lie in one.
        how = dataclasses.replace(how, elsewhere=bool(how.suffixes))
        self._sources, refused = _sources(paths, how.unpacking(folder / "unpacked", workers))
        self._sources = self._sources[:count]
        super().__init__([s.id for s in self._sources], {"scans": [str(path) for path in paths]})
        self.refused += refused
        self._model, self._folder, self._force, self._workers = model, folder, force, workers

    def fed(self) -> Fed:
        model = self._model
        planned = [(plan, source) for source in self._sources if (plan := self._plan(source)) is not None]
        groups = itertools.groupby(planned, key=lambda pair: pair[0])
        scans = itertools.chain.from_iterable(
            self._prepared([Task(source) for _, source in group], plan) for plan, group in groups
        )
        while some := list(itertools.islice(scans, model.batch)):
            yield held(some, model.datasheet, Path(some[0].id)), SPLIT, np.arange(len(some))

    def _plan(self, source: Source) -> Plan | None:
        """What is done to a scan, or None where it is refused."""
        model, recipe = self._model, self._model.recipe
        try:
            size, spacing = measure(source)
        except Refused as fault:
            self.refused.append((source.id, fault.reason, fault.detail))
            return None
        if len(size) != len(recipe.size):
            takes = f"the run {model.run} takes {len(recipe.size)}D scans"
            self.refused.append((source.id, f"{len(size)}D", takes))
            return None
        made = model.datasheet.get("plan") or {}
        resized = len(size) == 2 and made.get("spacing") is None and made.get("size") is not None
        wanted = made.get("spacing") if len(size) == 2 else recipe.spacing
        if wanted is not None and spacing is None:
            if not self._force:
                told = (
                    f"the run {model.run} learned at {_by(wanted)} mm; --force takes the voxels as they are"
                )
                self.refused.append((source.id, "no voxel spacing", told))
                return None
            self._forced(source.id, f"no voxel spacing: taken as {_by(wanted)} mm")
            wanted = None
        if wanted is not None and np.allclose(spacing, wanted, rtol=SAME_SPACING):
            wanted = None
        if model.crop is None:
            return _plan(recipe.modality, wanted, recipe.size)
        if resized or not model.gives_masks:  # the box is cut from what ingest kept
            return _plan(recipe.modality, wanted, model.datasheet["size"])
        step = np.divide(wanted, spacing) if wanted is not None else np.ones(len(size))
        whole = np.maximum(np.rint(np.array(size) / step), model.crop)
        return _plan(recipe.modality, wanted, whole)

    def _prepared(self, tasks: list[Task], plan: Plan) -> Iterator[Stored]:
        """The scans that can be asked about, in order but for those of another modality, which come last."""
        model, recipe = self._model, self._model.recipe
        other: list[Task] = []
        tasks_of = {task.source.id: task for task in tasks}
        waits = Path(tempfile.mkdtemp(dir=self._folder))
        for outcome in spool.run(tasks, plan, waits, self._workers):
            if not isinstance(outcome, Stored):
                if self._force and plan.modality is not None and outcome[2] == OTHER_MODALITY:
                    other.append(tasks_of[outcome[0]])
                else:
                    self.refused.append(outcome)
            elif outcome.shape[-1] != recipe.channels:
                told = f"{outcome.shape[-1]}; the run {model.run} takes {recipe.channels}"
                self.refused.append((outcome.id, "other channels than the run's", told))
            elif (theirs := outcome.modality) != recipe.modality and _values(theirs) != _values(recipe):
                told = f"values {_values(theirs)}; the run {model.run} takes {_values(recipe)}"
                self.refused.append((outcome.id, f"{theirs}, not {recipe.modality}", told))
            else:
                if theirs != recipe.modality:
                    self._forced(outcome.id, f"modality {theirs}; the run learned from {recipe.modality}")
                yield outcome
        if other:
            yield from self._prepared(other, dataclasses.replace(plan, modality=None))

    def _forced(self, scan: str, what: str) -> None:
        self.forced.setdefault(scan, []).append(what)


def cut_off(record: dict) -> bool:
    """Whether the file's scan reaches more than a voxel beyond what was prepared of it.

    Args:
        record: an example as a dataset gives it.
    """
    size = np.array(record["image"].shape[:-1])
    ends = np.array([*itertools.product(*((0, n - 1) for n in record["read_size"]))], float)
    at = np.c_[ends, np.ones(len(ends))] @ np.linalg.inv(np.asarray(record["grid"], float)).T
    # Half a voxel to the border of the outermost one, and one for the rounding of a size.
    return bool((at[:, :-1] < -1.5).any() or (at[:, :-1] > size + 0.5).any())


def _sources(paths: Sequence[Path], how: How) -> tuple[list[Source], Refusals]:
    """Every scan under several paths; where there are several, a folder's name comes before its scans' ids."""
    found, refused = [], []
    for path in paths:
        under = f"{path.resolve().name}/" if len(paths) > 1 and path.is_dir() else ""
        there = survey(path, how=how)
        found += [dataclasses.replace(source, id=under + source.id) for source in there.sources]
        refused += [(under + file, reason, detail) for file, reason, detail in there.refused]
    seen: dict[str, Source] = {}
    for source in found:
        other = seen.setdefault(source.id, source)
        if other is not source:
            raise InputError(
                f"{other.files[0]} and {source.files[0]} are both called {source.id}; give them in two commands"
            )
    return found, refused


def _plan(modality: str, spacing: Sequence[float] | None, size: Sequence[int]) -> Plan:
    return Plan(modality, None if spacing is None else tuple(spacing), tuple(int(n) for n in size))


def _values(of) -> str:
    """The unit and the window of a modality or of a recipe."""
    unit, (low, high) = (unit_of(of), window_of(of)) if isinstance(of, str) else (of.unit, of.window)
    return f"in {unit}, {low:g} to {high:g}"


def _by(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{s:g}" for s in spacing)
