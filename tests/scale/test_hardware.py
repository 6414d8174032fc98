"""Topologies by name, and the figures of their chips."""

import pytest

from vitmed.errors import InputError
from vitmed.scale.hardware import CHIPS, Topology


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5e:16x16", 256), ("v5p:4x4x8", 128), ("V6E:1x1", 1), ("h100:64", 64), ("h200:8", 8)],
)
def test_chips_of_a_topology(name, chips):
    assert Topology.of(name).chips == chips


@pytest.mark.parametrize(
    "name", ["v7:4x4", "tpu", "", "v5e", "v5e:3x5", "v5p:4x4", "h100", "h100:0", "h100:2x4", "h100:-1"]
)
def test_an_unknown_topology_names_those_that_are_known(name):
    """Otherwise a slip of the pen is a traceback of the compiler, or a plan for something that is not sold."""
    with pytest.raises(InputError) as error:
        Topology.of(name)
    kind = name.partition(":")[0]
    wanted = [f"{kind}:8"] if kind == "h100" else CHIPS[kind].shapes if kind in CHIPS else CHIPS
    assert all(one in str(error.value) for one in wanted)


def test_clocks_follow_from_peaks():
    """Cycles become seconds by it: a clock that is wrong by two makes every estimate so."""
    clocks = {name: chip.clock / 1e9 for name, chip in CHIPS.items() if chip.compiled_for}
    assert clocks == pytest.approx({"v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75}, rel=0.01)


def test_a_tpu_multiplies_float32_at_one_rate_and_a_gpu_does_not():
    assert all(len(set(c.peak.values())) == (1 if c.compiled_for else 2) for c in CHIPS.values())
