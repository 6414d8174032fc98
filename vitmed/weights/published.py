"""A published encoder in our form: parameters as NumPy, the model they are of, and what was left out."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.models.build import encoder as build_encoder
from vitmed.models.positions import LONGEST
from vitmed.models.transformer import gated_width
from vitmed.models.vit import VARIANTS, Variant
from vitmed.parallel.rules import leaves
from vitmed.weights.layouts import Layout, bare, find
from vitmed.weights.parts import Parts

# Heads of the published models by width, as no array tells them. DINOv3's of 1280 has 20.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24, 4096: 32}


@dataclasses.dataclass(frozen=True)
class Published:
    """What a file of weights holds.

    Attributes:
        layout: its name.
        model: of the encoder.
        size: of the images that it was trained on, array order.
        channels: of them.
        params: of the encoder, layers unrolled.
        left_out: names that are not of the encoder, sorted.
        normalisation: (mean, std) of the channels of an image in [0, 1], or None where the file does not say.
    """

    layout: str
    model: ModelConfig
    size: tuple[int, ...]
    channels: int
    params: dict
    left_out: tuple[str, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None


def encoder(
    arrays: dict[str, np.ndarray],
    source: str,
    beside: dict[str, Any] | None = None,
    heads: int | None = None,
    size: tuple[int, ...] | None = None,
) -> Published:
    """The encoder that ``arrays`` of a file ``source`` hold.

    Args:
        beside: transformers' config and preprocessing, where they are known.
        heads: of attention; None is that of the published models of this width.
        size: of the images that it was trained on; None is what ``beside`` says, else square, by the table of
            positions, or 224 without one.

    Raises:
        InputError: names that are missing or unknown, or heads, sizes, an activation or periods that do not fit.
    """
    beside = beside or {}
    arrays = {bare(name): array for name, array in arrays.items()}
    layout = find(list(arrays), source)
    parts = Parts(arrays, layout, source)
    try:
        return _read(parts, layout, source, beside, heads, size)
    except ValueError as error:  # NumPy's, of arrays that cannot be laid out as they should
        raise InputError(
            f"{source} looks like {layout.name}, but an array has a wrong shape ({error})"
        ) from None


def _read(parts, layout, source, beside, heads, size) -> Published:
    kernel, bias = parts.module("patches")
    if kernel.ndim < 3:
        raise InputError(
            f"{source} embeds patches by a matrix {kernel.shape}, whose axes cannot be told apart"
        )
    kernel = kernel.transpose(*range(2, kernel.ndim), 1, 0)  # (D, C, *patch) -> (*patch, C, D)
    *patch, channels, dim = kernel.shape
    periods = parts.array("periods", needed=False)
    if layout.rotary:
        _check_periods(beside, periods, source)
    heads = heads or beside.get("num_attention_heads") or _heads(layout, dim, periods, source)
    size = size or _size(beside, len(patch), source)
    if dim % heads:
        raise InputError(
            f"{source} has tokens of width {dim}, which {heads} heads do not divide; give --heads"
        )

    cls = parts.array("cls").reshape(1, 1, dim)
    params = {"patches": {"kernel": kernel.reshape(-1, dim), "bias": bias}, "cls": cls}
    cells, positions = None, parts.array("positions", needed=not layout.rotary)
    if positions is not None:
        cells, params["positions"], params["cls"] = _table(positions, cls, size, tuple(patch), source)
    registers = parts.array("registers", needed=False)
    if registers is not None and registers.shape[1]:
        params["registers"] = registers.reshape(1, -1, dim)
    blocks = [_block(parts, n, dim, heads) for n in range(parts.depth())]
    params["transformer"] = {f"block_{n}": block for n, block in enumerate(blocks)}
    params["norm"] = parts.norm("norm")
    left_out = parts.check()

    first, gated = blocks[0], blocks[0]["mlp1"]["kernel"].ndim == 3
    _check_activation(beside, layout, gated, source)
    hidden = first["mlp2"]["kernel"].shape[0]
    shape = Variant(dim, len(blocks), heads, 3 * hidden // 2 if gated else hidden)
    if gated and gated_width(shape.mlp_dim) != hidden:
        raise InputError(f"{source} has a gated perceptron of width {hidden}; a multiple of 8 was expected")
    variant = next((name for name, known in VARIANTS.items() if known == shape), "custom")
    model = ModelConfig(
        variant=variant,
        patch_size=tuple(patch),
        positions="learned" if cells else "rotary",
        registers=params["registers"].shape[1] if "registers" in params else 0,
        layer_scale=1e-5 if "scale1" in first else 0.0,
        qk_norm="query_norm" in first["attention"],
        mlp="swiglu" if gated else "gelu",
        epsilon=float(beside.get("layer_norm_eps", layout.epsilon)),
        shape=tuple(shape) if variant == "custom" else (),
    )
    if cells is None:
        size = size or (224,) * len(patch)
    else:
        size = tuple(n * p for n, p in zip(cells, patch))
    _check_shapes(params, model, size, channels, source)
    normalisation = layout.normalisation
    if "image_mean" in beside and "image_std" in beside:
        normalisation = tuple(beside["image_mean"]), tuple(beside["image_std"])
    return Published(layout.name, model, size, channels, params, left_out, normalisation)


def _block(parts: Parts, n: int, dim: int, heads: int) -> dict:
    """One block; the fused weight (3 D, D) holds queries, keys and values, each with its heads side by side."""
    qkv = parts.linear("qkv", n, bias=False)
    mask = parts.array("bias_mask", n, needed=False)  # DINOv3's keys have no bias
    bias = qkv["bias"] if mask is None else qkv["bias"] * mask
    out = parts.linear("out", n)
    attention = {
        "qkv": {
            "kernel": qkv["kernel"].reshape(dim, 3, heads, -1),
            "bias": bias.reshape(3, heads, -1),
        },
        "out": {"kernel": out["kernel"].reshape(heads, -1, dim), "bias": out["bias"]},
    }
    for name in ("query_norm", "key_norm"):
        if (norm := parts.norm(name, n, needed=False)) is not None:
            attention[name] = norm
    block = {"norm1": parts.norm("norm1", n), "attention": attention, "norm2": parts.norm("norm2", n)}
    mlp1, mlp2 = parts.linear("mlp1", n), parts.linear("mlp2", n)
    if mlp1["kernel"].shape[1] == 2 * len(mlp2["kernel"]):  # the gate, then what it gates
        mlp1 = {"kernel": mlp1["kernel"].reshape(dim, 2, -1), "bias": mlp1["bias"].reshape(2, -1)}
    block |= {"mlp1": mlp1, "mlp2": mlp2}
    for name in ("scale1", "scale2"):
        if (scale := parts.array(name, n, needed=False)) is not None:
            block[name] = scale
    return block


def _table(positions, cls, size, patch, source):
    """Cells, the table (*cells, D) of the patches, and the class token with its own position added."""
    count, dim = positions.shape[-2:]
    positions = positions.reshape(count, dim)
    if size is not None:
        cells = tuple(s // p for s, p in zip(size, patch))
    else:
        side = round(count ** (1 / len(patch)))  # with a class token or without, the nearest power
        cells = (side,) * len(patch)
    patches = math.prod(cells)
    if count not in (patches, patches + 1):
        raise InputError(
            f"{source} has {count} positions, which are no class token and patches {patch} of a "
            f"{'square' if size is None else 'x'.join(map(str, size))} image; give --size of the images it was trained on"
        )
    if count == patches + 1:
        cls, positions = cls + positions[0], positions[1:]
    return cells, positions.reshape(*cells, dim), cls


def _heads(layout: Layout, dim: int, periods: np.ndarray | None, source: str) -> int:
    if periods is not None:
        return dim // (4 * len(periods))
    if dim not in HEADS:
        raise InputError(
            f"{source} has tokens of width {dim}, of which no number of heads is known; give --heads"
        )
    return 20 if layout.rotary and dim == 1280 else HEADS[dim]


def _size(beside: dict, axes: int, source: str) -> tuple[int, ...] | None:
    """Of the images that it was trained on, as the config beside it says: one length, or one an axis."""
    said = beside.get("image_size")
    if said is None:
        return None
    size = tuple(said) if isinstance(said, list | tuple) else (said,) * axes
    if len(size) != axes or not all(isinstance(length, int) and length > 0 for length in size):
        raise InputError(
            f"the config beside {source} says image_size {said!r}; one length, or one for each of {axes} axes, was "
            "expected; give --size of the images it was trained on"
        )
    return size


def _check_periods(beside: dict, periods: np.ndarray | None, source: str) -> None:
    """By the file where it holds them, and by the config beside it, which is all that tells them in transformers."""
    share = 0 if periods is None else len(periods)
    if share and not np.allclose(periods, LONGEST ** (np.arange(share) / share), rtol=1e-2):
        raise InputError(
            f"{source} has rotary positions of other periods than DINOv3's; it cannot be converted"
        )
    if (said := beside.get("rope_theta", LONGEST)) != LONGEST:
        raise InputError(
            f"the config beside {source} says rope_theta {said!r}, rotary positions of other periods than DINOv3's "
            f"({LONGEST:g}); it cannot be converted"
        )


def _check_activation(beside: dict, layout: Layout, gated: bool, source: str) -> None:
    if gated and layout.silu:
        return
    ours = "silu" if gated else "gelu"
    if (said := beside.get("hidden_act", ours)) != ours:
        raise InputError(
            f"the config beside {source} says hidden_act {said!r}; of a {'gated' if gated else 'plain'} perceptron "
            f"only {ours!r} can be converted"
        )


def _check_shapes(
    params: dict, model: ModelConfig, size: tuple[int, ...], channels: int, source: str
) -> None:
    """InputError where an array has not the shape that the model has there."""
    image = jax.ShapeDtypeStruct((1, *size, channels), np.float32)
    wanted = jax.eval_shape(build_encoder(model, size).init, jax.random.key(0), image)["params"]
    made, wanted = (
        {name: np.shape(leaf) for name, leaf in leaves(tree).items()} for tree in (params, wanted)
    )
    for name in sorted(made.keys() | wanted.keys()):
        if made.get(name) != wanted.get(name):
            raise InputError(
                f"{source}: {name} is {made.get(name, 'absent')} and {wanted.get(name, 'absent')} in a model of its "
                "other arrays; layers that differ in kind cannot be converted"
            )
