"""Comparisons on one test set, in terms of ``vitmed.evaluate.compare``."""

from vitmed.evaluate.compare import difference, mean, sample


def over_draws(metric, scores, label, patients, **rest):
    """``mean`` over the draws whose ``scores`` these are; the rest as of ``sample``."""
    return mean([sample(metric, scores, label, patients, **rest)])


def paired_difference(metric, scores_a, scores_b, label, patients, **rest):
    """``difference`` a - b, draw by draw; the rest as of ``sample``."""
    a, b = (sample(metric, scores, label, patients, **rest) for scores in (scores_a, scores_b))
    return difference([a], [b])
