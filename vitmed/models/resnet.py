"""A residual CNN in any number of dimensions (He et al. 2016, arXiv:1512.03385): the baseline beside every ViT."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.convolution import Convolution, group_norm

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2)}
SMALL = 64  # below this side an image keeps its resolution in the stem, as on CIFAR
# "auto": by the side, a quarter of it otherwise (ImageNet's stem); "full" and "half" of it whatever the side: a volume
# of 28 voxels a side is small, and yet an eighth of the work at half.
Stem = Literal["auto", "full", "half"]


def stem_resolution(stem: Stem, size: tuple[int, ...]) -> Literal["full", "half", "quarter"]:
    """What part of its resolution an image of the spatial ``size`` keeps in the stem: two networks of one parameter tree
    may differ in it. The quarter is of "auto" alone.
    """
    if stem != "auto":
        return stem
    return "quarter" if min(size) >= SMALL else "full"


class ResidualBlock(nn.Module):
    """Two 3-wide convolutions added to the input, which is projected where the shape changes."""

    width: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = Convolution(self.width, 3, self.stride, self.dtype, name="conv1")(x)
        y = nn.relu(group_norm(self.width, "norm1")(y)).astype(self.dtype)
        y = Convolution(self.width, 3, 1, self.dtype, name="conv2")(y)
        # A zero scale makes each block start as the identity (arXiv:1706.02677).
        y = group_norm(self.width, "norm2", scale=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = Convolution(self.width, 1, self.stride, self.dtype, name="conv_skip")(x)
            x = group_norm(self.width, "norm_skip")(x)
        return nn.relu(x + y).astype(self.dtype)


class ResNet(nn.Module):
    """Images (B, *S, C) to features (B, 8 * width), averaged over space, float32."""

    blocks: tuple[int, ...]
    width: int = 64
    dtype: Any = jnp.float32
    stem: Stem = "auto"

    @nn.compact
    def __call__(self, image: jax.Array, keep: None = None, keys: jax.Array | None = None) -> jax.Array:
        """Takes the arguments of a ViT; it has no patches to leave out (``keep``) and drops nothing (``keys``)."""
        if keep is not None:
            raise ValueError("a ResNet sees the whole image; it takes no visible patches")
        axes = image.ndim - 2
        kept = stem_resolution(self.stem, image.shape[1:-1])
        large, stride = kept == "quarter", 1 if kept == "full" else 2
        stem = Convolution(self.width, 7 if large else 3, stride, self.dtype, name="stem")
        x = nn.relu(group_norm(self.width, "norm_stem")(stem(image))).astype(self.dtype)
        if large:
            x = nn.max_pool(x, (3,) * axes, strides=(2,) * axes, padding="SAME")
        for stage, count in enumerate(self.blocks):
            for block in range(count):
                stride = 2 if stage and not block else 1
                x = ResidualBlock(
                    self.width * 2**stage, stride, self.dtype, name=f"stage{stage}_block{block}"
                )(x)
        return x.mean(axis=tuple(range(1, axes + 1)), dtype=jnp.float32)
