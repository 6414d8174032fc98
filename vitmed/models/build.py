"""Networks by config: the one place where a variant's name becomes a module."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from vitmed.errors import InputError
from vitmed.models.decoder import MAEDecoder
from vitmed.models.head import Pool
from vitmed.models.patches import grid
from vitmed.models.predictor import Predictor
from vitmed.models.resnet import BLOCKS, ResNet
from vitmed.models.transformer import Remat
from vitmed.models.vit import VARIANTS, ViT


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """``config.model``.

    ``patch_size`` has one entry an axis, in array order; a ResNet has none. ``dtype`` is that of the products:
    parameters, norms and the loss are float32 always. ``pool`` makes one feature vector of a ViT's tokens
    (``vitmed.models.head.pooled``). ``width`` is a ResNet's, ``decoder_*`` those of a masked autoencoder's decoder
    and of I-JEPA's predictor.
    """

    variant: Literal["pico", "nano", "ti", "s", "b", "l", "h", "g", "resnet10", "resnet18"]
    patch_size: tuple[int, ...] = ()
    positions: Literal["sincos"] = "sincos"
    scan: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    pool: Pool = "mean"
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    width: int = 64
    drop_path: float = 0.0

    def __post_init__(self):
        if self.variant in VARIANTS and not self.patch_size:
            raise ValueError(
                f"patch_size is missing; variant {self.variant!r} needs one entry an axis, e.g. (16, 16)"
            )
        if self.variant in BLOCKS and self.patch_size:
            raise ValueError(
                f"patch_size is {self.patch_size}, but variant {self.variant!r} has no patches; leave it out"
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path is {self.drop_path}; a rate from 0 to below 1 was expected")
        if self.decoder_heads < 1 or self.decoder_dim % self.decoder_heads:
            raise ValueError(
                f"decoder_heads is {self.decoder_heads}; it must divide decoder_dim ({self.decoder_dim})"
            )


def encoder(config: ModelConfig, size: tuple[int, ...], remat: Remat = "none") -> nn.Module:
    """The encoder for images of the spatial ``size``: tokens (B, 1 + K, D) of a ViT, features (B, D) of a ResNet.

    Raises:
        InputError: the patch does not fit the size.
    """
    dtype = jnp.dtype(config.dtype)
    if config.variant in BLOCKS:
        return ResNet(BLOCKS[config.variant], config.width, dtype)
    grid(size, config.patch_size)
    return ViT(
        variant=VARIANTS[config.variant],
        patch=config.patch_size,
        drop_path=config.drop_path,
        scan=config.scan,
        remat=remat,
        dtype=dtype,
    )


def cells_to_mask(config: ModelConfig, size: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis of an image of the spatial ``size``, for what masks them.

    Raises:
        InputError: the encoder has no patches, or the patch does not fit the size.
    """
    if config.variant in BLOCKS:
        raise InputError(
            f"config.model.variant {config.variant!r} has no patches to mask; take one of {', '.join(VARIANTS)}"
        )
    return grid(size, config.patch_size)


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
        out=VARIANTS[config.variant].dim,
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
