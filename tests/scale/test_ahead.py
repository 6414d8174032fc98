"""The TPU's own compiler, asked for a tiny step. Needs the extra ``plan``, which .ci/run installs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitmed.scale.ahead import needed_bytes

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.plan

TINY = [
    "--config", str(PROJECT / "configs" / "pretrain_mae.py") + ":tiny", "--config.data.size=16,16",
    "--config.train.steps=100",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def libtpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install 'vitmed[plan]'")


def plan(*words, code=0):
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "vitmed", "plan", *TINY, *words, "--json"],
        cwd=PROJECT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def four():
    return plan("--topology", "v5e:2x2")


def test_a_step_is_compiled_for_a_slice_that_is_not_here(four):
    result, said = four
    assert result["fits"] and result["chips"] == 4 and not result["estimate"]
    assert result["cycles"] > 10_000 and result["images_per_second"] > 0
    # Nothing but what a person is to read: the compiler's complaints about this machine are not.
    assert "WARNING" not in said and "E0000" not in said


def test_bytes_are_the_state_and_the_batch(four):
    """If the step were compiled for other shapes, or nothing were donated, they would differ."""
    result, _ = four
    kinds = result["bytes_by_kind"]
    assert 0.9 * kinds["arguments"] < kinds["aliased"] <= kinds["arguments"]
    assert result["bytes_per_chip"] == sum(kinds.values()) - 2 * kinds["aliased"]


def test_gradients_are_summed_over_the_chips(four):
    """Twice three quarters of 4 bytes a parameter, by a ring of four: which is a quarter of the state (with Adam's moments)."""
    result, _ = four
    parameters = result["bytes_by_kind"]["aliased"] / 3
    assert result["collective_bytes_by_kind"]["all-reduce"] == pytest.approx(1.5 * parameters, rel=0.05)


def test_sharded_parameters_are_gathered():
    result, _ = plan("--topology", "v5e:2x2", "--config.parallel.rules=fsdp", "--config.parallel.mesh=fsdp=4")
    assert result["fits"] and "all-gather" in result["collective_bytes_by_kind"]


MESHES = """
import sys
from jax.experimental import topologies
from vitmed.parallel import mesh
shape, slices, line = sys.argv[1], int(sys.argv[2]), sys.argv[3]
devices = topologies.get_topology_desc(shape, platform="tpu", num_slices=slices).devices
made = mesh.make(mesh.sizes(line, len(devices)), devices)
print(len({d.id for d in made.devices.flat}), [len({getattr(d, "slice_index", 0) for d in g.flat}) for g in made.devices])
"""


@pytest.mark.parametrize(
    ("slice", "number", "line", "groups"),
    [("v5p:4x4x4", 1, "data=-1,fsdp=8", 8), ("v5e:4x4", 2, "data=-1,fsdp=8", 4)],
)
def test_two_axes_may_share_a_ring_and_slices_share_out_examples_alone(slice, number, line, groups):
    """Else a v5p of 64 chips cannot be trained on by fsdp=8, or parameters are gathered over the network between slices."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", MESHES, slice, str(number), line],
        cwd=PROJECT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[0] == f"{groups * 8} {[1] * groups}", done.stderr


def test_out_of_memory_is_an_answer():
    """By how much it does not fit, and what would; not a fault of the compiler."""
    result, said = plan(
        "--topology", "v5e:1x1", f"--config.train.batch_size={2**21}", "--config.data.size=64,64"
    )
    assert not result["fits"] and result["bytes_per_chip"] > result["memory_per_chip"]
    assert result["images_per_second"] is None and "Traceback" not in said


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 20.50G of 15.75G hbm.", 20.5 * 2**30),
        (
            "RESOURCE_EXHAUSTED: memory required for HLO temporaries (14.58T) exceeds available HBM",
            14.58 * 2**40,
        ),
        ("RESOURCE_EXHAUSTED: something else ran out", None),
        ("INTERNAL: Used 1G of 2G hbm", None),
    ],
)
def test_what_a_refusal_says_of_memory(message, wanted):
    found = needed_bytes(message)
    assert found is wanted if wanted is None else found == int(wanted)
