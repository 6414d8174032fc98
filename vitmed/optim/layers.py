"""Layers by number, and layer-wise learning-rate decay (BEiT, Bao et al. 2022): the further from the head, the smaller."""

import re
from typing import Any

import jax
import numpy as np

_BLOCK = re.compile(r"block_?(\d+)$")
_STACKED = "blocks"
ENCODER = ("encoder", "lora")  # the parts that have layers; low-rank changes lie in the encoder's own tree


def layers(params: Any) -> tuple[Any, int]:
    """The layer of every leaf of ``params``, and the number L of blocks of its transformer.

    The embedding is layer 0, block i is i + 1, the final norm and everything outside the encoder L + 1. A leaf of
    blocks stacked by a scan holds all layers: its number is an array along the layer axis. An encoder without such
    blocks (a ResNet) has no layers: L is 0, and every leaf is in layer 1.
    """
    depth = _depth(params)

    def number(path, leaf):
        names = _names(path)
        if names[0] not in ENCODER or depth == 0:
            return depth + 1
        if _STACKED in names:
            return np.arange(1, depth + 1).reshape((depth,) + (1,) * (leaf.ndim - 1))
        block = _block(names)
        if block is not None:
            return block + 1
        return depth + 1 if "norm" in names[-2] else 0

    return jax.tree_util.tree_map_with_path(number, params), depth


def layer_scales(params: Any, decay: float) -> Any:
    """A factor on the update of every leaf of ``params``: ``decay ** (L + 1 - layer)``, see ``layers``.

    A stacked leaf's is an array along the layer axis, and the result equals the unrolled form.
    """
    numbers, depth = layers(params)

    def scale(number):
        below = depth + 1 - number
        if isinstance(below, np.ndarray):
            return (decay ** below.astype(np.float32)).astype(np.float32)
        return np.float32(decay**below)

    return jax.tree.map(scale, numbers)


def _names(path) -> list[str]:
    return [str(entry.key) for entry in path]


def _block(names: list[str]) -> int | None:
    for name in names:
        found = _BLOCK.match(name)
        if found:
            return int(found.group(1))
    return None


def _depth(params: Any) -> int:
    blocks = [0]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = _names(path)
        if names[0] == "encoder" and _STACKED in names:
            return leaf.shape[0]
        if names[0] == "encoder" and (block := _block(names)) is not None:
            blocks.append(block + 1)
    return max(blocks)
