"""What a step sends, read from compiled programs whose sums are known."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitmed.parallel.collectives import collectives


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
    assert collectives(text) == {"all-reduce": (1, 2 * 5 * 4)}
    text = jax.jit(turns, out_shardings=whole).lower(a).compile().as_text()
    assert collectives(text)["all-reduce"] == (6, 6 * 2 * 5 * 4)
    gather = jax.jit(lambda x: x, out_shardings=whole).lower(a).compile().as_text()
    assert collectives(gather) == {"all-gather": (1, 16 * 5 * 4)}


def test_the_asynchronous_ones_of_accelerators_count_once():
    """Their start names operands and results, their end is no second one."""
    text = """
ENTRY %main (p: bf16[8]) -> bf16[64] {
  %s = (bf16[8]{0}, bf16[64]{0}) all-gather-start(bf16[8]{0} %p), dimensions={0}
  ROOT %d = bf16[64]{0} all-gather-done((bf16[8]{0}, bf16[64]{0}) %s)
}
"""
    assert collectives(text) == {"all-gather": (1, 128)}
