"""The health of a representation while it is learned, because the loss of self-supervised learning says little of it.

Of the training split alone: the effective rank of the features (RankMe, Garrido et al. 2023, arXiv:2210.02885), their
spread on the sphere (Chen and He 2021, "SimSiam", section 4.1), and, where there are labels, how well neighbours
(Wu et al. 2018, arXiv:1805.01978) and a linear probe tell them. A representation that has collapsed gives every scan
nearly the same features: rank 1, spread 0.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from vitmed.data import budget
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import metrics
from vitmed.objectives.probe import linear_probe

_TEMPERATURE = 0.07  # of a neighbour's vote, as in Wu et al. 2018
_TELLS = {"auroc": 0.6, "r2": 0.1}  # of a probe that knows more than nothing
_EPSILON = 1e-7  # added to the singular values' shares, as in RankMe


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Keys of ``config.probe``.

    Attributes:
        every: steps between looks at the features; 0 is never. There is one at the end too.
        examples: scans of the training split that are looked at, at most; patients are taken whole. Where the split
            has labels, only labelled scans: the probes learn from one half of the patients and are scored on the
            other. These labels are used, and ``health/labels`` says how many.
        neighbours: that vote.
        least_rank, least_deviation: below both, where no probe tells labels by them, the features have collapsed: a warning.
        stop: end the training then.
    """

    every: int = 0
    examples: int = 1000
    neighbours: int = 20
    least_rank: float = 1.5
    least_deviation: float = 0.01
    stop: bool = False

    def __post_init__(self):
        for name, least in (("every", 0), ("examples", 2), ("neighbours", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {least} was expected")


class Looked(NamedTuple):
    """The scans that are looked at.

    Attributes:
        indices: ``(n,)`` into the split.
        learn: ``(n,)`` booleans, whether the probes learn from each (else they are scored on it); None without labels.
    """

    indices: np.ndarray
    learn: np.ndarray | None


def choose(dataset: Dataset, split: str, examples: int) -> Looked:
    """Scans to look at, whole patients: a function of the dataset alone.

    Raises:
        InputError: the first two patients have more scans than ``examples``.
    """
    known = np.flatnonzero((dataset.labels(split)[1] > 0).any(axis=1))
    labelled = len(known) > 0
    _, units = budget.units_of(dataset, split, known if labelled else np.arange(dataset.size(split)), 0)
    count = int(np.searchsorted(np.cumsum([len(unit) for unit in units]), examples, side="right"))
    if count < min(2, len(units)):
        raise InputError(
            f"config.probe.examples is {examples}, fewer than the scans of two patients of {dataset.path}; enlarge it"
        )
    units = units[:count]
    indices = np.concatenate(units)
    half = np.concatenate([np.full(len(unit), n % 2 == 0) for n, unit in enumerate(units)])
    return Looked(indices, half if labelled and count > 1 else None)


def report(
    features: np.ndarray, dataset: Dataset, split: str, looked: Looked, neighbours: int
) -> dict[str, float]:
    """What the features ``(n, D)`` of the scans ``looked`` at are like, as ``health/NAME``.

    ``rank`` and ``deviation``; with labels ``knn_M``, ``linear_M`` (M is ``auroc``, the mean over classes or findings,
    or ``r2``; left out where one half of the patients lacks what it needs) and ``labels``, the number used. Of features that
    are not finite both numbers are nan, and no probe is asked.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        return {"health/rank": np.nan, "health/deviation": np.nan}
    found = {"rank": rank(features), "deviation": deviation(features)}
    if looked.learn is not None:
        label, weight = (values[looked.indices] for values in dataset.labels(split))
        task, outputs = dataset.datasheet["task"], len(dataset.datasheet["classes"])
        own, other = looked.learn, ~looked.learn
        kernel, bias = linear_probe(features[own], label[own], weight[own], task, outputs)
        votes = vote(features[own], label[own], weight[own], features[other], task, outputs, neighbours)
        measure, metric = ("r2", metrics.r2) if task == "regression" else ("auroc", metrics.auroc)
        for name, scores in (("knn", votes), ("linear", features[other] @ kernel + bias)):
            value = metrics.mean_over_columns(metric, task, label[other], weight[other], scores)
            if np.isfinite(value):
                found[f"{name}_{measure}"] = value
        found["labels"] = float((weight > 0).any(axis=1).sum())
    return {f"health/{name}": value for name, value in found.items()}


def collapsed(found: dict[str, float], config: ProbeConfig) -> str:
    """Why the features that ``found`` describes have collapsed, "" where they have not.

    Scans that lie alike share most of their features, and both numbers are low for that too: what probes tell by the rest
    is no collapse.
    """
    tells = any(
        found.get(f"health/{who}_{name}", 0) >= least
        for name, least in _TELLS.items()
        for who in ("knn", "linear")
    )
    limits = {"rank": config.least_rank, "deviation": config.least_deviation}
    if tells or not all(found[f"health/{name}"] < least for name, least in limits.items()):
        return ""
    faults = [f"{name} {found[f'health/{name}']:.3g} (below {least:g})" for name, least in limits.items()]
    return f"the features have collapsed: {' and '.join(faults)}"


def rank(features: np.ndarray) -> float:
    """RankMe: the exponential of the entropy of the singular values of ``features`` (n, D), from 1 to min(n, D)."""
    values = np.linalg.svd(features, compute_uv=False)
    if not values.sum():
        return 1.0
    share = values / values.sum() + _EPSILON
    return float(np.exp(-(share * np.log(share)).sum()))


def deviation(features: np.ndarray) -> float:
    """Mean standard deviation of the features scaled to length 1, times the root of their number.

    0 where all scans have the same features, near 1 where they point anywhere.
    """
    unit = _unit(features)
    return float(unit.std(axis=0).mean() * np.sqrt(features.shape[1]))


def vote(
    features: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
    asked: np.ndarray,
    task: str,
    outputs: int,
    neighbours: int,
) -> np.ndarray:
    """Scores (m, outputs) of ``asked`` (m, D) by the nearest ``features`` (n, D), each weighing by its closeness.

    Args:
        label, weight: of ``features``, as a dataset gives them; a missing label has no vote.
    """
    closeness = _unit(asked) @ _unit(features).T
    nearest = np.argsort(-closeness, axis=1, kind="stable")[:, :neighbours]
    power = np.exp((np.take_along_axis(closeness, nearest, axis=1) - 1) / _TEMPERATURE)[..., None]
    if task == "multiclass":
        label, weight = (
            np.eye(outputs)[label[:, 0].astype(int)] * (weight > 0),
            np.repeat(weight, outputs, axis=1),
        )
    there = power * (weight[nearest] > 0)
    total = (there * np.nan_to_num(label)[nearest]).sum(axis=1)
    return total / np.maximum(there.sum(axis=1), 1e-12)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
