"""What crosses the whole batch: the same on one device, under jit over eight and under pmap, padding and all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vitmed.objectives.whole_batch import koleo, sinkhorn


@pytest.fixture
def rows(rng):
    """16 rows, three of them padding on two of the eight devices, and one example twice."""
    weight = np.ones(16, np.float32)
    weight[[3, 14, 15]] = 0
    example = np.stack([np.arange(16)] * 2, axis=1).astype(np.uint32)
    example[9] = example[2]
    features = rng.normal(size=(16, 6)).astype(np.float32)
    features[9] = features[2]
    return features, weight, example


def both_engines(function, *arrays):
    """(jit over a mesh, pmap) of ``function(*arrays, axis)``; a scalar or rows, whole."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    placed = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in arrays]
    split = [x.reshape(8, 2, *x.shape[1:]) for x in arrays]
    jitted = jax.jit(lambda *x: function(*x, None))(*placed)
    mapped = np.asarray(jax.pmap(lambda *x: function(*x, "data"), axis_name="data")(*split))
    return np.asarray(jitted), mapped[0] if jitted.ndim == 0 else mapped.reshape(jitted.shape)


def test_sinkhorn_shares_the_whole_batch_out(rows):
    scores, weight, _ = rows
    alone = sinkhorn(jnp.asarray(scores), jnp.asarray(weight), 0.5, None)
    for made in both_engines(lambda s, w, axis: sinkhorn(s, w, 0.5, axis), scores, weight):
        np.testing.assert_allclose(made, alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.asarray(alone).sum(1), 1, rtol=1e-5)
    settled = np.asarray(sinkhorn(jnp.asarray(scores), jnp.asarray(weight), 0.5, None, rounds=100))
    np.testing.assert_allclose(settled[weight > 0].sum(0), 13 / 6, rtol=1e-3)


def test_sinkhorn_of_nothing_and_of_extremes_is_finite():
    scores = jnp.asarray([[300.0, -300.0], [-1e4, 1e4]])
    for weight in (jnp.zeros(2), jnp.ones(2)):
        assert np.isfinite(sinkhorn(scores, weight, 0.04, None)).all()


def test_koleo_and_its_gradient_cross_devices(rows):
    """The nearest neighbour lies on another device more often than not."""
    features, weight, example = rows
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kept = [i for i in range(16) if weight[i]]
    nearest = [
        min(np.linalg.norm(unit[i] - unit[j]) for j in kept if tuple(example[i]) != tuple(example[j]))
        for i in kept
    ]
    wanted = -np.log(nearest).mean()
    again = np.column_stack([example, np.arange(16, dtype=np.uint32) == 9]).astype(np.uint32)
    for names in (example, again):  # the second row of an example is not another one
        for made in both_engines(koleo, features, weight, names):
            assert float(made) == pytest.approx(wanted, rel=1e-5)

    def slope(x, w, e, axis):
        return jax.grad(lambda s: koleo(s * x, w, e, axis))(jnp.linspace(1.0, 2.0, 6))

    alone = slope(*map(jnp.asarray, rows), None)
    split = [x.reshape(8, 2, *x.shape[1:]) for x in rows]
    mapped = jax.pmap(lambda *x: jax.lax.pmean(slope(*x, "data"), "data"), axis_name="data")(*split)
    np.testing.assert_allclose(mapped[0], alone, rtol=1e-3, atol=1e-5)


def test_koleo_of_a_collapsed_batch_is_finite(rows):
    _, weight, example = rows
    slope = jax.grad(lambda x: koleo(x, jnp.asarray(weight), jnp.asarray(example), None))(jnp.ones((16, 6)))
    assert np.isfinite(slope).all()
    assert float(koleo(jnp.ones((16, 6)), jnp.zeros(16), jnp.asarray(example), None)) == 0
