"""What a run says of scans, written down: scores as one table, masks as a file each."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vitmed import durable, words
from vitmed.apply.intake import Asked, cut_off
from vitmed.apply.mask_files import names_of, write_mask
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import masks, operating
from vitmed.evaluate.evaluate import SAME_SPLIT, check_truth
from vitmed.evaluate.measures import Judged
from vitmed.evaluate.score import probabilities, score
from vitmed.infer import Model
from vitmed.scans.writeback import likeliest_onto_scan

_KEPT = ("examples", "patients", "metrics", "intervals", "bootstrap")  # of what ``score`` returns
_UNKNOWN = "no metrics: nothing is known of what is true of these scans"


class Scores:
    """A classifier's or regressor's: ``predictions.csv``.

    Its columns are ``id``, ``probability:NAME`` of every class or column (``value:NAME`` of a regressor), and what is said
    at the threshold: ``predicted`` with a class, or ``predicted:NAME`` yes or no.

    Args:
        model: the run.
        asked: what it is asked about.
        step: of its checkpoint.
        out: the folder to write to.
        quiet: show no progress.

    Attributes:
        scans: for ``result.json``: the id of each, and what is to be said of it.
        notes: what a person should hear.
    """

    def __init__(self, model: Model, asked: Asked, step: int, out: Path, quiet: bool):
        self._model, self._asked, self._out = model, asked, out
        self._task, self._classes = model.datasheet["task"], list(model.datasheet["classes"])
        self._order = [self._classes.index(name) for name in model.order]
        self._logits: list[np.ndarray] = []
        self.scans: list[dict] = []
        self.notes: list[str] = []
        self._at = None
        if self._task != "regression":
            self._at = operating.thresholds(model, step, quiet)
            if self._at is None and (self._task == "multilabel" or len(self._classes) == 2):
                self.notes.append(operating.NO_THRESHOLD)

    def ask(self, data: Dataset, split: str, indices: np.ndarray) -> Iterator[int]:
        """Asks about some examples; yields how many are done."""
        self._logits.append(self._model.logits(data, split, indices))
        ids = data.ids(split)
        self.scans += [{"id": ids[i]} for i in indices]
        yield len(indices)

    def finish(self) -> dict:
        """Writes the table; returns what ``result.json`` says of the task."""
        made = probabilities(self._task, np.concatenate(self._logits))
        kind = "value" if self._task == "regression" else "probability"
        said, heads = self._said(made)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["id", *(f"{kind}:{name}" for name in self._classes), *heads])
        for scan, row, own in zip(self.scans, made, said, strict=True):
            table.writerow([scan["id"], *(repr(float(x)) for x in row), *own])
        durable.write_text(self._out / "predictions.csv", text.getvalue())
        threshold = None if self._at is None else self._at["threshold"]
        return {"task": self._task, "classes": self._classes, "threshold": threshold}

    def metrics(self) -> dict | None:
        """The numbers, where the scans have labels."""
        if not _has_truth(self._model, self._asked, self.notes):
            return None
        data, split = self._asked.truth
        n = len(self.scans)
        label, weight = (values[:n] for values in data.labels(split))
        who = data.patients(split)
        if not weight.any():
            self.notes.append(_UNKNOWN)
            return None
        logits = np.concatenate(self._logits)
        given = (label, weight, who and who[:n], self._at)
        found = score(self._task, self._classes, logits, *given, order=self._order)
        self.notes += found["notes"]
        own = data.datasheet["content_hash"] == self._model.datasheet["content_hash"]
        if self._at and own and split == self._model.config["data"].get("val_split", "val"):
            self.notes.append(SAME_SPLIT)
        return {name: found[name] for name in _KEPT}

    def _said(self, made: np.ndarray) -> tuple[list[list[str]], list[str]]:
        """What is said of each scan at the threshold, and the heads of its columns."""
        none = np.zeros((len(made), made.shape[1]))
        given = (made, none, none > 0, np.arange(len(made)))
        judged = Judged(self._task, self._classes, *given, order=self._order)
        at = (self._at or {}).get("threshold")
        if at is not None:
            judged = Judged(**{**vars(judged), "threshold": [at[name] for name in judged.columns]})
        if self._task == "multiclass":
            return [[self._classes[k]] for k in judged.predicted()], ["predicted"]
        if self._task == "multilabel":
            yes = made >= np.array([judged.yes(k) for k in range(made.shape[1])])
            return [["yes" if y else "no" for y in row] for row in yes], [
                f"predicted:{c}" for c in self._classes
            ]
        return [[] for _ in made], []


class Masks:
    """A segmenter's: for each scan a file on the scan's own grid, as ``mask_files`` writes them.

    ``result.json`` tells of each scan its ``file``, the ``voxels`` of every structure in it (and ``mm3`` of a volume), and
    whether it was ``cut_off``: reaches beyond what the model is shown.

    Arguments and attributes as of ``Scores``.
    """

    def __init__(self, model: Model, asked: Asked, step: int, out: Path, quiet: bool):
        self._model, self._asked, self._out = model, asked, out
        self._names = names_of(asked.ids)
        self._judging = None
        self.scans: list[dict] = []
        self.notes: list[str] = []
        if _has_truth(model, asked, self.notes):
            self._judging = masks.Judging(*asked.truth, model.structures)

    def ask(self, data: Dataset, split: str, indices: np.ndarray) -> Iterator[int]:
        """Asks about some examples; yields how many are done."""
        for index, probability in self._model.probabilities(data, split, indices):
            record = data.record(split, int(index))
            made, affine = likeliest_onto_scan(probability, record)
            file = write_mask(self._out, self._names[record["id"]], made, affine)
            counts = np.bincount(made.ravel(), minlength=1 + len(self._model.structures))
            voxels = dict(zip(self._model.structures, counts[1:].tolist(), strict=True))
            scan = {"id": record["id"], "file": file, "voxels": voxels, "cut_off": cut_off(record)}
            if made.ndim == 3 and np.isfinite(affine).all():
                one = float(abs(np.linalg.det(affine[:3, :3])))
                scan["mm3"] = {name: round(one * n, 3) for name, n in voxels.items()}
            self.scans.append(scan)
            if self._judging is not None:
                self._judging.add(int(index), probability.argmax(axis=-1).astype(np.uint8))
            yield 1

    def finish(self) -> dict:
        """What ``result.json`` says of the task."""
        cut = sum(scan["cut_off"] for scan in self.scans)
        if cut:
            self.notes.append(
                f"{words.plural(cut, 'scan reaches', 'scans reach')} beyond what the model is shown, and the masks are "
                "background there"
            )
        values = {name: k for k, name in enumerate(self._model.structures, start=1)}
        return {"task": "segmentation", "structures": values}

    def metrics(self) -> dict | None:
        """The numbers, where the scans have masks."""
        if self._judging is None:
            return None
        data, split = self._asked.truth
        who = data.patients(split)
        judged = self._judging.stacked()
        if not judged[2].any():
            self.notes.append(_UNKNOWN)
            return None
        found = score("segmentation", self._model.structures, *judged, who and who[: len(self.scans)])
        self.notes += found["notes"] + self._judging.notes
        return {name: found[name] for name in _KEPT} | self._judging.counted()


def _has_truth(model: Model, asked: Asked, notes: list[str]) -> bool:
    """Whether the input tells what is true; where a dataset does not, a note says why there are no metrics."""
    if asked.truth is None:
        return False
    try:
        check_truth(model, *asked.truth)
    except InputError as error:
        notes.append(f"no metrics: {error}")
        return False
    return True
