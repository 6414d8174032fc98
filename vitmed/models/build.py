"""Networks by config: the one place where a variant's name becomes a module."""

import dataclasses
import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from vitmed.errors import InputError
from vitmed.models.decoder import MAEDecoder
from vitmed.models.head import Pool
from vitmed.models.norms import EPSILON, Norm
from vitmed.models.patches import grid
from vitmed.models.positions import Positions
from vitmed.models.predictor import Predictor
from vitmed.models.resnet import BLOCKS, ResNet, Stem
from vitmed.models.segmenter import Segmenter, depths
from vitmed.models.transformer import MLP, Remat, Style
from vitmed.models.unet import UNet, strides
from vitmed.models.vit import VARIANTS, Variant, ViT

# What the keys that a config leaves out are by ``preset``: a ViT as in the papers, and what later ones do to it.
PRESETS = {
    "plain": {
        "positions": "sincos",
        "registers": 0,
        "layer_scale": 0.0,
        "qk_norm": False,
        "mlp": "gelu",
        "norm": "layer",
    },
    "modern": {
        "positions": "rotary",
        "registers": 4,
        "layer_scale": 1e-5,
        "qk_norm": True,
        "mlp": "swiglu",
        "norm": "rms",
    },
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """``config.model``.

    ``patch_size`` has one entry an axis, in array order; a ResNet and a U-Net have none. ``dtype`` is that of the products:
    parameters, norms and the loss are float32 always, and so are the encoder's tokens between its blocks where
    ``layer_scale`` is on, as bfloat16 would round such small steps away. ``pool`` makes one feature vector of a ViT's
    tokens (``vitmed.models.head.pooled``). ``width`` is a ResNet's, a U-Net's and that of the decoder of masks, in
    channels at the finest level; ``stem`` is a ResNet's (``vitmed.models.resnet.Stem``). ``decoder_*`` are those of a masked autoencoder's decoder and of I-JEPA's predictor, which are plain whatever the encoder is. ``shape`` (dim, depth, heads, mlp_dim) is that
    of the variant "custom". ``epsilon`` is added to the variance in the encoder's norms.

    ``positions`` (``vitmed.models.positions``), ``registers`` (how many), ``layer_scale`` (its start; 0 is off),
    ``qk_norm``, ``mlp`` and ``norm`` (``vitmed.models.transformer.Style``) are the encoder's; each that is left out is
    as the ``preset`` says, and the checked config holds what it came to.

    ``learned_slices`` (of volumes) lets positions that are not learned place a patch within its slice alone, as in 2D,
    and a learned table that starts at zero tell slices apart: what "sincos" and "rotary" need to start from 2D images.
    ``position_scale`` multiplies the coordinates of such positions (``vitmed.models.positions``), one factor an axis
    that they have.

    ``brightest_patches`` (0 is all) makes a scan's features and scores of so many of its patches alone, those whose mean
    is highest: air, which is darkest and which scans of the body are half made of, then costs nothing. A masked
    autoencoder is shown some of them and predicts the others; the other objectives without labels see all patches.
    """

    variant: Literal["pico", "nano", "ti", "s", "b", "l", "h", "g", "custom", "resnet10", "resnet18", "unet"]
    patch_size: tuple[int, ...] = ()
    positions: Positions | None = None
    scan: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    pool: Pool = "mean"
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    width: int = 64
    stem: Stem = "auto"
    drop_path: float = 0.0
    preset: Literal["plain", "modern"] = "plain"
    registers: int | None = None
    layer_scale: float | None = None
    qk_norm: bool | None = None
    mlp: MLP | None = None
    norm: Norm | None = None
    epsilon: float = EPSILON
    shape: tuple[int, ...] = ()
    learned_slices: bool = False
    position_scale: tuple[float, ...] = ()
    brightest_patches: int = 0

    def __post_init__(self):
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.stem != "auto" and self.variant not in BLOCKS:
            raise ValueError(f"stem is {self.stem!r}, but variant {self.variant!r} has none; leave it out")
        if self.variant in (*BLOCKS, "unet"):
            self._check_cnn()
        else:
            self._check_vit()
        if self.width < 1:
            raise ValueError(f"width is {self.width}; at least 1 was expected")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path is {self.drop_path}; a rate from 0 to below 1 was expected")
        if self.decoder_heads < 1 or self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"decoder_heads is {self.decoder_heads}; it must divide decoder_dim ({self.decoder_dim})"
            )

    @property
    def vit(self) -> Variant:
        """Sizes of the ViT that ``variant`` names."""
        return Variant(*self.shape) if self.variant == "custom" else VARIANTS[self.variant]

    def _check_cnn(self):
        if self.patch_size:
            raise ValueError(
                f"patch_size is {self.patch_size}, but variant {self.variant!r} has no patches; leave it out"
            )
        for name, value in {**PRESETS["plain"], "learned_slices": False, "position_scale": ()}.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} (preset {self.preset!r}), which variant {self.variant!r} "
                    "does not have; leave it out"
                )

    def _check_vit(self):
        if not self.patch_size:
            raise ValueError(
                f"patch_size is missing; variant {self.variant!r} needs one entry an axis, e.g. (16, 16)"
            )
        if (self.variant == "custom") != bool(self.shape):
            raise ValueError(
                f"shape is {self.shape} and variant {self.variant!r}; 'custom' needs (dim, depth, heads, mlp_dim), "
                "the others have their own"
            )
        if self.shape and (len(self.shape) != 4 or min(self.shape) < 1):
            raise ValueError(f"shape is {self.shape}; (dim, depth, heads, mlp_dim) was expected")
        dim, _, heads, _ = self.vit
        if dim % heads:
            raise ValueError(f"shape is {self.shape}; its heads must divide its dim")
        if self.learned_slices and (self.positions == "learned" or len(self.patch_size) < 3):
            raise ValueError(
                f"learned_slices is True, but patches {self.patch_size} with {self.positions!r} positions have "
                f"{'a learned place each' if self.positions == 'learned' else 'no slices'}; leave it out"
            )
        axes = len(self.patch_size) - self.learned_slices
        self._check_scale(axes)
        if self.positions == "rotary" and (dim // heads % 2 or dim // heads < 2 * axes):
            raise ValueError(
                f"positions is 'rotary', for which heads of width {dim // heads} have no pair of channels for each of "
                f"{axes} axes"
            )
        for name in ("registers", "layer_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; 0 (off) or more was expected")
        if self.epsilon <= 0:
            raise ValueError(f"epsilon is {self.epsilon}; a small positive number was expected")
        if self.brightest_patches < 0:
            raise ValueError(f"brightest_patches is {self.brightest_patches}; 0 (all) or more was expected")
        if self.brightest_patches and self.pool == "grid":
            raise ValueError(
                f"brightest_patches is {self.brightest_patches}, but pool 'grid' is of all patches by their place; take "
                "another pool"
            )

    def _check_scale(self, axes: int):
        if self.position_scale and self.positions == "learned":
            raise ValueError(
                f"position_scale is {self.position_scale}, but learned positions have no coordinates; leave it out"
            )
        if self.position_scale and (len(self.position_scale) != axes or min(self.position_scale) <= 0):
            raise ValueError(
                f"position_scale is {self.position_scale}; one positive factor for each of {axes} axes was expected"
            )


def encoder(config: ModelConfig, size: tuple[int, ...], remat: Remat = "none") -> nn.Module:
    """The encoder for images of the spatial ``size``: tokens (B, 1 + K, D) of a ViT, features (B, D) of a CNN.

    Raises:
        InputError: the patch does not fit the size.
    """
    dtype = jnp.dtype(config.dtype)
    if config.variant in BLOCKS:
        return ResNet(BLOCKS[config.variant], config.width, dtype, config.stem)
    if config.variant == "unet":
        return UNet(config.width, dtype)
    return ViT(
        variant=config.vit,
        patch=config.patch_size,
        drop_path=config.drop_path,
        scan=config.scan,
        remat=remat,
        epsilon=config.epsilon,
        dtype=dtype,
        positions=config.positions,
        cells=grid(size, config.patch_size),
        learned_slices=config.learned_slices,
        scale=config.position_scale,
        registers=config.registers,
        style=Style(config.norm, config.mlp, config.qk_norm, config.layer_scale),
    )


def cells_to_mask(config: ModelConfig, size: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis of an image of the spatial ``size``, for what masks them.

    Raises:
        InputError: the encoder has no patches, or the patch does not fit the size.
    """
    if not config.patch_size:
        raise InputError(
            f"config.model.variant {config.variant!r} has no patches to mask; take one of {', '.join(VARIANTS)}"
        )
    return grid(size, config.patch_size)


def brightest_patches(config: ModelConfig, size: tuple[int, ...]) -> int:
    """How many patches of an image of the spatial ``size`` are looked at; 0 is all.

    Raises:
        InputError: as many as there are, or more; the patch does not fit the size.
    """
    count = config.brightest_patches
    if count and count >= (every := math.prod(cells_to_mask(config, size))):
        raise InputError(
            f"config.model.brightest_patches is {count}, but a scan has {every} patches; leave it out"
        )
    return count


def predictor(config: ModelConfig, size: tuple[int, ...], remat: Remat = "none") -> Predictor:
    """I-JEPA's predictor of the encoder's features, for images of the spatial ``size``.

    Raises:
        InputError: as ``cells_to_mask``.
    """
    return Predictor(
        dim=config.decoder_dim,
        depth=config.decoder_depth,
        heads=config.decoder_heads,
        cells=cells_to_mask(config, size),
        out=config.vit.dim,
        scan=config.scan,
        remat=remat,
        dtype=jnp.dtype(config.dtype),
    )


def decoder(config: ModelConfig, size: tuple[int, ...], channels: int, remat: Remat = "none") -> MAEDecoder:
    """The masked autoencoder's decoder for images of the spatial ``size``.

    Raises:
        InputError: the encoder has no patches, or the patch does not fit the size.
    """
    cells_to_mask(config, size)
    return MAEDecoder(
        dim=config.decoder_dim,
        depth=config.decoder_depth,
        heads=config.decoder_heads,
        size=size,
        patch=config.patch_size,
        channels=channels,
        scan=config.scan,
        remat=remat,
        dtype=jnp.dtype(config.dtype),
    )


def segmenter(
    config: ModelConfig, size: tuple[int, ...], outputs: int, remat: Remat = "none"
) -> tuple[Segmenter, tuple[int, ...]]:
    """What makes ``outputs`` scores a voxel of an encoder's features, and the depths of the encoder to take these from.

    Raises:
        InputError: the encoder gives one feature vector an image, or the patch does not fit the size.
    """
    if config.variant in BLOCKS:
        raise InputError(
            f"config.model.variant {config.variant!r} gives one feature vector a scan, from which no mask can be made; "
            f"take 'unet', or a ViT ({', '.join(VARIANTS)})"
        )
    if config.variant == "unet":
        taken = tuple(range(len(strides(size)) + 1))
    else:
        grid(size, config.patch_size)
        taken = depths(config.patch_size, config.vit.depth)
    dtype = jnp.dtype(config.dtype)
    return Segmenter(outputs, config.width, config.patch_size, remat != "none", dtype), taken
