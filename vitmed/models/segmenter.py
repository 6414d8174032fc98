"""From an encoder's features at several depths to scores for every voxel.

For a ViT this follows UNETR (Hatamizadeh et al. 2022, arXiv:2103.10504), simplified: tokens of several depths become
maps, the deeper the coarser, each by one deconvolution straight from the grid of patches; a light stem gives the
map at full resolution, with the edges that no patch keeps; and the expanding half of a U-Net joins them. Between the
image and the grid sizes halve, rounded up, so any patch will do. A U-Net's encoder gives maps as they are.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.convolution import Convolution, group_norm
from vitmed.models.linear import Linear
from vitmed.models.norms import norm
from vitmed.models.patches import grid, unpatchify
from vitmed.models.unet import Expansion, channels


def ratios(patch: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Voxels along each axis that a map has for each patch: from ``patch`` at full resolution down to ones."""
    halvings = math.ceil(math.log2(max(patch)))
    return [tuple(-(-p // 2**level) for p in patch) for level in range(halvings + 1)]


def depths(patch: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """After how many of the ``blocks`` of a ViT the tokens are taken for each map below full resolution.

    They are spread evenly, the coarsest map after the last; a patch of one voxel has but that one.
    """
    maps = max(len(ratios(patch)) - 1, 1)
    return tuple(-(-blocks * (level + 1) // maps) for level in range(maps))


class Segmenter(nn.Module):
    """Scores (B, *S, outputs), float32, from an image (B, *S, C) and an encoder's features at several depths.

    Args:
        width: channels at full resolution, doubled at each level below.
        patch: of the ViT, whose features are tokens (B, K + N, D), the patches last; () where they are maps already, the
            finest first.
    """

    outputs: int
    width: int
    patch: tuple[int, ...] = ()
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, features: list[jax.Array]) -> jax.Array:
        maps = self._maps(image, features) if self.patch else features
        expansion = Expansion(self.width, self.outputs, self.remat, self.dtype, name="expansion")
        return expansion(maps)

    def _maps(self, image: jax.Array, features: list[jax.Array]) -> list[jax.Array]:
        cells = grid(image.shape[1:-1], self.patch)
        stem = Convolution(self.width, dtype=self.dtype, name="stem")(image)
        maps = [nn.relu(group_norm(self.width, "norm_stem")(stem)).astype(self.dtype)]
        levels = ratios(self.patch)[1:] or [self.patch]
        for level, (tokens, ratio) in enumerate(zip(features, levels, strict=True), start=1):
            tokens = norm(f"norm{level}")(tokens[:, -math.prod(cells) :]).astype(self.dtype)
            width = channels(self.width, level)
            # A deconvolution whose kernel is its stride is a linear map of each token to the voxels of its patch.
            voxels = Linear((math.prod(ratio) * width,), dtype=self.dtype, name=f"deconvolution{level}")(
                tokens
            )
            maps.append(unpatchify(voxels, cells, ratio, width))
        return maps
