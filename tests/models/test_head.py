"""Heads: ordered classes that cannot contradict one another, and a query that attends over all patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from vitmed.models.head import AttentivePool, Ranks, gaps_of, ordered


def test_every_rank_is_as_likely_at_the_start(rng):
    """A head at zero must not prefer the middle: it is what the first gradients are made from."""
    x = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    made, _ = Ranks(4).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(made, np.log(0.25), atol=1e-5)


@pytest.mark.parametrize("ranks", [3, 5])
def test_ranks_are_the_cumulative_logit_model(rng, ranks):
    """Against P(above k) = sigmoid(score - threshold k) by differences in float64; probabilities sum to one."""
    x, kernel = rng.normal(size=(6, 5)), rng.normal(size=(5, 1))
    thresholds = np.cumsum(rng.uniform(0.05, 1.5, ranks - 1)) - 1
    params = {"kernel": kernel.astype(np.float32), "thresholds": gaps_of(thresholds)}
    made = Ranks(ranks).apply({"params": params}, jnp.asarray(x, jnp.float32))
    above = expit(x @ kernel - thresholds)
    chance = -np.diff(np.concatenate([np.ones((6, 1)), above, np.zeros((6, 1))], axis=1))
    np.testing.assert_allclose(made, np.log(chance), atol=1e-4)
    np.testing.assert_allclose(made, log_softmax(made, axis=1), atol=1e-5)


def test_ranks_never_contradict_whatever_is_learned(rng):
    """P(above k) falls with k for any parameters, and log-probabilities stay finite far from the thresholds."""
    gaps = rng.normal(size=6) * 5
    assert np.all(np.diff(ordered(jnp.asarray(gaps, jnp.float32))) >= 0)
    params = {"kernel": np.ones((1, 1), np.float32), "thresholds": np.zeros(3, np.float32)}
    far = jnp.asarray([[-80.0], [0.0], [80.0]])

    def log_chance(x):
        return Ranks(4).apply({"params": params}, x)

    assert np.isfinite(log_chance(far)).all()
    assert np.isfinite(jax.grad(lambda x: log_chance(x).sum())(far)).all()


def test_a_gap_that_float32_cannot_tell_has_the_likelihood_of_its_parameter():
    """Otherwise a rank that training squeezed is impossible, and the loss of a scan of another rank nan (0 * -inf)."""
    params = {"kernel": np.ones((1, 1), np.float32), "thresholds": np.float32([2.0, -16.0, -300.0])}
    x = jnp.asarray([[0.0], [2.5]])

    def log_chance(params, x):
        return Ranks(4).apply({"params": params}, x)

    made = log_chance(params, x)
    # All thresholds lie at 2, to 1e-7.
    yes, no = np.log(expit([-2.0, 0.5])), np.log(expit([2.0, -0.5]))
    np.testing.assert_allclose(made[:, 1], yes + no - 16, rtol=1e-6)
    np.testing.assert_allclose(made[:, 2], yes + no - 300, rtol=1e-6)
    assert made[0, 1] == pytest.approx(-18.25, abs=0.01)
    slopes = jax.grad(lambda params: -(jax.nn.one_hot(0, 4) * log_chance(params, x)).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_attentive_pool_against_numpy(rng):
    """One query a head over all patches and not the class token."""
    tokens = rng.normal(size=(2, 1 + 5, 8)).astype(np.float32)
    pool = AttentivePool(heads=2)
    params = pool.init(jax.random.key(0), jnp.asarray(tokens))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    made = pool.apply({"params": params}, jnp.asarray(tokens))
    assert made.shape == (2, 8)
    for image, got in zip(tokens[:, 1:], made):
        kv = np.einsum("nd,dshe->nshe", image, params["kv"]["kernel"]) + params["kv"]["bias"]
        mixed = []
        for head in range(2):
            weights = softmax(kv[:, 0, head] @ params["query"][head] / 2)  # sqrt(4)
            mixed.append(weights @ kv[:, 1, head])
        expected = np.concatenate(mixed) @ params["out"]["kernel"].reshape(8, 8) + params["out"]["bias"]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
