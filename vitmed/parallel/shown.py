"""How a state is shared out, for people: where each array lies, what a device holds, what a step sends."""

import math
from typing import Any

import jax

from vitmed.parallel import hlo, mesh, rules
from vitmed.parallel.engine import Engine

_NAMED = 3  # arrays named in one line of what is not split


def held(engine: Engine, state: Any) -> tuple[int, int]:
    """Bytes of a state (or of its shapes) on one device, and of the whole of it."""
    specs = rules.specs(state, engine.rules, engine.sizes)
    parts = [
        (math.prod(x.shape) * x.dtype.itemsize, _parts(spec, engine.sizes))
        for x, spec in zip(jax.tree.leaves(state), jax.tree.leaves(specs, is_leaf=_is_spec))
    ]
    return sum(size // n for size, n in parts), sum(size for size, _ in parts)


def line(engine: Engine, state: Any) -> str:
    """``mesh data=2,fsdp=4, rules fsdp: 12.0 MB of a state of 48.0 MB a device``, and what does not divide; "" where
    nothing is sharded."""
    if engine.rules == "replicated":
        return ""
    own, whole = held(engine, state)
    text = (
        f"mesh {mesh.written(engine.sizes)}, rules {engine.rules}: {_megabytes(own)} of a state of {_megabytes(whole)} a "
        "device"
    )
    for axis, kept in rules.undivided(state["params"], engine.rules, engine.sizes).items():
        more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
        text += f"; {axis} divides nothing in {', '.join(kept[:_NAMED])}{more}, which it leaves whole"
    return text


def table(engine: Engine, state: Any, program: str) -> str:
    """Every array of the state, and the collectives of one step.

    Args:
        state: arrays or their shapes.
        program: the compiled step's HLO.
    """
    specs = jax.tree.leaves(rules.specs(state, engine.rules, engine.sizes), is_leaf=_is_spec)
    rows = [("array", "shape", "split over", "bytes a device")]
    for (path, x), spec in zip(jax.tree_util.tree_leaves_with_path(state), specs):
        size = math.prod(x.shape) * x.dtype.itemsize // _parts(spec, engine.sizes)
        axes = ", ".join(name or "-" for name in spec) if any(spec) else "whole"
        rows.append((rules.name(path), f"{x.dtype}{list(x.shape)}", axes, f"{size:,}"))
    wide = [max(len(row[k]) for row in rows) for k in range(4)]
    text = [
        f"{row[0]:<{wide[0]}}  {row[1]:<{wide[1]}}  {row[2]:<{wide[2]}}  {row[3]:>{wide[3]}}" for row in rows
    ]
    own, whole = held(engine, state)
    text.append(f"the state: {own:,} bytes a device, {whole:,} in all; mesh {mesh.written(engine.sizes)}")
    costs = hlo.read(program, math.prod(engine.sizes.values()))
    sent = [f"{costs.transfers[kind]} {kind} ({_megabytes(costs.sent[kind])})" for kind in costs.sent]
    text.append(f"a device sends in a step: {', '.join(sent) or 'nothing'}")
    return "\n".join(text)


def _parts(spec: Any, sizes: dict[str, int]) -> int:
    return math.prod(sizes[name] for name in spec if name)


def _is_spec(x: Any) -> bool:
    return isinstance(x, jax.sharding.PartitionSpec)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
