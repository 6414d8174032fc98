"""The health of a representation: numbers that tell a collapsed one, and probes that see the training split alone."""

import numpy as np
import pytest

from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import health
from vitmed.evaluate.health import Looked, ProbeConfig


def test_rank_counts_the_directions_that_are_used(rng):
    """RankMe: as many as there are equal singular values, 1 where all features are one."""
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    for dimensions in (1, 5, 12):
        values = np.zeros((40, 12))
        values[:dimensions, :dimensions] = 3 * np.eye(dimensions)
        assert health.rank(turn @ values) == pytest.approx(dimensions, rel=1e-3)
    assert health.rank(np.ones((40, 12))) == pytest.approx(1, abs=1e-3) and health.rank(np.zeros((4, 3))) == 1
    uneven = np.diag([3.0, 1.0])
    assert health.rank(uneven) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)), rel=1e-4)


def test_deviation_is_one_on_the_sphere_and_none_at_a_point(rng):
    assert health.deviation(rng.normal(size=(4000, 30))) == pytest.approx(1, abs=0.02)
    assert health.deviation(np.outer(1 + rng.random(40), np.arange(30))) == pytest.approx(0, abs=1e-12)


def test_collapse_names_what_is_too_low():
    """Otherwise registered scans, whose features are mostly one and the same, end a training that goes well."""
    found = {"health/rank": 1.0, "health/deviation": 0.001}
    told = "the features have collapsed: rank 1 (below 1.5) and deviation 0.001 (below 0.01)"
    assert health.collapsed(found, ProbeConfig()) == told
    assert (
        health.collapsed({**found, "health/linear_auroc": 0.55, "health/knn_r2": 0.0}, ProbeConfig()) == told
    )
    for fine in (
        {"health/rank": 9.0},
        {"health/deviation": 0.5},
        {"health/linear_auroc": 0.9},
        {"health/knn_r2": 0.4},
    ):
        assert health.collapsed({**found, **fine}, ProbeConfig()) == ""


def test_features_that_are_not_finite_are_no_fault_of_the_look(tiny_dataset):
    """Otherwise a training that diverges ends in a traceback of linear algebra, before its loss says why."""
    data = Dataset.open(tiny_dataset)
    looked = health.choose(data, "train", 20)
    found = health.report(np.full((len(looked.indices), 4), np.nan), data, "train", looked, 3)
    assert np.isnan(found["health/rank"]) and health.collapsed(found, ProbeConfig()) == ""


def test_neighbours_vote_by_closeness(rng):
    """Against a vote counted one by one, with a missing label and more neighbours than there are."""
    features, asked = rng.normal(size=(6, 3)), rng.normal(size=(2, 3))
    label, weight = rng.integers(0, 2, size=(6, 2)).astype(float), np.ones((6, 2))
    label[1, 0], weight[1, 0] = np.nan, 0
    found = health.vote(features, label, weight, asked, "multilabel", 2, 4)
    for row, one in enumerate(asked):
        close = features @ one / np.linalg.norm(features, axis=1) / np.linalg.norm(one)
        near = sorted(range(6), key=lambda i: -close[i])[:4]
        for column in range(2):
            known = [i for i in near if weight[i, column]]
            share = np.exp((close[known] - 1) / 0.07)
            assert found[row, column] == pytest.approx((share * label[known, column]).sum() / share.sum())
    classes = health.vote(features, np.arange(6)[:, None] % 3, np.ones((6, 1)), asked, "multiclass", 3, 50)
    np.testing.assert_allclose(classes.sum(1), 1)


def test_scans_are_chosen_by_patient_from_the_split_alone(tiny_dataset):
    dataset = Dataset.open(tiny_dataset)
    patients = np.array(dataset.patients("train"))
    some, all_ = (health.choose(dataset, "train", n) for n in (12, 1000))
    assert 10 <= len(some.indices) <= 12 and len(all_.indices) == dataset.size("train")
    for looked in (some, all_):
        learned, asked = (set(patients[looked.indices[half]]) for half in (looked.learn, ~looked.learn))
        assert learned and asked and not learned & asked
        assert all((patients == p).sum() == (patients[looked.indices] == p).sum() for p in learned | asked)
    with pytest.raises(InputError, match="config.probe.examples is 1, fewer than the scans of two patients"):
        health.choose(dataset, "train", 1)


def test_probes_tell_what_the_features_know(tiny_dataset, rng):
    dataset = Dataset.open(tiny_dataset)
    looked = health.choose(dataset, "train", 1000)
    label = dataset.labels("train")[0][looked.indices]
    noise = rng.normal(size=(len(label), 4))
    knowing = np.concatenate([noise, 6 * label - 3], axis=1)
    found = health.report(knowing, dataset, "train", looked, 5)
    assert found["health/knn_auroc"] > 0.95 and found["health/linear_auroc"] > 0.95
    assert found["health/labels"] == len(label)
    # So few scans say little of one draw of noise; the mean of many knows nothing.
    draws = [health.report(rng.normal(size=noise.shape), dataset, "train", looked, 5) for _ in range(40)]
    for name in ("health/knn_auroc", "health/linear_auroc"):
        assert abs(np.mean([draw[name] for draw in draws]) - 0.5) < 0.1
    plain = health.report(noise, dataset, "train", Looked(looked.indices, None), 5)
    assert set(plain) == {"health/rank", "health/deviation"}
