"""Which axis of which array is split over which axis of the mesh: one table for every network.

A pattern is looked for at the end of an array's path, so the same line holds for the parameter, its moments in the
optimiser, its moving average and a teacher's copy of it. Axes are counted from the last, so that layers stacked by a scan
change nothing. A preset says which axes of the mesh are used.
"""

import math
import re
from typing import Any, Literal

import jax
from jax.sharding import PartitionSpec

Rules = Literal["replicated", "fsdp", "fsdp+tensor"]
PRESETS: dict[str, tuple[str, ...]] = {"replicated": (), "fsdp": ("fsdp",), "fsdp+tensor": ("fsdp", "tensor")}

# Over ``tensor`` the first product of a pair is split by its outputs and the second by its inputs, so that what lies
# between stays where it is and one sum follows the pair (Megatron-LM).
TABLE = (
    (r"attention/qkv/kernel", ("fsdp", None, "tensor", None)),  # (D, 3, heads, d)
    (r"attention/qkv/bias", (None, "tensor", None)),
    (r"attention/out/kernel", ("tensor", None, "fsdp")),  # (heads, d, D)
    (r"mlp1/kernel", ("fsdp", "tensor")),
    (r"mlp1/bias", ("tensor",)),
    (r"mlp2/kernel", ("tensor", "fsdp")),
    (r"prototypes", ("fsdp", "tensor")),
)
# What no line names (patches, positions, convolutions, heads) is split over ``fsdp`` along its longest axis that divides.
SMALL = 2**10  # an array of fewer values stays whole: to gather it takes longer than to keep it


def spec(path: str, shape: tuple[int, ...], rules: str, sizes: dict[str, int]) -> PartitionSpec:
    """How the array at ``path`` (keys joined by ``/``) is split; an axis that does not divide stays whole."""
    used = _used(rules, sizes)
    if not used or math.prod(shape) < SMALL:
        return PartitionSpec()
    wanted = _wanted(path, shape)
    axes = [None] * (len(shape) - len(wanted)) + list(wanted)
    axes = [a if a in used and n % sizes[a] == 0 else None for a, n in zip(axes, shape)]
    if "fsdp" in used and "fsdp" not in axes:
        free = [k for k, n in enumerate(shape) if axes[k] is None and n % sizes["fsdp"] == 0]
        if free:
            axes[max(free, key=lambda k: (shape[k], k))] = "fsdp"
    return PartitionSpec(*axes)


def specs(tree: Any, rules: str, sizes: dict[str, int]) -> Any:
    """``spec`` of every array of ``tree``."""
    return jax.tree_util.tree_map_with_path(lambda path, x: spec(name(path), x.shape, rules, sizes), tree)


def name(path: tuple) -> str:
    """The path of a leaf as ``spec`` takes it."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, as ``name`` writes them."""
    return {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def undivided(tree: Any, rules: str, sizes: dict[str, int]) -> dict[str, list[str]]:
    """{axis of the mesh: paths of the arrays that it should split and does not, as it divides nothing in them}."""
    found: dict[str, list[str]] = {axis: [] for axis in _used(rules, sizes)}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if math.prod(x.shape) >= SMALL:
            made, wanted = spec(name(path), x.shape, rules, sizes), {"fsdp", *_wanted(name(path), x.shape)}
            for axis in found:
                if axis in wanted and axis not in made:
                    found[axis].append(name(path))
    return {axis: paths for axis, paths in found.items() if paths}


def _used(rules: str, sizes: dict[str, int]) -> list[str]:
    return [axis for axis in PRESETS[rules] if sizes[axis] > 1]


def _wanted(path: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    axes = next((axes for pattern, axes in TABLE if re.search(f"(^|/){pattern}$", path)), ())
    return axes if len(axes) <= len(shape) else ()
