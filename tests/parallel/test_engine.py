"""Every mesh and every preset is the same training: the states and losses of one engine are those of another."""

import jax
import pytest

from vitmed.parallel import shown

EIGHT = {"parallel.mesh": "data=2,fsdp=2,tensor=2", "parallel.rules": "fsdp+tensor"}
OBJECTIVES = ("mae", "simmim", "ijepa", "self_distil", "supervised", "semi_masked", "semi_teacher")
OF_MASKS = ("segmentation", "semi_teacher_masks")


def held(state):
    """Bytes on the first device."""
    device = jax.devices()[0]
    return sum(
        s.data.nbytes for x in jax.tree.leaves(state) for s in x.addressable_shards if s.device == device
    )


@pytest.mark.parametrize(
    "objective",
    [name if name == "mae" else pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES + OF_MASKS],
)
def test_every_objective_on_two_by_two_by_two_is_that_of_pmap(request, steps, alike, objective):
    """20 steps. Else a sum is taken over a part of the batch, or a shard of a parameter goes its own way."""
    scans = request.getfixturevalue("marked_dataset" if objective in OF_MASKS else "tiny_dataset")
    sharded = steps(objective, scans, **EIGHT)
    alike(sharded, steps(objective, scans, **{"parallel.engine": "pmap"}))
    assert sharded.job.update._cache_size() == 1, "the step was compiled again"
    assert held(sharded.state) == shown.held(sharded.job.engine, sharded.state)[0]
    assert held(sharded.state) < 0.5 * sum(x.nbytes for x in jax.tree.leaves(sharded.state))


@pytest.mark.slow
def test_every_mesh_is_the_same_training(tiny_dataset, steps, alike):
    """1x8, 8x1 and 2x4 of data and fsdp, with mae, beside the devices that all hold everything."""
    plain = steps("mae", tiny_dataset)
    for mesh in ("data=1,fsdp=8", "data=8,fsdp=1", "data=2,fsdp=4"):
        sharded = steps("mae", tiny_dataset, **{"parallel.mesh": mesh, "parallel.rules": "fsdp"})
        alike(plain, sharded)
        assert sharded.job.update._cache_size() == 1


def test_volumes_too(tiny_volumes, steps, alike):
    """Else a rule holds for the axes of an image alone."""
    keys = {"model.patch_size": (4, 4, 4), "augment.crop": ()}
    alike(steps("mae", tiny_volumes, 4, **keys, **EIGHT), steps("mae", tiny_volumes, 4, **keys))


def test_what_is_shown_before_the_first_step(tiny_dataset, steps):
    """Where each array lies, the bytes that a device really holds, and that gradients are summed in a step."""
    sharded = steps("mae", tiny_dataset, 1, **EIGHT)
    text = sharded.job.sharding(sharded.state)
    row = next(
        line for line in text.splitlines() if line.startswith("params/encoder/transformer/blocks/mlp1/kernel")
    )
    assert "float32[2, 32, 64]" in row and "-, fsdp, tensor" in row and row.endswith("4,096")
    assert f"the state: {held(sharded.state):,} bytes a device" in text
    assert "a device sends in a step:" in text and "all-reduce" in text.splitlines()[-1]
