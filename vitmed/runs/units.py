"""A regression's numbers in the unit of its labels: the run's datasheet keeps the scale in which they were learned.

Training sees deviations from a mean (``vitmed.objectives.supervised``). Whoever is given the run's weights, here or in a
file of them, is given a head whose last step back to the labels' unit is already in its kernel and bias, so that nobody
need know of the scale. Runs whose datasheet names none learned their numbers as they are.
"""

from typing import Any

import numpy as np

KEY = "label_scale"  # of a run's dataset.json: [mean, standard deviation] of each label column


def scale_of(datasheet: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    """The mean and the standard deviation, of each label column, in which a run learned numbers; () is as they are."""
    return tuple((mean, deviation) for mean, deviation in datasheet.get(KEY, ()))


def in_units(params: dict[str, Any], scale: tuple[tuple[float, float], ...]) -> dict[str, Any]:
    """Parameters of which the head gives values in the labels' unit, float32, of those that were trained in ``scale``."""
    if not scale:
        return params
    mean, deviation = np.asarray(scale, np.float64).T
    scores = params["head"]["scores"]
    there = {"kernel": scores["kernel"] * deviation, "bias": scores["bias"] * deviation + mean}
    there = {name: value.astype(np.float32) for name, value in there.items()}
    return {**params, "head": {**params["head"], "scores": there}}
