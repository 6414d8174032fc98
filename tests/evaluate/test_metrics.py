"""Point estimates against scikit-learn's, with ties, and under weights."""

import numpy as np
import pytest
from sklearn import metrics as reference

from vitmed.evaluate import metrics


def binary(rng, n=200, ties=False):
    label = rng.random(n) < 0.3
    score = rng.standard_normal(n) + label
    return label.astype(int), np.round(score * 2) / 2 if ties else score


def sensitivity_reference(label, score, specificity, weight=None):
    fpr, tpr, _ = reference.roc_curve(label, score, sample_weight=weight, drop_intermediate=False)
    return tpr[fpr <= 1 - specificity + 1e-9].max()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_ranking_metrics_agree_with_scikit_learn(seed, ties):
    """Otherwise our numbers are not those of the literature; ties are where implementations differ."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    label, score = binary(rng, ties=ties)
    assert metrics.auroc(label, score) == pytest.approx(reference.roc_auc_score(label, score), abs=1e-12)
    assert metrics.average_precision(label, score) == pytest.approx(
        reference.average_precision_score(label, score), abs=1e-12
    )
    for specificity in (0.8, 0.9, 1.0):
        ours = metrics.sensitivity_at_specificity(label, score, specificity)
        assert ours == pytest.approx(sensitivity_reference(label, score, specificity), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_decision_metrics_agree_with_scikit_learn(rng, classes):
    """Otherwise accuracy, F1 or the confusion matrix mean something else than their names."""
    label = rng.integers(0, classes, 300)
    said = np.where(rng.random(300) < 0.6, label, rng.integers(0, classes, 300))
    assert metrics.accuracy(label, said) == pytest.approx(reference.accuracy_score(label, said))
    assert np.array_equal(metrics.confusion(label, said, classes), reference.confusion_matrix(label, said))
    for k in range(classes):
        one = dict(labels=[k], average="macro")
        assert metrics.f1(label, said, k) == pytest.approx(reference.f1_score(label, said, **one))
        assert metrics.recall(label, said, k) == pytest.approx(reference.recall_score(label, said, **one))


def test_regression_metrics_agree_with_scikit_learn(rng):
    """Otherwise errors and correlations are off; large offsets are where sums of squares lose digits."""
    label = 1e4 + rng.standard_normal(200)
    value = label + 0.5 * rng.standard_normal(200)
    assert metrics.mae(label, value) == pytest.approx(reference.mean_absolute_error(label, value))
    assert metrics.rmse(label, value) == pytest.approx(reference.root_mean_squared_error(label, value))
    assert metrics.r2(label, value) == pytest.approx(reference.r2_score(label, value))
    assert metrics.pearson(label, value) == pytest.approx(np.corrcoef(label, value)[0, 1])


def weighted_pairs():
    """(our function, scikit-learn's with sample weights) by name, for labels and (tied) scores."""

    def said(score):
        return (np.asarray(score) >= 0.5).astype(int)

    return {
        "auroc": (metrics.auroc, lambda y, s, w: reference.roc_auc_score(y, s, sample_weight=w)),
        "average precision": (
            metrics.average_precision,
            lambda y, s, w: reference.average_precision_score(y, s, sample_weight=w),
        ),
        "sensitivity": (
            lambda y, s, weight: metrics.sensitivity_at_specificity(y, s, 0.9, weight),
            lambda y, s, w: sensitivity_reference(y, s, 0.9, w),
        ),
        "accuracy": (
            lambda y, s, weight: metrics.accuracy(y, said(s), weight),
            lambda y, s, w: reference.accuracy_score(y, said(s), sample_weight=w),
        ),
        "recall": (
            lambda y, s, weight: metrics.recall(y, said(s), 1, weight),
            lambda y, s, w: reference.recall_score(y, said(s), sample_weight=w),
        ),
        "specificity": (
            lambda y, s, weight: metrics.recall(y, said(s), 0, weight),
            lambda y, s, w: reference.recall_score(y, said(s), pos_label=0, sample_weight=w),
        ),
        "f1": (
            lambda y, s, weight: metrics.f1(y, said(s), 1, weight),
            lambda y, s, w: reference.f1_score(y, said(s), sample_weight=w),
        ),
        "rmse": (metrics.rmse, lambda y, s, w: reference.root_mean_squared_error(y, s, sample_weight=w)),
        "mae": (metrics.mae, lambda y, s, w: reference.mean_absolute_error(y, s, sample_weight=w)),
        "r2": (metrics.r2, lambda y, s, w: reference.r2_score(y, s, sample_weight=w)),
    }


@pytest.mark.parametrize("name", weighted_pairs())
def test_rows_of_weights_are_what_scikit_learn_gives_one_by_one(rng, name):
    """Otherwise a bootstrap resample, which is a row of weights, is not the resample it stands for."""
    ours, theirs = weighted_pairs()[name]
    label, score = binary(rng, ties=True)
    weight = rng.integers(0, 4, (6, len(label)))
    expected = [theirs(label, score, w) for w in weight]
    np.testing.assert_allclose(ours(label, score, weight=weight), expected, atol=1e-10)
    assert ours(label, score, weight=weight[2]) == pytest.approx(expected[2])


def test_weights_repeat_examples(rng):
    """Otherwise Pearson, which scikit-learn does not weight, is wrong in resamples."""
    x, y = rng.standard_normal(50), rng.standard_normal(50)
    weight = rng.integers(0, 3, 50)
    repeated = np.corrcoef(np.repeat(x, weight), np.repeat(y, weight))[0, 1]
    assert metrics.pearson(x, y, weight) == pytest.approx(repeated)


def test_agreement_of_ranks_is_scikit_learns_in_every_resample(rng):
    """Quadratic weighted kappa, with integer weights on examples as a bootstrap draws them."""
    label, said = rng.integers(0, 5, 60), rng.integers(0, 5, 60)
    said = np.where(rng.random(60) < 0.6, label, said)
    weight = rng.integers(0, 4, (5, 60))
    expected = [
        reference.cohen_kappa_score(label, said, weights="quadratic", sample_weight=w) for w in weight
    ]
    np.testing.assert_allclose(metrics.quadratic_kappa(label, said, weight), expected, atol=1e-10)
    assert metrics.quadratic_kappa(label, said) == pytest.approx(
        reference.cohen_kappa_score(label, said, weights="quadratic")
    )
    assert np.isnan(metrics.quadratic_kappa(np.ones(4), np.ones(4)))


def test_what_cannot_be_computed_is_nan():
    """Otherwise a split of one class gets an invented AUROC."""
    ones, score = np.ones(5, int), np.arange(5.0)
    assert np.isnan(metrics.auroc(ones, score)) and np.isnan(metrics.auroc(1 - ones, score))
    assert np.isnan(metrics.average_precision(1 - ones, score))
    assert np.isnan(metrics.sensitivity_at_specificity(ones, score))
    assert np.isnan(metrics.f1(1 - ones, ones)) and np.isnan(metrics.recall(ones, ones, 0))
    assert np.isnan(metrics.r2(ones, score)) and np.isnan(metrics.pearson(ones, score))
