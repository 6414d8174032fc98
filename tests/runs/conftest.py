import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitmed.runs import bundle


@pytest.fixture
def state():
    """A train state of every kind: optax's named tuples, bfloat16, an empty branch, arrays of all sizes."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "encoder": {"kernel": jax.random.normal(keys[0], (600, 600)), "bias": jnp.full((7,), -0.0)},
        "head": {"kernel": jax.random.normal(keys[1], (5, 3)).astype(jnp.bfloat16)},
    }
    assert params["encoder"]["kernel"].nbytes > bundle.SMALL
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1e-3, 0, 10)))
    return {
        "params": params,
        "opt_state": optimiser.init(params),
        "memory": {"centre": jax.random.normal(keys[2], (4,))},
        "ema": {},
        "step": jnp.int32(3),
    }


@pytest.fixture
def same():
    """Asserts that two pytrees have the same structure and the same bits."""

    def check(found, expected):
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            other = np.asarray(other)
            assert isinstance(one, np.ndarray)
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())

    return check
