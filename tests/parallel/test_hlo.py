"""Costs read back from a program's text, against sums done by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitmed.parallel import hlo

# As the compiler for a v5e writes it, shortened: a scan's loop, whose body has a fusion and a sum over the chips.
TEXT = """\
HloModule jit__update, is_scheduled=true, entry_computation_layout={(f32[])->f32[]}, num_partitions=4

%fused_computation.1 (param_0: f32[8,128]) -> f32[8,128] {
  %param_0 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %inner = f32[8,128]{1,0:T(8,128)} multiply(%param_0, %param_0), backend_config={"window_config":{"estimated_cycles":"9"}}
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%scatter_fusion (p: f32[32,128]) -> f32[8,128] {
  %rs = f32[8,128]{1,0:T(8,128)} reduce-scatter(%p), replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add
}

%body (arg: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %arg = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %fusion.1 = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused_computation.1, backend_config={"window_config":{"estimated_cycles":"100"}}
  %all-reduce.48 = (f32[1,4]{1,0:T(8,128)S(1)}, /*index=1*/bf16[1,128,3]{2,1,0}) all-reduce(%a, %b), replica_groups=mesh['axis_0'=1,'axis_1'=2,'axis_2'=2] {'axis_1','axis_2'}, to_apply=%add
}

%condition (arg: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%near (arg: f32[]) -> f32[] {
  %cheap = f32[8]{0} copy(%arg), backend_config={"window_config":{"estimated_cycles":"5"}}
}

%far (arg: f32[]) -> f32[] {
  %dear = f32[8]{0} copy(%arg), backend_config={"window_config":{"estimated_cycles":"50"}}
}

ENTRY %main.1_spmd (param: f32[]) -> f32[] {
  %start = (f32[2,128]{1,0}, f32[8,128]{1,0}) all-gather-start(%p), replica_groups={{0,1,2,3}}, dimensions={0}
  %done = f32[8,128]{1,0} all-gather-done(%start)
  %while.13 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) while(%t), condition=%condition, body=%body, metadata={op_name="while"}
  %branch = f32[8]{0} conditional(%i, %t, %t), branch_computations={%near, %far}
  %scattered = f32[8,128]{1,0} fusion(%y), kind=kCustom, calls=%scatter_fusion, backend_config={"window_config":{"estimated_cycles":"7"}}
  %moved = f32[16]{0} collective-permute(%y), source_target_pairs={{0,1},{1,0}}
  ROOT %last = f32[]{:T(128)} fusion(%z), kind=kLoop, calls=%fused_computation.1, backend_config={"window_config":{"estimated_cycles":"1000"}}
}
"""


def test_what_is_in_a_loop_counts_as_often_as_it_turns():
    """Otherwise a scanned model looks as cheap as one layer; or what a fusion holds is counted twice."""
    program = hlo.read(TEXT, 4)
    assert program.cycles == 6 * 100 + 50 + 7 + 1000
    assert program.unknown_loops == 0


def test_bytes_that_a_chip_sends_by_kind():
    """Otherwise the interconnect's share of a step is wrong; started and done are one transfer, not two."""
    sent = hlo.read(TEXT, 4).sent
    assert sent == {
        "all-reduce": 6 * (2 * (4 * 4 + 128 * 3 * 2) * 3 // 4),
        "all-gather": 8 * 128 * 4 * 3 // 4,
        "reduce-scatter": 8 * 128 * 4 * 3,
        "collective-permute": 64,
    }


def test_a_noted_trip_count_goes_first():
    noted = TEXT.replace("body=%body,", 'body=%body, backend_config={"known_trip_count":{"n":"3"}},')
    assert hlo.read(noted, 4).cycles == 3 * 100 + 50 + 7 + 1000


def test_a_loop_of_unknown_length_is_told():
    """Otherwise an estimate that is too low by the number of layers looks like any other."""
    program = hlo.read(TEXT.replace("constant(6)", "parameter(0)"), 4)
    assert program.unknown_loops == 1 and program.cycles == 100 + 50 + 7 + 1000


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1},{2,3}}", 2),
        ("replica_groups=[16,8]<=[8,16]T(1,0)", 8),
        ("replica_groups=mesh['a'=16,'b'=2] {'b'}", 2),
        ("replica_groups={}", 32),
    ],
)
def test_the_size_of_a_group(groups, size):
    sent = hlo.sent(
        "all-gather", "all-gather", "f32[64]{0}", f"all-gather(%x), {groups}, dimensions={{0}}", 32
    )
    assert sent == 256 * (size - 1) // size


def test_a_transfer_that_goes_on_beside_several_fusions_is_sent_once():
    """Otherwise gathers that a TPU hides behind its products look up to ten times as dear as they are."""
    gather = "%g{n} = f32[8,128]{{1,0}} all-gather(%p), channel_id=7, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}"
    body = "\n".join(
        f"%piece.{n} (p: f32[2,128]) -> f32[8,128] {{\n  {gather.format(n=n)}\n}}\n" for n in range(3)
    )
    calls = "\n".join(
        f"  %f{n} = f32[8,128]{{1,0}} fusion(%y), kind=kCustom, calls=%piece.{n}" for n in range(3)
    )
    other = (
        "  %late = f32[8,128]{1,0} all-gather(%p), channel_id=8, replica_groups={{0,1,2,3}}, dimensions={0}"
    )
    text = f"HloModule m\n\n{body}\nENTRY %main (p: f32[2,128]) -> f32[] {{\n{calls}\n{other}\n}}\n"
    assert hlo.read(text, 4).sent == {"all-gather": 2 * 8 * 128 * 4 * 3 // 4}


def test_a_sum_in_a_loop_counts_as_often_as_the_loop_turns():
    """Else a scan over 24 layers seems to send what one does."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())

    def once(a):
        return jax.shard_map(lambda b: jax.lax.psum(b, "x"), mesh=mesh, in_specs=P("x"), out_specs=P())(a)

    def turns(a):
        return jax.lax.scan(
            lambda total, n: (total + once(a * (total.sum() + n)), None), jnp.zeros((2, 5)), jnp.arange(6.0)
        )[0]

    a = jax.device_put(jnp.ones((16, 5)), rows)
    text = jax.jit(once, out_shardings=whole).lower(a).compile().as_text()
    program = hlo.read(text, 8)
    # of 8 devices in a ring each sends 7 of 8 parts, of its own and of the sums
    assert program.transfers == {"all-reduce": 1} and program.sent == {"all-reduce": 2 * 2 * 5 * 4 * 7 // 8}
    text = jax.jit(turns, out_shardings=whole).lower(a).compile().as_text()
    program = hlo.read(text, 8)
    assert program.transfers == {"all-reduce": 6} and program.sent == {
        "all-reduce": 6 * (2 * 2 * 5 * 4 * 7 // 8)
    }
    gather = jax.jit(lambda x: x, out_shardings=whole).lower(a).compile().as_text()
    program = hlo.read(gather, 8)
    assert program.transfers == {"all-gather": 1} and program.sent == {"all-gather": 16 * 5 * 4 * 7 // 8}


def test_sums_that_one_channel_names_are_as_many_as_they_are():
    """Else a step of the pmap engine, whose sums all have channel 1, seems to send its largest array alone."""
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def twice(a):
        first = jax.lax.psum(a, "x")
        many, _ = jax.lax.scan(lambda b, _: (jax.lax.psum(b * first, "x"), None), first, length=5)
        return jax.lax.psum(jnp.sin(many), "x")

    run = jax.shard_map(twice, mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=False)
    program = hlo.read(jax.jit(run).lower(jnp.ones((16, 5))).compile().as_text(), 4)
    assert program.transfers == {"all-reduce": 7} and program.sent == {
        "all-reduce": 7 * (2 * 4 * 5 * 4 * 3 // 4)
    }


def test_a_transfer_that_starts_and_ends_with_one_computation_is_one():
    """Else what runs asynchronously is counted where it starts and where it is waited for."""
    text = """
%wrapped (p: f32[8]) -> f32[32] {
  ROOT %g = f32[32]{0} all-gather(%p), replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (p: f32[8]) -> f32[32] {
  %s = ((f32[8]{0}), f32[32]{0}) async-start(%p), calls=%wrapped
  %u = ((f32[8]{0}), f32[32]{0}) async-update(%s), calls=%wrapped
  ROOT %d = f32[32]{0} async-done(%u), calls=%wrapped
}
"""
    program = hlo.read(text, 4)
    assert program.transfers == {"all-gather": 1} and program.sent == {"all-gather": 32 * 4 * 3 // 4}
