"""The linear probe from which a pretrained model's head starts."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitmed.models.head import Ranks
from vitmed.objectives.probe import STRENGTH, linear_probe, ordered_probe


@pytest.fixture
def features():
    """Of spreads from a hundredth to a hundred, and one that never changes."""
    generator = np.random.default_rng(0)
    made = generator.normal(size=(90, 7)) * np.logspace(-2, 2, 7) + np.logspace(-1, 1, 7)
    return np.concatenate([made, np.full((90, 1), 5.0)], axis=1).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_scikit_learns_on_standardised_features(features, classes):
    label = (np.argsort(np.argsort(features[:, 0])) * classes // 90)[:, None].astype(np.float32)
    kernel, bias = linear_probe(features, label, np.ones_like(label), "multiclass", classes)
    scores = features.astype(np.float64) @ kernel + bias
    there = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    expected = there.fit(features.astype(np.float64), label[:, 0]).predict_proba(features.astype(np.float64))
    chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(chance, expected, atol=1e-3)
    assert (scores.argmax(1) == label[:, 0]).mean() > 0.8, "the small features carry the class"


def test_missing_labels_do_not_count(features):
    label = np.stack([features[:, 1] > features[:, 1].mean()] * 2, 1).astype(np.float32)
    weight = np.ones_like(label)
    weight[50:, 1] = 0
    spoilt = np.where(weight > 0, label, 1 - label)
    kernel, bias = linear_probe(features, spoilt, weight, "multilabel", 2)
    head, _ = linear_probe(features[:50], label[:50], weight[:50], "multilabel", 2)
    assert kernel.shape == (8, 2) and bias.shape == (2,)
    right = ((features @ kernel + bias > 0) == (label > 0.5)).mean(axis=0)
    assert right.min() > 0.8 and np.corrcoef(kernel[:, 1], head[:, 1])[0, 1] > 0.9


def test_regression_gives_the_values_themselves(features):
    value = (3 + features[:, 2:3] / features[:, 2].std()).astype(np.float32)
    kernel, bias = linear_probe(features, value, np.ones_like(value), "regression", 1)
    assert np.corrcoef((features @ kernel + bias)[:, 0], value[:, 0])[0, 1] > 0.99
    assert abs(float((features @ kernel + bias).mean() - value.mean())) < 1e-2


def test_class_that_nobody_shows_scores_lowest(features):
    one = np.zeros((90, 1), np.float32)
    for label, outputs in ((one, 2), ((features[:, :1] > features[:, 0].mean()).astype(np.float32), 3)):
        kernel, bias = linear_probe(features, label, np.ones_like(label), "multiclass", outputs)
        assert ((features @ kernel + bias).argmax(1) != outputs - 1).all() and np.isfinite(kernel).all()
    kernel, bias = linear_probe(features, one, np.ones_like(one), "multilabel", 1)
    assert not kernel.any() and bias[0] == pytest.approx(-np.log(91))


def test_ordered_classes_are_the_most_likely_cumulative_logits(features):
    """The head gives the optimum of a second, plain computation of the penalised likelihood, without its gradient."""
    rank = np.argsort(np.argsort(features[:, 0] / 0.01 + features[:, 3])) * 4 // 90
    kernel, thresholds = ordered_probe(features, rank, 4)
    made = Ranks(4).apply({"params": {"kernel": kernel, "thresholds": thresholds}}, features)
    assert (np.asarray(made).argmax(1) == rank).mean() > 0.6

    x = StandardScaler().fit_transform(features.astype(np.float64))

    def cost(free):
        weights, t = free[:8], np.concatenate([[-np.inf], np.sort(free[8:]), [np.inf]])
        chance = expit(t[rank + 1] - x @ weights) - expit(t[rank] - x @ weights)
        return -np.log(np.maximum(chance, 1e-300)).sum() + weights @ weights / (2 * STRENGTH)

    best = minimize(cost, np.concatenate([np.zeros(8), [-1.0, 0.0, 1.0]]), method="BFGS")
    t, score = np.concatenate([[-np.inf], best.x[8:], [np.inf]]), (x @ best.x[:8])[:, None]
    np.testing.assert_allclose(np.exp(made), np.diff(expit(t - score), axis=1), atol=2e-3)


def chances(features, rank, ranks):
    kernel, thresholds = ordered_probe(features, rank, ranks)
    return np.asarray(Ranks(ranks).apply({"params": {"kernel": kernel, "thresholds": thresholds}}, features))


@pytest.mark.parametrize(
    "ranks,shown", [(4, (0, 1, 2)), (4, (1, 2, 3)), (4, (0, 1, 3)), (5, (1, 2)), (3, (1,))]
)
def test_a_rank_without_an_example_is_unlikely(features, ranks, shown):
    """Otherwise thresholds meet, or go to where the loss of the first scan of that rank is in the hundreds."""
    place = np.argsort(np.argsort(features[:, 0] / 0.01 + features[:, 3]))
    rank = np.asarray(shown)[place * len(shown) // 90]
    made = chances(features, rank, ranks)
    unseen = np.setdiff1d(np.arange(ranks), shown)
    assert (made.argmax(1) == rank).mean() > 0.9
    assert made[:, unseen].min() > -15, "a finite prior, for the scan that speaks least for it too"
    expected = np.exp(made)[:, unseen].sum(0)
    assert (expected > 0.5).all() and (expected < 1.5).all(), "about one of n + 1"


def test_ranks_of_features_that_say_nothing_are_as_likely_as_they_were_shown():
    """In closed form: 60 and 30 scans of 92, and one for each of the two ranks that nobody shows."""
    rank = np.repeat([1, 2], [60, 30])
    made = chances(np.full((90, 3), 5.0, np.float32), rank, 4)
    np.testing.assert_allclose(np.exp(made), np.tile([1 / 92, 60 / 92, 30 / 92, 1 / 92], (90, 1)), rtol=1e-4)
