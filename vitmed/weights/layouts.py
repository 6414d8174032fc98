"""The names by which published Vision Transformers keep their weights, and which of them a file has.

A layout is a table: for each part of ours, the names that may hold it. Written from the released checkpoints of
facebookresearch (MAE, DINOv2, DINOv3), timm and transformers; the arrays are PyTorch's, (out, in) and (out, in, y, x).
"""

import dataclasses
import re

from vitmed.errors import InputError

Names = tuple[tuple[str, ...], ...]  # alternatives, each of one name or of several that are joined

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the parts of an encoder are.

    Attributes:
        name: for people.
        sign: a pattern of names that this layout alone has; the first layout with a sign in a file is the file's.
        whole: names of what there is once; ``positions`` is missing where they are rotary.
        block: of what is in each block, after ``blocks`` and the block's number.
        blocks: what the names in a block begin with.
        left_out: a pattern of names that are known and do not belong to the encoder.
        epsilon: of the norms, unless a config beside the file says otherwise.
        normalisation: (mean, std) of the channels of an image in [0, 1], or None where each model has its own.
        rotary: whether positions are rotary.
        silu: whether a gated perceptron's gate goes through silu whatever the config beside the file says.
    """

    name: str
    sign: str
    whole: dict[str, Names]
    block: dict[str, Names]
    blocks: str
    left_out: str
    epsilon: float = 1e-6
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    rotary: bool = False
    silu: bool = False


def _one(**names: str) -> dict[str, Names]:
    return {ours: ((theirs,),) for ours, theirs in names.items()}


# facebookresearch and timm, which took over each other's names.
_FUSED = {
    **_one(cls="cls_token", positions="pos_embed", patches="patch_embed.proj", norm="norm"),
    "registers": (("register_tokens",), ("reg_token",), ("storage_tokens",)),
}
_FUSED_BLOCK = {
    **_one(norm1="norm1", norm2="norm2", qkv="attn.qkv", out="attn.proj", query_norm="attn.q_norm"),
    **_one(key_norm="attn.k_norm", scale1="ls1.gamma", scale2="ls2.gamma", bias_mask="attn.qkv.bias_mask"),
    "mlp1": (("mlp.fc1",), ("mlp.w12",), ("mlp.w1", "mlp.w2")),
    "mlp2": (("mlp.fc2",), ("mlp.w3",)),
}
_SELF_DISTILLED = r"mask_token|(dino|ibot)_(head|loss)\..*|head\..*"

# transformers
_SPLIT = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_EMBEDDINGS = {
    **_one(cls="embeddings.cls_token", positions="embeddings.position_embeddings", norm="layernorm"),
    **_one(patches="embeddings.patch_embeddings.projection", registers="embeddings.register_tokens"),
}
_HEADS = r"(embeddings\.)?mask_token|(classifier|pooler|decoder)\..*"

LAYOUTS = (
    Layout(
        name="DINOv3 (facebookresearch)",
        sign=r"storage_tokens|rope_embed\.periods",
        whole={name: theirs for name, theirs in _FUSED.items() if name != "positions"}
        | _one(periods="rope_embed.periods"),
        block=_FUSED_BLOCK,
        blocks="blocks.",
        # ViT-7B's and SAT-493M's norm of small crops in training; what is asked afterwards goes by the one of all tokens.
        left_out=_SELF_DISTILLED + r"|local_cls_norm\..*",
        epsilon=1e-5,
        normalisation=IMAGENET,
        rotary=True,
    ),
    Layout(
        name="MAE (facebookresearch)",
        sign=r"decoder_embed\.weight",
        whole=_FUSED,
        block=_FUSED_BLOCK,
        blocks="blocks.",
        left_out=r"mask_token|decoder_.*",
        normalisation=IMAGENET,
    ),
    Layout(
        name="DINOv2 (facebookresearch)",
        sign=r"register_tokens|mask_token",
        whole=_FUSED,
        block=_FUSED_BLOCK,
        blocks="blocks.",
        left_out=_SELF_DISTILLED,
        normalisation=IMAGENET,
    ),
    Layout(
        name="ViT (timm)",
        sign=r"patch_embed\.proj\.weight",
        whole=_FUSED,
        block=_FUSED_BLOCK,
        blocks="blocks.",
        left_out=r"head\..*",
    ),
    Layout(
        name="DINOv3 (transformers)",
        sign=r"layer\.0\.attention\.q_proj\.weight",
        whole=_one(
            cls="embeddings.cls_token",
            registers="embeddings.register_tokens",
            patches="embeddings.patch_embeddings",
            norm="norm",
        ),
        block={
            **_one(norm1="norm1", norm2="norm2", out="attention.o_proj"),
            **_one(scale1="layer_scale1.lambda1", scale2="layer_scale2.lambda1", mlp2="mlp.down_proj"),
            "qkv": (tuple(f"attention.{part}_proj" for part in "qkv"),),
            "mlp1": (("mlp.gate_proj", "mlp.up_proj"), ("mlp.up_proj",)),
        },
        blocks="layer.",
        left_out=_HEADS,
        epsilon=1e-5,
        normalisation=IMAGENET,
        rotary=True,
    ),
    Layout(
        name="Dinov2 (transformers)",
        sign=r"encoder\.layer\.0\.layer_scale1\.lambda1",
        whole=_EMBEDDINGS,
        block={
            **_one(norm1="norm1", norm2="norm2", out="attention.output.dense"),
            **_one(scale1="layer_scale1.lambda1", scale2="layer_scale2.lambda1"),
            "qkv": (_SPLIT,),
            "mlp1": (("mlp.fc1",), ("mlp.weights_in",)),
            "mlp2": (("mlp.fc2",), ("mlp.weights_out",)),
        },
        blocks="encoder.layer.",
        left_out=_HEADS,
        normalisation=IMAGENET,
        silu=True,
    ),
    *(
        Layout(
            name=name,
            sign=sign,
            whole=_EMBEDDINGS,
            block={
                **_one(norm1="layernorm_before", norm2="layernorm_after", out="attention.output.dense"),
                **_one(mlp1="intermediate.dense", mlp2="output.dense"),
                "qkv": (_SPLIT,),
            },
            blocks="encoder.layer.",
            left_out=_HEADS,
            epsilon=1e-12,
            normalisation=normalisation,
        )
        for name, sign, normalisation in (
            ("ViTMAE (transformers)", r"decoder\.decoder_embed\.weight", IMAGENET),
            ("ViT (transformers)", r"encoder\.layer\.0\.layernorm_before\.weight", None),
        )
    ),
)

# What wraps an encoder puts before its names.
_PREFIXES = ("module.", "backbone.", "vit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit.")


def bare(name: str) -> str:
    """A name without what a wrapper put before it."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def find(names: list[str], source: str) -> Layout:
    """The layout of these (bare) names.

    Raises:
        InputError: none that is known; some of the names are told.
    """
    # MAE's decoder in transformers has a name that its encoder in facebookresearch begins with: fused files first.
    fused = any(name.startswith(("patch_embed.", "blocks.")) for name in names)
    for layout in LAYOUTS:
        if (layout.blocks == "blocks.") == fused and any(re.fullmatch(layout.sign, name) for name in names):
            return layout
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise InputError(
        f"{source} is of no layout that is known: its names are {', '.join(sorted(names)[:4])}, ...; known are {known}, "
        "and what vitmed convert --to safetensors writes"
    )
