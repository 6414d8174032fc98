"""What the truth that is trained on tells an objective before the first step: how often classes show, how numbers spread.

Only the labels and masks of the label budget are read.
"""

from collections.abc import Sequence

import numpy as np

from vitmed.data import balance
from vitmed.data.label_scale import label_scale
from vitmed.data.streams import Part
from vitmed.job.config import Config
from vitmed.progress import Bar

_TOLD = 100  # masks, fewer of which are counted without a word


def shown(config: Config, parts: Sequence[Part], quiet: bool) -> dict[str, tuple]:
    """What of it the objective asks for: ``counts`` and ``frequencies`` of a ``Spec``.

    Args:
        parts: of the stream with labels.
        quiet: no progress on standard error, where voxels are counted.
    """
    objective = config.objective
    weighs = isinstance(objective.class_weights, str)
    aligns = config.data.sampling == "balanced" and objective.alignment
    if not (weighs or aligns):
        return {}
    if objective.of_masks:
        total = sum(len(part.members) for part in parts)
        with Bar("counting voxels", total, "masks", quiet=quiet or total < _TOLD) as bar:
            found = sum(balance.voxels(p.dataset, p.split, p.members, bar.advance) for p in parts)
    else:
        found = sum(balance.counts(p.dataset, p.split, p.members) for p in parts)
    asked = {}
    if weighs:
        asked["counts"] = tuple((int(shown), int(rest)) for shown, rest in found)
    if aligns:
        asked["frequencies"] = tuple(float(share) for share in found[:, 0] / found[:, 0].sum())
    return asked


def scale(config: Config, task: str | None, parts: Sequence[Part]) -> tuple[tuple[float, float], ...]:
    """``label_scale`` of a ``Spec``, where numbers are learned; ``task`` is the dataset's."""
    objective = config.objective
    if not objective.labelled or objective.of_masks or task != "regression":
        return ()
    found = [[x[part.members] for x in part.dataset.labels(part.split)] for part in parts]
    label, weight = map(np.concatenate, zip(*found))
    return label_scale(label, weight > 0)
