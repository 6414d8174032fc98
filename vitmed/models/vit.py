"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) in any number of dimensions.

Given the places of the visible patches it embeds those alone, which is what makes masked autoencoding cheap
(He et al. 2022, arXiv:2111.06377). Registers (Darcet et al. 2024, arXiv:2309.16588) are learned tokens that take part
in attention and are cut off at the end: a place for the network's own notes, which otherwise overwrite patches.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitmed.models.adapt import resized
from vitmed.models.linear import Linear
from vitmed.models.norms import EPSILON, norm
from vitmed.models.patches import grid, patchify
from vitmed.models.positions import Positions, rotary, sincos
from vitmed.models.transformer import Remat, Style, Transformer


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
    """Images (B, *S, C) to tokens (B, 1 + K, D) after the final norm; ``tokens[:, 0]`` is the class token.

    ``cells`` is the grid that learned tables of positions are kept for; on another grid they are resampled. With
    ``learned_slices`` sine-cosine and rotary positions place a patch within its slice, as in 2D, and a learned table
    that starts at zero tells the slices of a volume apart: on one that is alike in all slices, the encoder then starts
    as the one of 2D images. ``scale`` is that of ``vitmed.models.positions``.
    """

    variant: Variant
    patch: tuple[int, ...]
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    epsilon: float = EPSILON
    dtype: Any = jnp.float32
    positions: Positions = "sincos"
    cells: tuple[int, ...] = ()
    learned_slices: bool = False
    scale: tuple[float, ...] = ()
    registers: int = 0
    style: Style = Style()

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        keep: jax.Array | None = None,
        keys: jax.Array | None = None,
        blanks: tuple[jax.Array, jax.Array] | None = None,
        depths: tuple[int, ...] = (),
    ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        """Encodes the patches at ``keep`` (B, K), indices into the row-major grid; all of them (K = N) by default.

        Args:
            image: (B, *S, C), normalised by the recipe.
            keep: (B, K) integers, the visible patches in the order in which their tokens come out.
            keys: (B,) the examples' random keys for stochastic depth; none at evaluation.
            blanks: (B, N) booleans and a token (D,), which stands in the place of those patches before positions
                are added; it is no parameter of the encoder, whose tree is the same in every objective.
            depths: the tokens after so many blocks come along, a list of (B, 1 + R + K, D) with the registers; without the final norm,
                unless it is after the last block.
        """
        dim, stream = self.variant.dim, self.style.stream(self.dtype)
        cells = grid(image.shape[1:-1], self.patch)
        patches = patchify(image, self.patch)
        if keep is not None:
            patches = jnp.take_along_axis(patches, keep[:, :, None], axis=1)
        tokens = Linear((dim,), dtype=self.dtype, name="patches")(patches).astype(stream)
        if blanks is not None:
            hidden, token = blanks
            tokens = jnp.where(hidden[:, :, None], token.astype(stream), tokens)
        if self.positions != "rotary":
            tokens = tokens + _at(self._table(cells), keep).astype(stream)
        if self.learned_slices:
            tokens = tokens + _at(self._slices(cells), keep).astype(stream)
        # The class token and the registers have no place: nothing is added to them, and they are not turned.
        first = [self.param("cls", nn.initializers.normal(0.02), (1, 1, dim))]
        if self.registers:
            first.append(self.param("registers", nn.initializers.normal(0.02), (1, self.registers, dim)))
        first = [jnp.broadcast_to(part.astype(stream), (len(tokens), *part.shape[1:])) for part in first]
        angles = None
        if self.positions == "rotary":
            angles = _at(self._fixed(rotary, cells, dim // self.variant.heads), keep)
            angles = jnp.pad(angles, ((0, 0), (1 + self.registers, 0), (0, 0)))
        transformed = Transformer(
            depth=self.variant.depth,
            heads=self.variant.heads,
            mlp_dim=self.variant.mlp_dim,
            drop_path=self.drop_path,
            scan=self.scan,
            remat=self.remat,
            epsilon=self.epsilon,
            dtype=self.dtype,
            style=self.style,
            name="transformer",
        )(jnp.concatenate([*first, tokens], axis=1), keys, angles, depths)
        last, after = transformed if depths else (transformed, [])
        if self.registers:
            last = jnp.concatenate([last[:, :1], last[:, 1 + self.registers :]], axis=1)
        last = norm("norm", self.epsilon, self.style.norm)(last)
        after = [last if n == self.variant.depth else x for n, x in zip(depths, after)]
        return (last, after) if depths else last

    def _table(self, cells: tuple[int, ...]) -> jax.Array:
        """What is added to the patches of the grid ``cells``: (N, D)."""
        dim = self.variant.dim
        if self.positions == "sincos":
            return self._fixed(partial(sincos, cls=False), cells, dim)
        table = self.param("positions", nn.initializers.normal(0.02), (*self.cells, dim))
        return resized(table, cells).reshape(-1, dim)

    def _fixed(self, rows: Callable[..., np.ndarray], cells: tuple[int, ...], width: int) -> jax.Array:
        """``rows`` of the grid ``cells``, (N, ...): of the whole or, with learned slices, of each slice the same."""
        made = rows(cells[1:] if self.learned_slices else cells, width, scale=self.scale)
        return jnp.asarray(np.tile(made, (math.prod(cells) // len(made), 1)))

    def _slices(self, cells: tuple[int, ...]) -> jax.Array:
        """What is added to the patches of the grid ``cells`` by their slice: (N, D)."""
        table = self.param("slices", nn.initializers.zeros, (self.cells[0], self.variant.dim))
        return jnp.repeat(resized(table, cells[:1]), math.prod(cells[1:]), axis=0)


def _at(rows: jax.Array, keep: jax.Array | None) -> jax.Array:
    """Rows (N, ...) of the visible patches: (B, K, ...), or (1, N, ...) of all."""
    return rows[None] if keep is None else rows[keep]
