"""The update rule: what decays, how the rate moves, and layer-wise decay equal for scanned and unrolled layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed import config
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, encoder
from vitmed.models.transformer import stacked
from vitmed.optim.layers import layer_scales
from vitmed.optim.optimiser import OptimConfig, decayed, ema_update, joined_later, optimiser, schedule


def vit_params(scan, **keys):
    model = ModelConfig(variant="nano", patch_size=(4, 4), scan=scan, **keys)
    params = encoder(model, (8, 8)).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]
    return {"encoder": params, "head": {"scores": {"kernel": jnp.ones((128, 2)), "bias": jnp.zeros(2)}}}


def test_only_matrices_decay():
    """If biases, norms or the class token were decayed they would shrink to nothing over a long run."""
    params = vit_params(scan=False)
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, is_decayed in jax.tree_util.tree_leaves_with_path(decayed(params))
        if is_decayed
    }
    assert names and all(name.endswith("/kernel") for name in names)
    assert "encoder/patches/kernel" in names
    assert decayed({"image": {"mlp1": {"bias": 0}, "prototypes": 0}}) == {
        "image": {"mlp1": {"bias": False}, "prototypes": True}
    }


def test_rate_warms_up_and_ends_at_its_floor():
    rate = schedule(OptimConfig(lr=2.0, warmup=0.1, final_lr=0.05), 100)
    assert float(rate(0)) == 0.0
    assert float(rate(10)) == pytest.approx(2.0)
    assert float(rate(100)) == pytest.approx(0.1)
    assert all(float(rate(i)) >= float(rate(i + 1)) for i in range(10, 100))


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_warm_up_that_rounds_to_all_steps_leaves_the_last(steps):
    """Else what the config allows ends in a fault of optax that names no key."""
    rate = schedule(OptimConfig(lr=2.0, warmup=0.95), steps)
    assert float(rate(max(steps - 1, 1))) == 2.0 and float(rate(max(steps, 2))) == 0.0


def test_layer_decay_has_the_published_factors():
    """BEiT: the embedding is L+1 layers below the head, block i is L-i below it, the final norm at the head."""
    scales = layer_scales(vit_params(scan=False), 0.5)
    transformer = scales["encoder"]["transformer"]
    assert scales["head"]["scores"]["kernel"] == 1
    assert scales["encoder"]["norm"]["scale"] == 1
    assert transformer["block_5"]["mlp1"]["kernel"] == 0.5
    assert transformer["block_0"]["mlp1"]["kernel"] == 0.5**6
    assert scales["encoder"]["patches"]["kernel"] == 0.5**7
    assert scales["encoder"]["cls"] == 0.5**7


MODERN = dict(preset="modern", positions="learned")


def test_what_a_modern_vit_has_more_does_not_decay():
    """Positions, registers, scales of norms and branches are no matrices, whatever their shape."""
    params = vit_params(scan=True, **MODERN)["encoder"]
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, is_decayed in jax.tree_util.tree_leaves_with_path(decayed(params))
        if is_decayed
    }
    assert {"transformer/blocks/mlp1/kernel", "patches/kernel"} < names
    assert all(name.endswith("/kernel") for name in names)


def test_layer_decay_reaches_what_a_modern_vit_has_more():
    """What enters before the first block is as far from the head as the embedding; a branch's scale as its block."""
    scales = layer_scales(vit_params(scan=False, **MODERN), 0.5)["encoder"]
    assert scales["positions"] == scales["registers"] == scales["cls"] == 0.5**7
    assert scales["norm"]["scale"] == 1
    for name in ("scale1", "scale2"):
        assert scales["transformer"]["block_2"][name] == 0.5**4
    assert scales["transformer"]["block_5"]["attention"]["query_norm"]["scale"] == 0.5


def test_low_rank_changes_decay_with_their_block():
    """They are the block's weights in another form; the embedding's number is 0, the head's the last."""
    params = vit_params(scan=False)
    params["lora"] = {"transformer": {f"block_{n}": {"mlp1": {"down": jnp.ones((4, 2))}} for n in range(6)}}
    made = layer_scales(params, 0.5)["lora"]["transformer"]
    assert (made["block_0"]["mlp1"]["down"], made["block_5"]["mlp1"]["down"]) == (0.5**6, 0.5)
    scanned = layer_scales(stacked(params), 0.5)["lora"]["transformer"]["blocks"]["mlp1"]["down"]
    assert scanned.shape == (6, 1, 1) and (scanned[0], scanned[5]) == (0.5**6, 0.5)
    assert decayed(params)["lora"]["transformer"]["block_0"]["mlp1"]["down"]


def test_who_joins_later_starts_afresh():
    """An encoder that joins at step 3 is updated as by a run of its own from there; the head as if alone before."""
    config = OptimConfig(lr=1.0, layer_decay=0.6, warmup=0.2)
    params = {
        "encoder": {"transformer": {"blocks": {"mlp1": {"kernel": jnp.ones((2, 3, 3))}}}, "cls": jnp.ones(3)},
        "head": {"kernel": jnp.ones((3, 2))},
    }
    grads = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
    tx = joined_later(config, 10, 3, params)
    state = tx.init(params)
    for _ in range(3):
        change, state = tx.update({"head": grads["head"]}, state, {"head": params["head"]})
        assert set(change) == {"head"}
    alone = optimiser(config, 7, params, lambda tree: {"encoder": tree["encoder"]})
    fresh = alone.init({"encoder": params["encoder"]})
    for _ in range(3):
        change, state = tx.update(grads, state, params)
    for _ in range(3):
        expected, fresh = alone.update({"encoder": grads["encoder"]}, fresh, {"encoder": params["encoder"]})
    jax.tree.map(np.testing.assert_array_equal, change["encoder"], expected["encoder"])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(change["head"]))


@pytest.mark.parametrize("keys", [{}, MODERN], ids=["plain", "modern"])
def test_layer_decay_is_the_same_scanned_and_unrolled(keys):
    """One stacked array must not get one rate: each of its layers has its own."""
    unrolled_params = vit_params(scan=False, **keys)
    scanned_params = stacked(unrolled_params)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 0.1), unrolled_params)
    config = OptimConfig(lr=1.0, layer_decay=0.6, warmup=0.0)

    def updates(params, grads):
        tx = optimiser(config, 10, params)
        state = tx.init(params)
        for _ in range(2):  # the first step of the warm-up has rate 0
            change, state = tx.update(grads, state, params)
        return change

    unrolled_change = stacked(updates(unrolled_params, grads))
    scanned_change = updates(scanned_params, stacked(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), unrolled_change, scanned_change)


def test_average_forgets_its_start():
    """Without the short memory at first, an average of decay .999 would be the initial weights for 1,000 steps."""
    average = {"w": jnp.zeros(())}
    for step in range(1, 101):
        average = ema_update(average, {"w": jnp.ones(())}, jnp.asarray(step), 0.999)
    assert float(average["w"]) > 0.99


def test_a_slope_that_is_small_beside_eps_makes_no_step_of_the_full_rate():
    """Otherwise what is nothing but rounding moves a parameter as far as what was learned."""
    params = {"kernel": jnp.zeros(2)}
    for eps, small in ((1e-8, 1e-3), (1e-4, 1e-5)):
        rule = optimiser(OptimConfig(lr=1e-3, weight_decay=0.0, warmup=0.0, eps=eps), 1000, params)
        state = rule.init(params)
        for _ in range(2):  # the rate is 0 at the first step
            step, state = rule.update({"kernel": jnp.array([1.0, 1e-6])}, state, params)
        large = abs(float(step["kernel"][0]))
        assert large == pytest.approx(1e-3, rel=1e-2)
        assert abs(float(step["kernel"][1])) == pytest.approx(small, rel=0.02)


@pytest.mark.parametrize(
    "key,value",
    [
        ("lr", -1.0),
        ("eps", 0.0),
        ("warmup", 1.5),
        ("layer_decay", 0.0),
        ("ema", 1.0),
        ("clip", -1.0),
        ("weight_decay", -0.1),
        ("beta1", 1.0),
        ("beta2", -0.1),
    ],
)
def test_senseless_values_are_refused_by_name(key, value):
    with pytest.raises(InputError, match=f"config.optim.{key}"):
        config.build(OptimConfig, {key: value}, "config.optim")
