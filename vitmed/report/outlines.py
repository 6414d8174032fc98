"""True and predicted masks of a few scans, outlined: the worst, the best, and those between."""

import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.report import pictures, planes
from vitmed.runs import step_of

_PLACES = {"worst": 0.0, "lower quarter": 0.25, "median": 0.5, "best": 1.0}


def outlines(run: Path, dataset: Dataset, evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Scans of an evaluation of masks, at even places in the order of their mean Dice.

    Args:
        run: the run's folder.
        dataset: the one evaluated on.
        evaluation: its ``metrics.json``, with its ``folder``.

    Returns:
        None where the run no longer keeps the checkpoint that was evaluated; else
        ``scans`` [{"id", "which", "dice", and "src" or (of volumes) "planes" as ``planes.volume`` has them}], ``structures``
        [{"name", "colour"}] and whether they are ``volumes``.

    Raises:
        InputError: a dataset that does not fit the run.
    """
    from vitmed.infer import Model, truth  # and JAX with it, 400 MB that the page of a dataset does without

    kept = [which for which in ("last", "best") if step_of(run, which) == evaluation["checkpoint"]]
    if not kept:
        return None
    model = Model.open(run, kept[0])
    split, ids = evaluation["split"], dataset.ids(evaluation["split"])
    dice = _mean_dice(evaluation["folder"] / "predictions.csv")
    order = sorted((i for i in range(len(ids)) if ids[i] in dice), key=lambda i: (dice[ids[i]], ids[i]))
    chosen: dict[int, str] = {}
    for which, place in _PLACES.items() if order else ():
        chosen.setdefault(order[round(place * (len(order) - 1))], which)
    window = dataset.datasheet["window"]
    scans = []
    for index, predicted in model.segment(dataset, split, np.array(list(chosen), int)):
        record = dataset.record(split, index) | {"mask": truth(dataset, split, index)}
        if predicted.ndim == 3:
            shown = planes.volume(record, window, predicted)
        else:
            stream = {name: record[name][None] for name in ("image", "scale", "offset")}
            made = pictures.picture(pictures.displayed(stream, window)[0])
            shown = {"src": pictures.data_uri(pictures.outlined(made, record["mask"], predicted))}
        scans.append(
            {"planes": None, **shown, "id": ids[index], "which": chosen[index], "dice": dice[ids[index]]}
        )
    return {
        "scans": scans,
        "structures": [
            {"name": name, "colour": "rgb({}, {}, {})".format(*pictures.colour_of(k))}
            for k, name in enumerate(model.structures, start=1)
        ],
        "volumes": len(dataset.datasheet["size"]) == 3,
    }


def _mean_dice(file: Path) -> dict[str, float]:
    """The mean over structures of each scan that has any."""
    found = defaultdict(list)
    with open(file, newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["dice"]:
                found[row["id"]].append(float(row["dice"]))
    return {name: float(np.mean(values)) for name, values in found.items()}
