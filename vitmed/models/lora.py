"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv:2106.09685): a small change of chosen products, beside weights that stay.

A kernel of I inputs and O outputs becomes W + alpha / rank * down up, with ``down`` (I, rank) drawn at random and ``up``
(rank, O) zero, so that training starts at the former function exactly. The change is added to the kernels before a
network runs: networks know nothing of it, scanned or unrolled, and a trained change is plain weights once it is added.
What that costs over keeping the two apart is the kernel's own gradient, one product more; memory for the optimiser is
that of the two thin matrices either way.
"""

import math
import re
import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import traverse_util

from vitmed.errors import InputError

FUSED = "qkv"  # one kernel that is three products side by side
_PARTS = ("query", "key", "value")
_STACKED = "blocks"
_BLOCK = re.compile(r"block_(\d+)$")


@dataclass(frozen=True)
class LoraConfig:
    """Keys of ``config.finetune.lora``.

    Attributes:
        rank: of the change of each product.
        alpha: the change is scaled by alpha / rank, so that another rank wants no other rate.
        products: a regular expression; every product of the encoder whose name it is found in is changed. Names are
            ``attention/query``, ``attention/key``, ``attention/value``, ``attention/out``, ``mlp1``, ``mlp2`` in each
            block, and ``patches``. The paper's are the queries and the values.
    """

    rank: int = 8
    alpha: float = 16.0
    products: str = "query|value"

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; at least 1 was expected")
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}; a positive number was expected")
        try:
            re.compile(self.products)
        except re.error as error:
            raise ValueError(
                f"products is {self.products!r}, which is no regular expression ({error})"
            ) from None


def fresh(key: jax.Array, encoder: dict, config: LoraConfig) -> dict:
    """The change of an encoder at its start: its tree, with ``{"down": (*I, rank), "up": (rank, *O)}`` a product.

    Stacked blocks have a leading layer axis, and the same draws as unrolled ones.

    Raises:
        InputError: no product has such a name; those that there are.
    """
    made, names = {}, {}
    for path in _kernels(encoder):
        lead, inputs, outputs = _axes(encoder, path)
        fused = path[-2] == FUSED
        for name in _PARTS if fused else path[-2:-1]:
            place = (*path[:-2], name)
            shown = names[place] = "/".join(_within(place))
            if not re.search(config.products, shown):
                continue
            wide, high = inputs, outputs[1:] if fused else outputs
            own = jax.random.fold_in(key, zlib.crc32(shown.encode()))

            def down(layer, own=own, wide=wide):
                drawn = jax.random.normal(jax.random.fold_in(own, layer), (*wide, config.rank))
                return drawn / math.sqrt(math.prod(wide))

            first = jnp.arange(lead[0]) if lead else _layer(path)
            made[*place, "down"] = jax.vmap(down)(first) if lead else down(first)
            made[*place, "up"] = jnp.zeros((*lead, config.rank, *high))
    if not made:
        known = ", ".join(sorted(set(names.values()))) or "none: it is no transformer"
        raise InputError(
            f"config.finetune.lora.products is {config.products!r}, which is in the name of no product of the encoder; "
            f"they are {known}"
        )
    return traverse_util.unflatten_dict(made)


def added(encoder: dict, change: dict, config: LoraConfig) -> dict:
    """The encoder's parameters with the change added: plain weights, of the same tree."""
    flat = traverse_util.flatten_dict(encoder)
    pairs = traverse_util.flatten_dict(change, is_leaf=lambda path, node: "down" in node)
    for path in _kernels(encoder):
        lead, inputs, outputs = _axes(encoder, path)
        if path[-2] == FUSED:
            parts = [pairs.get((*path[:-2], name)) for name in _PARTS]
            if not any(parts):
                continue
            shape, axis = (*lead, *inputs, *outputs[1:]), len(lead) + len(inputs)
            deltas = [_delta(pair, lead, shape, config) if pair else jnp.zeros(shape) for pair in parts]
            flat[path] = flat[path] + jnp.stack(deltas, axis)
        elif path[:-1] in pairs:
            flat[path] = flat[path] + _delta(pairs[path[:-1]], lead, flat[path].shape, config)
    return traverse_util.unflatten_dict(flat)


def _delta(pair: dict, lead: tuple[int, ...], shape: tuple[int, ...], config: LoraConfig) -> jax.Array:
    down = jnp.reshape(pair["down"], (*lead, -1, config.rank))
    up = jnp.reshape(pair["up"], (*lead, config.rank, -1))
    # In full precision on every device: it is added to float32 weights, once a step.
    return (config.alpha / config.rank * jnp.matmul(down, up, precision="highest")).reshape(shape)


def _kernels(encoder: dict) -> list[tuple[str, ...]]:
    """Path of every kernel of which it is known which axes are inputs: its bias has those of the outputs."""
    flat = traverse_util.flatten_dict(encoder)
    return [path for path in flat if path[-1] == "kernel" and (*path[:-1], "bias") in flat]


def _axes(encoder: dict, path: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Sizes of the layer axis (none, or one), of the input axes and of the output axes of the kernel at ``path``."""
    node = encoder
    for name in path[:-1]:
        node = node[name]
    shape, bias = node["kernel"].shape, node["bias"].shape
    lead = 1 if _STACKED in path else 0
    split = len(shape) - (len(bias) - lead)
    return shape[:lead], shape[lead:split], shape[split:]


def _within(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path from its block on, so that a name is the same in every block, stacked or not."""
    for depth, name in enumerate(path):
        if name == _STACKED or _BLOCK.match(name):
            return path[depth + 1 :]
    return path


def _layer(path: tuple[str, ...]) -> int:
    return next((int(found[1]) for found in map(_BLOCK.match, path) if found), 0)
