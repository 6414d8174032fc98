"""Gradient accumulation is the large batch, to rounding, whatever the loss does with it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.parallel.microbatches import microbatches


@pytest.mark.parametrize(
    "objective", ["mae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("self_distil", "semi_teacher"))]
)
def test_four_parts_are_the_whole_batch(tiny_dataset, steps, alike, objective):
    """Patches that do not count, Sinkhorn and KoLeo over the batch, labels that are missing: as in one piece."""
    keys = (
        {"train.batch_size": 32, "data.unlabelled_batch": 64}
        if objective == "semi_teacher"
        else {"train.batch_size": 32}
    )
    keys |= {"objective.foreground": 0.3} if objective == "mae" else {}
    whole = steps(objective, tiny_dataset, 8, **keys)
    alike(whole, steps(objective, tiny_dataset, 8, **keys, **{"parallel.accumulate": 4}))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, keys=None, token=None):
        x = x + token
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(keys)
        return nn.Dense(3)(jnp.tanh(nn.Dense(64)(x) + noise[:, :1])), x.sum(axis=1)


def test_rows_go_through_in_parts_and_all_else_whole(rng):
    """A token as long as the batch, a key a row, several results; and less memory for the backward pass."""
    net, x = Net(), jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)
    token, keys = jnp.arange(8.0), jax.random.split(jax.random.key(0), 8)
    params = net.init(jax.random.key(1), x, keys=keys, token=token)

    def loss(params, token):
        y, total = net.apply(params, x, keys=keys, token=token)
        return (y**2).sum() / jnp.abs(total).sum()

    def split(*args):
        with microbatches(4):
            return loss(*args)

    wanted = jax.value_and_grad(loss, (0, 1))(params, token)
    found = jax.value_and_grad(split, (0, 1))(params, token)
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    text = jax.make_jaxpr(jax.grad(split))(params, token).pretty_print()
    assert ":f32[2,64] = tanh" in text and ":f32[8,64] = tanh" not in text
