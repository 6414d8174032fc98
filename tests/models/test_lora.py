"""Low-rank adaptation: the former function at the start, the written change afterwards, in either form of the layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from vitmed import config
from vitmed.errors import InputError
from vitmed.models import lora
from vitmed.models.lora import LoraConfig
from vitmed.models.transformer import stacked
from vitmed.models.vit import Variant, ViT

ALL = LoraConfig(rank=3, alpha=6.0, products="")


@pytest.fixture(scope="module")
def encoder():
    """A ViT of two blocks, 16 channels, two heads, on 3D scans: its parameters, unrolled."""
    network = ViT(Variant(16, 2, 2, 24), (2, 4, 4))
    return network.init(jax.random.key(0), jnp.zeros((1, 4, 8, 8, 1)))["params"]


def trained(change):
    """The change after some training: nothing of it is zero."""
    return jax.tree.map(lambda leaf: leaf + 0.1 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), change)


def test_it_starts_at_the_former_weights_to_the_bit(encoder):
    """Otherwise a pretrained encoder is hurt before the first step."""
    change = lora.fresh(jax.random.key(1), encoder, ALL)
    after = lora.added(encoder, change, ALL)
    assert jax.tree.structure(after) == jax.tree.structure(encoder)
    jax.tree.map(np.testing.assert_array_equal, after, encoder)
    assert all(
        np.any(leaf) == (path[-1] == "down") for path, leaf in traverse_util.flatten_dict(change).items()
    )


def test_the_change_is_the_papers(encoder):
    """W + alpha / rank * down up for each product by itself, against NumPy; what the pattern leaves out stays."""
    chosen = LoraConfig(rank=3, alpha=6.0, products="value|out|mlp1")
    change = trained(lora.fresh(jax.random.key(1), encoder, chosen))
    after = traverse_util.flatten_dict(lora.added(encoder, change, chosen))
    before, pairs = traverse_util.flatten_dict(encoder), traverse_util.flatten_dict(change)
    changed = {path for path in before if np.any(after[path] != before[path])}
    assert len(changed) == 6 and all(path[-1] == "kernel" for path in changed)
    for number in range(2):
        block = "transformer", f"block_{number}"

        def delta(*names, block=block):
            down, up = (np.asarray(pairs[*block, *names, side], np.float64) for side in ("down", "up"))
            return 2.0 * down.reshape(-1, 3) @ up.reshape(3, -1)

        qkv, kernel = (
            after[*block, "attention", "qkv", "kernel"],
            before[*block, "attention", "qkv", "kernel"],
        )
        np.testing.assert_array_equal(qkv[:, :2], kernel[:, :2])
        moved = (qkv - kernel)[:, 2].reshape(16, 16)
        np.testing.assert_allclose(moved, delta("attention", "value"), atol=1e-5)
        for names in (("attention", "out"), ("mlp1",)):
            path = (*block, *names, "kernel")
            np.testing.assert_allclose(np.ravel(after[path] - before[path]), delta(*names).ravel(), atol=1e-5)


def test_it_is_the_same_scanned_and_unrolled(encoder):
    """Each layer of a stacked kernel has a change, and draws, of its own."""
    change = lora.fresh(jax.random.key(1), encoder, ALL)
    one = lora.fresh(jax.random.key(1), stacked(encoder), ALL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stacked(change), one)
    change = trained(change)
    unrolled = stacked(lora.added(encoder, change, ALL))
    scanned = lora.added(stacked(encoder), stacked(change), ALL)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), unrolled, scanned)


def test_a_pattern_that_names_nothing_is_refused_with_what_there_is(encoder):
    wrong = LoraConfig(products="qkv")
    names = "attention/key, attention/out, attention/query, attention/value, mlp1, mlp2, patches"
    with pytest.raises(InputError, match=f"config.finetune.lora.products is 'qkv'.*{names}"):
        lora.fresh(jax.random.key(0), encoder, wrong)
    with pytest.raises(InputError, match="no transformer"):
        lora.fresh(jax.random.key(0), {"stem": {"kernel": jnp.ones((3, 3, 1, 4))}}, LoraConfig())


@pytest.mark.parametrize("keys", [{"rank": 0}, {"alpha": 0.0}, {"products": "("}])
def test_senseless_values_are_refused_by_name(keys):
    with pytest.raises(InputError, match=f"config.finetune.lora.{next(iter(keys))}"):
        config.build(LoraConfig, keys, "config.finetune.lora")
