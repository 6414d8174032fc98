"""How often the 95% intervals hold the truth where it is known: simulated patients, several scans each.

  python -m vitmed.evaluate.coverage [REPLICATIONS]

prints the table that ``intervals.py`` quotes (1,000: some six minutes on one core). The score of a scan is
normal, shifted for positives so that the AUROC has the wanted value; half of its variance is shared within a
patient. Labels are drawn by scan or by patient. The probability beside it is the true one, or an
overconfident one with doubled log odds. Beside each interval's share stands the percentile interval's.
"""

import sys
from collections.abc import Iterator

import numpy as np
from scipy.special import expit, ndtr, ndtri

from vitmed.evaluate import intervals
from vitmed.evaluate.measures import Judged, bounds, estimates, measures, with_parts

Array = np.ndarray

COLUMNS = (
    "auroc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "sensitivity",
    "sensitivity_at_90_specificity",
    "ece",
)
AREAS, PREVALENCES = (0.7, 0.9, 0.97), (0.1, 0.5)
PATIENTS, SCANS, SHARED = 50, 4, 0.5


def scans(
    rng: np.random.Generator, area: float, prevalence: float, by: str, patients: int = PATIENTS
) -> tuple[Array, Array, Array]:
    """One simulated test set: labels (n,) bool, scores (n,), patients (n,). ``by`` is "scan" or "patient"."""
    cluster = np.repeat(np.arange(patients), SCANS)
    drawn = rng.random(patients if by == "patient" else len(cluster)) < prevalence
    label = drawn[cluster] if by == "patient" else drawn
    noise = np.sqrt(SHARED) * rng.standard_normal(patients)[cluster]
    noise += np.sqrt(1 - SHARED) * rng.standard_normal(len(cluster))
    return label, _shift(area) * label + noise, cluster


def probability(score: Array, area: float, prevalence: float, log_odds: float = 1.0) -> Array:
    """The chance of a positive at ``score``, its log odds times ``log_odds`` (above 1: overconfident)."""
    shift = _shift(area)
    return expit(log_odds * (shift * score - shift**2 / 2 + np.log(prevalence / (1 - prevalence))))


def covered(
    area: float,
    prevalence: float,
    by: str,
    replications: int,
    log_odds: float = 1.0,
    resamples: int = 500,
    seed: int = 0,
    only: tuple[str, ...] = (),
) -> dict[str, float]:
    """Share of simulated test sets whose interval holds the truth, by metric; and of its percentile interval, as
    ``percentile auroc``.

    Test sets with one class only cannot be judged, those with one patient of a class have no intervals: both are drawn
    again. ``only`` names some metrics.
    """
    truth, hits, n = _truth(area, prevalence, log_odds), {}, 0
    for judged in _sets(area, prevalence, by, log_odds, np.random.Generator(np.random.Philox(key=seed))):
        listed = with_parts(measures(judged)[0], [*(only or truth)])
        value = {name: float(x[0]) for name, x in estimates(listed, np.ones((1, PATIENTS))).items()}
        size = (PATIENTS, len(judged.label), resamples, seed + n)
        boot = estimates(listed, np.concatenate(list(intervals.resamples(*size))))
        found = bounds(listed, value, boot, intervals.signs(*size))
        for name in only or truth:
            found[f"percentile {name}"] = intervals.percentile_interval(value[name], boot[name])
        for name, (low, high) in found.items():
            if name.split()[-1] in truth:
                hits[name] = hits.get(name, 0) + (low <= truth[name.split()[-1]] <= high)
        n += 1
        if n == replications:
            return {name: count / n for name, count in hits.items()}
    raise AssertionError("unreachable: the simulation never ends by itself")


def _sets(area, prevalence, by, log_odds, rng) -> Iterator[Judged]:
    while True:
        label, score, cluster = scans(rng, area, prevalence, by)
        if min(len(np.unique(cluster[label == side])) for side in (True, False)) < 2:
            continue
        yes = probability(score, area, prevalence, log_odds)
        threshold = probability(np.array([_shift(area) / 2]), area, prevalence, log_odds)  # the balanced one
        column = label[:, None].astype(float)
        yield Judged(
            "multiclass",
            ("no", "yes"),
            np.stack([1 - yes, yes], 1),
            column,
            np.ones_like(column, bool),
            cluster,
            threshold,
        )


def _truth(area: float, prevalence: float, log_odds: float) -> dict[str, float]:
    """The numbers that an endless test set would give."""
    shift = _shift(area)
    right = float(ndtr(shift / 2))
    grid = np.linspace(-8, shift + 8, 200_001)  # fine enough for an integral by sums
    positive = prevalence * np.exp(-0.5 * (grid - shift) ** 2)
    negative = (1 - prevalence) * np.exp(-0.5 * grid**2)
    found, said = np.cumsum(positive[::-1]), np.cumsum((positive + negative)[::-1])
    gap = np.abs(probability(grid, area, prevalence, log_odds) - probability(grid, area, prevalence))
    return {
        "auroc": area,
        "average_precision": float(np.sum(positive[::-1] * found / said) / found[-1]),
        "accuracy": right,
        "balanced_accuracy": right,
        "f1": 2 * prevalence * right / (prevalence + prevalence * right + (1 - prevalence) * (1 - right)),
        "sensitivity": right,
        "sensitivity_at_90_specificity": float(ndtr(shift - ndtri(0.9))),
        "ece": float(np.sum(gap * (positive + negative)) / said[-1]),
    }


def _shift(area: float) -> float:
    return float(np.sqrt(2) * ndtri(area))


def main(replications: int = 2000) -> None:
    names = COLUMNS + tuple(f"percentile {name}" for name in COLUMNS)
    print("labels by, AUROC, prevalence:", ", ".join((*names, "ece overconfident")))
    for by in ("scan", "patient"):
        for area in AREAS:
            for prevalence in PREVALENCES:
                found = covered(area, prevalence, by, replications)
                over = covered(area, prevalence, by, replications, log_odds=2.0, only=("ece",))["ece"]
                shares = [found[name] for name in names] + [over]
                print(f"{by:<8} {area:<5} {prevalence:<4}", *(f"{x:.3f}" for x in shares), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
