"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) in any number of dimensions.

Given the places of the visible patches it embeds those alone, which is what makes masked autoencoding cheap
(He et al. 2022, arXiv:2111.06377).
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.linear import Linear
from vitmed.models.patches import grid, patchify
from vitmed.models.positions import sincos
from vitmed.models.transformer import EPSILON, Remat, Transformer, norm


class Variant(NamedTuple):
    dim: int
    depth: int
    heads: int
    mlp_dim: int


VARIANTS = {
    "pico": Variant(96, 4, 3, 384),
    "nano": Variant(128, 6, 4, 512),
    "ti": Variant(192, 12, 3, 768),
    "s": Variant(384, 12, 6, 1536),
    "b": Variant(768, 12, 12, 3072),
    "l": Variant(1024, 24, 16, 4096),
    "h": Variant(1280, 32, 16, 5120),
    "g": Variant(1408, 40, 16, 6144),
}


class ViT(nn.Module):
    """Images (B, *S, C) to tokens (B, 1 + K, D) after the final norm; ``tokens[:, 0]`` is the class token."""

    variant: Variant
    patch: tuple[int, ...]
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        keep: jax.Array | None = None,
        keys: jax.Array | None = None,
        blanks: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Encodes the patches at ``keep`` (B, K), indices into the row-major grid; all of them (K = N) by default.

        Args:
            image: (B, *S, C), normalised by the recipe.
            keep: (B, K) integers, the visible patches in the order in which their tokens come out.
            keys: (B,) the examples' random keys for stochastic depth; none at evaluation.
            blanks: (B, N) booleans and a token (D,), which stands in the place of those patches before positions
                are added; it is no parameter of the encoder, whose tree is the same in every objective.
        """
        dim = self.variant.dim
        patches = patchify(image, self.patch)
        positions = jnp.asarray(sincos(grid(image.shape[1:-1], self.patch), dim, cls=False))[None]
        if keep is not None:
            patches = jnp.take_along_axis(patches, keep[:, :, None], axis=1)
            positions = positions[0][keep]
        embed = Linear((dim,), dtype=self.dtype, name="patches")
        tokens = embed(patches)
        if blanks is not None:
            hidden, token = blanks
            tokens = jnp.where(hidden[:, :, None], token.astype(self.dtype), tokens)
        tokens = tokens + positions.astype(self.dtype)
        # The class token's own position embedding is zero.
        cls = self.param("cls", nn.initializers.normal(0.02), (1, 1, dim)).astype(self.dtype)
        tokens = jnp.concatenate([jnp.broadcast_to(cls, (len(tokens), 1, dim)), tokens], axis=1)
        tokens = Transformer(
            depth=self.variant.depth,
            heads=self.variant.heads,
            mlp_dim=self.variant.mlp_dim,
            drop_path=self.drop_path,
            scan=self.scan,
            remat=self.remat,
            epsilon=self.epsilon,
            dtype=self.dtype,
            name="transformer",
        )(tokens, keys)
        return norm("norm", self.epsilon)(tokens)
