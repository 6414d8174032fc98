"""What a step needs, read from its traced form, against sums done by hand."""

import dataclasses

import pytest

from vitmed import config as configs
from vitmed.job.config import check
from vitmed.models.cost import Product
from vitmed.scale import presets, roofline
from vitmed.scale.footprint import Footprint, footprint
from vitmed.scale.hardware import CHIPS, Topology

TINY = {
    "data": {"path": "", "size": (16, 24)},
    "model": {
        "variant": "nano",
        "patch_size": (4, 4),
        "decoder_dim": 16,
        "decoder_depth": 1,
        "decoder_heads": 2,
    },
    "objective": {"name": "mae"},
    "train": {"batch_size": 8, "steps": 10},
}


def tiny(**parallel):
    return check(configs.tree({**TINY, "parallel": parallel}))


@pytest.fixture(scope="module")
def feet():
    return {remat: footprint(tiny(remat=remat), 4) for remat in ("none", "dots", "full")}


def test_what_is_kept_falls_and_what_is_done_rises_with_rematerialisation(feet):
    """Otherwise plan recommends recomputation that saves nothing, or calls it free."""
    none, dots, full = (feet[remat] for remat in ("none", "dots", "full"))
    assert none.kept > dots.kept > full.kept > 0
    assert none.flops < dots.flops < full.flops < 4 / 3 * none.flops + 1
    assert none.again == 0 < full.again


def test_a_training_step_is_three_times_its_products_but_for_the_first_layer(feet):
    """By hand: 6 blocks of 128 over 1 + 6 of 24 patches, a decoder's one block of 16 over 25, and the layers around."""
    tokens, dim, mlp = 7, 128, 512
    encoder = 6 * tokens * (4 * dim * dim + 2 * dim * mlp + 2 * tokens * dim) * 2
    decoder = 25 * (4 * 16 * 16 + 2 * 16 * 64 + 2 * 25 * 16) * 2
    around = (
        7 * dim * 16 + 25 * 16 * 16
    ) * 2  # into the decoder; out to pixels (of the class token too, at the most)
    patches = 6 * 16 * dim * 2  # its inputs are pixels, for which nothing asks a slope
    whole = 3 * (encoder + decoder + around) + 2 * patches
    assert feet["none"].flops == pytest.approx(whole, rel=0.01)


def test_bytes_of_the_state(feet):
    """Parameters, two moments, and what counts steps; the batch as it is stored: 16-bit pixels and a few words."""
    foot = feet["none"]
    assert foot.state == pytest.approx(3 * foot.parameters, rel=1e-3) and foot.state > 3 * foot.parameters
    assert foot.fed == 16 * 24 * 2 + 4 * (1 + 1 + 2 + 0 + 0 + 1 + 3)


def test_memory_by_shards_and_parts():
    foot = Footprint(
        2, parameters=100, gradients=100, state=300, kept=50.0, fixed=0.0, again=10.0, fed=1.0, products=()
    )
    assert foot.memory(4) == 400 + 60 * 4 + 4
    assert foot.memory(4, shards=4) == 100 + 100 + 60 * 4 + 4
    assert foot.memory(4, parts=2) == 400 + 60 * 2 + 4


def test_a_part_at_a_time_is_computed_forward_twice():
    twice = footprint(tiny(accumulate=2), 4)
    once = footprint(tiny(), 4)
    assert 1.2 * once.flops < twice.flops < 1.4 * once.flops


def test_the_roofline_by_hand():
    """A product limited by operations, one by memory, the state there and back, and a sum of gradients over a node."""
    chip = dataclasses.replace(
        CHIPS["h100"], peak={"float32": 100.0}, bandwidth=10.0, links=40.0, network=5.0
    )
    foot = Footprint(1, 20, 20, 60, 0.0, 0.0, 0.0, 0.0, (Product(1000, 5, 3), Product(10, 400, 1)))
    assert roofline.computing(foot, chip, "float32") == 3 * 10 + 40 + 2 * 80 / 10
    sent = roofline.sent(foot, data=4, fsdp=2)
    assert sent == {"all-gather": 20, "reduce-scatter": 10, "all-reduce": 2 * 10 * 3 / 4}
    assert roofline.travelling(sent, chip, 8) == 45 / 20
    assert roofline.travelling(sent, chip, 16) == 45 / 20 + 45 / 8 / 5


def test_presets_that_fit_come_fastest_first_and_keep_the_batch():
    config = tiny()
    made = presets.promising(config, Topology.of("h100:8"))
    assert made[0].parallel.remat == "none" and {one.train.batch_size for one in made} == {8}
    assert config not in made


def test_where_nothing_fits_the_batch_is_halved(monkeypatch):
    """Otherwise plan says no and leaves its user there."""
    foot = footprint(tiny(remat="full"), 1)
    small = dataclasses.replace(CHIPS["h100"], memory=foot.memory(1, shards=8) / presets.ROOM * 1.2)
    config = check(configs.tree({**TINY, "train": {"batch_size": 8192, "steps": 10}}))
    made = presets.promising(config, Topology("h100:8", small, 8))
    assert made and all(one.train.batch_size < 8192 for one in made)


def test_a_low_rank_change_has_gradients_of_its_own_alone():
    """Otherwise plan says of LoRA that it takes the memory of training all."""
    keys = {**TINY, "objective": {"name": "supervised"}, "init_from": "runs/mae"}
    keys["model"] = {"variant": "nano", "patch_size": (4, 4)}
    full, lora = (
        footprint(check(configs.tree({**keys, "finetune": {"method": method}})), 4)
        for method in ("full", "lora")
    )
    assert full.gradients == full.parameters
    ranks = 6 * 2 * 8 * (128 + 128) * 4  # blocks, queries and values, rank, both sides, bytes
    assert ranks <= lora.gradients < 1.2 * ranks < 0.1 * lora.parameters
    assert lora.state < 1.1 * lora.parameters < 0.4 * full.state
    # Forward and the slopes of what goes through; those of frozen weights are not computed.
    assert 2 / 3 * full.flops < lora.flops < 0.85 * full.flops


def test_the_second_stream_is_as_large_as_it_was_asked_for():
    """Otherwise a plan says that eight unlabelled scans beside each labelled one cost nothing."""

    def of(beside, examples=4):
        data = {**TINY["data"], "unlabelled": "split", "unlabelled_batch": beside}
        keys = {**TINY, "data": data, "objective": {"name": "semi_masked"}}
        return footprint(check(configs.tree(keys)), examples)

    alike, same, more = of(None), of(8), of(64)
    assert alike == same
    # Of few examples a device's share of the second stream would be a fraction of a scan.
    assert of(3, 2).examples == 16 and of(3, 2).flops == pytest.approx(of(3, 16).flops)
    assert 2 * alike.flops < more.flops and 2 * alike.kept < more.kept and 3 * alike.fed < more.fed


def test_what_is_kept_of_weights_does_not_grow_with_the_batch():
    """Otherwise a batch of 64 is said to keep the weights of a layer 64 times."""
    keys = {
        **TINY,
        "objective": {"name": "supervised"},
        "init_from": "runs/mae",
        "finetune": {"method": "lora"},
    }
    keys["model"] = {"variant": "nano", "patch_size": (4, 4)}
    few, many = (footprint(check(configs.tree(keys)), n) for n in (2, 16))
    assert few.kept == pytest.approx(many.kept, rel=0.01) and few.fixed == pytest.approx(many.fixed, rel=0.05)
    assert few.memory(16) == pytest.approx(many.memory(16), rel=0.01)
