"""What a study learns from beside its budgets of labels: in its pretrainings and unlabelled streams, and in the runs made
elsewhere that any of it starts from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitmed.data import datasheet
from vitmed.data.dataset import Dataset
from vitmed.runs import folder, lineage
from vitmed.study.plan import Cell


@dataclasses.dataclass(frozen=True)
class Source:
    """A split of a dataset that something in the study learns from.

    Attributes:
        key: of the config: who learns from it, or starts from what did.
        path: of the dataset.
        split: of it.
        apart: splits of the study's own dataset whose copies are left out.
        labels: whether its labels are learned from.
        run: made elsewhere, that learned from it; None for what the study itself trains.
    """

    key: str
    path: Path
    split: str
    apart: tuple[str, ...] = ()
    labels: bool = False
    run: Path | None = None

    @property
    def who(self) -> str:
        return f"{self.key} would learn" if self.run is None else f"{self.key}.init_from: {self.run} learned"

    @property
    def learner(self) -> str:
        return self.key if self.run is None else f"{self.run} (of {self.key}.init_from)"


class Found(NamedTuple):
    """The sources of a cell, and a note for each run whose sources are not known."""

    sources: list[Source]
    unknown: list[str]


def of(key: str, cell: Cell, own: Dataset, masks: bool = False) -> Found:
    """What a cell learns from beside its label budget.

    Args:
        key: of its config.
        own: the study's dataset, in the cell's fold.
        masks: whether budgets pay for masks, so that who leaves out what they mark has learned from labels.

    Raises:
        InputError: it starts from what is no run.
    """
    data, found = cell.config.data, Found([], [])
    objective = cell.config.get("objective", {})
    labelled, unlabelled = _learns(objective.get("name", ""))
    marked = masks and _excludes(objective)
    if not cell.arm or unlabelled:
        paths = [data.path] if cell.arm else list(data.get("mix", {}) or [data.path])
        split, apart = data.get("split", "train"), tuple(data.get("apart", ()))
        for path in paths:
            found.sources.append(Source(key, Path(path), split, apart, marked or labelled and not cell.arm))
        if data.get("unlabelled", "") not in ("", "split"):
            found.sources.append(Source(key, Path(data.unlabelled), split, apart, marked))
    if cell.config.get("init_from") and not cell.start:
        folder.locate(cell.config.init_from)
        for run in lineage.ancestors(cell.config.init_from):
            known, why = _of_run(key, run, own, masks)
            found.sources.extend(known)
            if why:
                found.unknown.append(
                    f"What {run} learned from is not known to vitmed ({why}) and was not compared with what models are "
                    f"judged by; {key} starts from it."
                )
    return found


def _of_run(key: str, run: Path, own: Dataset, masks: bool) -> tuple[list[Source], str]:
    """What a run learned from, and why not all of it is known ("" where it is).

    Its datasets are known by their content, wherever they lie: the study's own among them, or those where it found them.
    """
    if not (run / "config.json").is_file():
        return [], "it is not there any more"
    config, sheet = folder.config_of(run), folder.datasheet_of(run)
    if "weights" in sheet or not config.data.path:
        return [], "its weights came from a file"
    data = config.data
    labelled, _ = _learns(config.objective.name)
    marked = masks and _excludes(config.objective)
    beside = sheet.get("beside") or [{"stream": "main", "content_hash": sheet["content_hash"]}]
    places = map(Path, [own.path, data.path, *data.get("mix", {}), data.get("unlabelled", "")])
    held = {place: states(place) for place in places if (place / datasheet.FILE).is_file()}
    apart = tuple(data.get("apart", ())) if sheet["content_hash"] in held[own.path] else ()
    found, why = {}, ""
    for part in beside:
        path = next((place for place, names in held.items() if part["content_hash"] in names), None)
        if path is None:
            why = "a dataset of it is not where it was, or has changed"
            continue
        labels = marked or labelled and part["stream"] == "main"
        found[path, labels] = Source(key, path, data.get("split", "train"), apart, labels, run)
    return list(found.values()), why


def states(path: Path) -> set[str]:
    """What the content of a dataset is called now and was called before scans were appended or withdrawn."""
    sheet = datasheet.read(path)
    return {sheet["content_hash"], *(state["content_hash"] for state in sheet.get("history", ()))}


def _learns(objective: str) -> tuple[bool, bool]:
    """Whether an objective learns from labels, and whether from scans without."""
    from vitmed.objectives.registry import OBJECTIVES  # late: it loads JAX

    if objective not in OBJECTIVES:
        return False, False
    config = OBJECTIVES[objective].Config
    return config.labelled, "unlabelled" in config.streams


def _excludes(objective: Mapping[str, Any]) -> bool:
    """Whether a masked loss reads masks, to leave out what they mark."""
    return bool(objective.get("exclude") or objective.get("masked", {}).get("exclude"))
