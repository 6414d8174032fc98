"""The table of shardings: what it says of the networks there are, and that little of a state stays whole."""

import jax
import pytest
from jax.sharding import PartitionSpec as P
from short_runs import PROJECT, settings

from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.parallel import rules, shown

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("stack", [(), (6,)])
@pytest.mark.parametrize(
    "where", ["params/encoder", "opt_state/0/mu/decoder", "memory/teacher/encoder", "ema/encoder"]
)
def test_the_pairs_of_a_block_are_split_so_that_one_sum_follows_each(where, stack):
    """Else heads or hidden units travel between the devices in every layer; wherever the parameter's copy lies."""
    no = (None,) * len(stack)
    block = f"{where}/transformer/{'blocks' if stack else 'block_3'}"

    def spec(name, *shape, use="fsdp+tensor"):
        return rules.spec(f"{block}/{name}", (*stack, *shape), use, SIZES)

    assert spec("attention/qkv/kernel", 128, 3, 4, 32) == P(*no, "fsdp", None, "tensor", None)
    assert spec("attention/out/kernel", 4, 32, 128) == P(*no, "tensor", None, "fsdp")
    assert spec("mlp1/kernel", 128, 512) == P(*no, "fsdp", "tensor")
    assert spec("mlp2/kernel", 512, 128) == P(*no, "tensor", "fsdp")
    assert spec("mlp1/kernel", 128, 512, use="fsdp") == P(*no, "fsdp", None)
    assert spec("mlp1/kernel", 128, 512, use="replicated") == P()


def test_what_does_not_divide_is_split_elsewhere_or_stays_whole_and_is_named():
    """Else three heads on two devices are an error, or stay whole without a word."""
    path = "params/encoder/transformer/block_0/attention/qkv/kernel"
    assert rules.spec(path, (192, 3, 3, 64), "fsdp+tensor", SIZES) == P("fsdp", None, None, None)
    assert rules.spec("params/encoder/stem/kernel", (7, 7, 1, 64), "fsdp", SIZES) == P(
        None, None, None, "fsdp"
    )
    assert rules.spec("params/encoder/cls", (1, 1, 128), "fsdp", SIZES) == P()
    odd = {"a": jax.ShapeDtypeStruct((33, 65), "float32"), "b": jax.ShapeDtypeStruct((4, 4096), "float32")}
    assert (
        rules.undivided(odd, "fsdp", SIZES) == {"fsdp": ["a"]}
        and rules.undivided(odd, "replicated", SIZES) == {}
    )
    heads = {"attention": {"qkv": {"kernel": jax.ShapeDtypeStruct((192, 3, 3, 64), "float32")}}}
    assert rules.undivided(heads, "fsdp+tensor", SIZES) == {"tensor": ["attention/qkv/kernel"]}


@pytest.mark.parametrize("scan", [True, False])
def test_a_device_holds_its_part_of_the_state(tiny_dataset, scan):
    """Per device at most 1.15 of an eighth of the whole: parameters, both moments and the moving average."""
    spec = str(PROJECT / "configs" / "finetune_classify.py")
    keys = {"parallel.rules": "fsdp", "train.batch_size": 16, "model.scan": scan, "optim.ema": 0.99}
    job = Job(check(settings(spec, tiny_dataset, **keys)))
    state = jax.eval_shape(job.fresh_state, job.seed)
    own, whole = shown.held(job.engine, state)
    assert whole > 4 * 4 * job.parameters and own <= 1.15 / 8 * whole
    assert f"rules fsdp: {own / 1e6:.1f} MB of a state of {whole / 1e6:.1f} MB a device" in job.summary(0)
