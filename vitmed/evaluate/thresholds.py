"""Where a probability becomes a yes: chosen on validation scores, never on the split that is reported."""

import numpy as np

Array = np.ndarray

DEFAULT = 0.5


def balanced(label: Array, score: Array) -> float:
    """The threshold of the highest balanced accuracy (Youden's index) for ``score >= threshold``.

    Thresholds lie halfway between neighbouring scores. Of equally good ones the nearest to the middle of
    their range is taken.

    Args:
        label: (n,) 0/1 with both classes.
        score: (n,).
    """
    candidates, sensitivity, specificity = _curve(label, score)
    index = sensitivity + specificity
    best = candidates[index >= index.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - (best[0] + best[-1]) / 2))])


def at_specificity(label: Array, score: Array, specificity: float = 0.9) -> float:
    """The lowest threshold of at least this specificity, halfway between neighbouring scores."""
    candidates, _, reached = _curve(label, score)
    return float(candidates[np.argmax(reached >= specificity - 1e-9)])


def _curve(label: Array, score: Array) -> tuple[Array, Array, Array]:
    """Candidate thresholds, ascending, with sensitivity and specificity; the last lets nothing pass."""
    label, score = np.asarray(label) == 1, np.asarray(score, np.float64)
    distinct = np.unique(score)
    candidates = np.concatenate(
        [[distinct[0]], (distinct[1:] + distinct[:-1]) / 2, [np.nextafter(distinct[-1], np.inf)]]
    )
    positives, negatives = np.sort(score[label]), np.sort(score[~label])
    sensitivity = 1 - np.searchsorted(positives, candidates, "left") / len(positives)
    return candidates, sensitivity, np.searchsorted(negatives, candidates, "left") / len(negatives)
