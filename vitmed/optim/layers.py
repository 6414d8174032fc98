"""Layer-wise learning-rate decay (BEiT, Bao et al. 2022): the further from the head, the smaller the rate."""

import re
from typing import Any

import jax
import numpy as np

_BLOCK = re.compile(r"block_?(\d+)$")
_STACKED = "blocks"


def layer_scales(params: Any, decay: float) -> Any:
    """A factor on the update of every leaf of ``params``.

    With a transformer of L blocks the embedding has ``decay ** (L + 1)``, block i has ``decay ** (L - i)``,
    the final norm and everything outside the encoder 1. Blocks stacked by a scan over layers hold all layers
    in one array, so their factor is an array along the layer axis, and the result equals the unrolled form.
    An encoder without such blocks (a ResNet) has no depth to decay over, and every factor is 1.
    """
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    depth = _depth(params, paths)

    def scale(path, leaf):
        names = _names(path)
        if names[0] != "encoder" or depth == 0:
            return np.float32(1)
        if _STACKED in names:
            factors = decay ** (depth - np.arange(depth, dtype=np.float32))
            return factors.reshape((depth,) + (1,) * (leaf.ndim - 1)).astype(np.float32)
        block = _block(names)
        if block is not None:
            return np.float32(decay ** (depth - block))
        return np.float32(1 if "norm" in names[-2] else decay ** (depth + 1))

    return jax.tree_util.tree_map_with_path(scale, params)


def _names(path) -> list[str]:
    return [str(entry.key) for entry in path]


def _block(names: list[str]) -> int | None:
    for name in names:
        found = _BLOCK.match(name)
        if found:
            return int(found.group(1))
    return None


def _depth(params: Any, paths: list[list[str]]) -> int:
    for (_, leaf), names in zip(jax.tree_util.tree_leaves_with_path(params), paths):
        if names[0] == "encoder" and _STACKED in names:
            return leaf.shape[0]
    blocks = [_block(names) for names in paths if names[0] == "encoder"]
    return max((b + 1 for b in blocks if b is not None), default=0)
