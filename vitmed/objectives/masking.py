"""Random masks over a grid of patches, one from each example's own key, in any number of dimensions.

Uniform masks are those of MAE (He et al. 2022, section 3). Block masks hide whole cubes of patches, as SimMIM's
larger masked patches do (Xie et al. 2022, section 3.2); tube masks hide the same places all along the first axis
(Tong et al. 2022, "VideoMAE", section 3.2): neighbours then tell less of what is hidden.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from vitmed.errors import InputError
from vitmed.models.patches import at, grid, patchify
from vitmed.objectives.interface import Spec
from vitmed.objectives.tallies import Mean, mean

LEAST_HIDDEN = 0.5  # of the patches that count, whatever share of all patches they are


class Mask(NamedTuple):
    """Which patches stay visible.

    Attributes:
        keep: ``(B, K)`` indices of the visible patches.
        hide: ``(B, N-K)`` indices of the masked patches.
        restore: ``(B, N)`` place of patch n in the sequence "visible first, then masked".
        places: ``(B, N)`` indices of the patches that take part, of which the n-th is patch n; None is the whole grid.
    """

    keep: jax.Array
    hide: jax.Array
    restore: jax.Array
    places: jax.Array | None = None

    @property
    def hidden(self) -> jax.Array:
        """``(B, N)`` booleans: whether each patch is masked."""
        return self.restore >= self.keep.shape[1]


@dataclass(frozen=True)
class MaskConfig:
    """The keys of ``config.objective`` that say what is hidden and what of it counts.

    Attributes:
        mask_ratio: share of the patches that is hidden.
        mask: "uniform" hides patches one by one, "block" cubes of them, "tube" all along the first axis.
        mask_block: patches along each side of a block.
        foreground: a patch is background where, in every channel, its mean lies no more than this share of the
            recipe's window above the window's low end: air, and what was padded. Background does not count in the
            loss, and visible patches are taken from the foreground first, of which at least half stays hidden. So
            less than ``mask_ratio`` of the foreground is hidden: choose a higher one. Blocks and tubes stay whole: they
            are taken first, and half of them hidden, where any patch of theirs is foreground. 0 makes no difference;
            brightness that augmentation adds makes air count.
        exclude: structures of the dataset's masks, by name (a face, writing): patches that touch one do not count, nor
            are they taken first.
    """

    mask_ratio: float = 0.75
    mask: Literal["uniform", "block", "tube"] = "uniform"
    mask_block: int = 2
    foreground: float = 0.0
    exclude: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; a fraction between 0 and 1 was expected")
        if self.mask_block < 1:
            raise ValueError(f"mask_block is {self.mask_block}; at least 1 patch was expected")
        if not 0 <= self.foreground < 1:
            raise ValueError(f"foreground is {self.foreground}; a fraction in [0, 1) was expected")


def check(config: MaskConfig, spec: Spec, patch: tuple[int, ...]) -> None:
    """InputError where ``config`` asks for what images of ``spec`` do not have."""
    cells = grid(spec.size, patch)
    if config.mask == "tube" and math.prod(cells[1:]) < 2:
        raise InputError(
            f"config.objective.mask 'tube' needs patches beside the first axis, but the grid of {spec.size} in patches "
            f"of {tuple(patch)} is {cells}; choose smaller patches or another mask"
        )
    if config.foreground and not spec.window:
        raise InputError("config.objective.foreground needs the recipe of a dataset; set it to 0 here")
    named = [name for name, _ in spec.structures]
    for name in config.exclude:
        if name not in named:
            raise InputError(
                f"exclude in config.objective names the structure {name!r}, which the dataset's masks do not hold; "
                f"they hold {', '.join(named) or 'none that is named'}"
            )


def visible_count(patches: int, mask_ratio: float) -> int:
    """Number of visible patches: at least one is seen and at least one is hidden."""
    return min(max(int(patches * (1 - mask_ratio)), 1), patches - 1)


def visible(config: MaskConfig, cells: tuple[int, ...]) -> int:
    """Number of visible patches of the grid ``cells``; whole tubes where tubes are hidden."""
    if config.mask == "tube":
        return cells[0] * visible_count(math.prod(cells[1:]), config.mask_ratio)
    return visible_count(math.prod(cells), config.mask_ratio)


def draw(
    config: MaskConfig,
    keys: jax.Array,
    cells: tuple[int, ...],
    counted: jax.Array | None = None,
    places: jax.Array | None = None,
) -> Mask:
    """The masks of a batch.

    Args:
        keys: ``(B,)`` keys, one an example.
        cells: patches along each axis.
        counted: ``(B, N)`` booleans as ``counted`` gives them, or None where all patches count.
        places: ``(B, N)`` indices of the patches that take part, for a uniform mask; None is all. ``counted`` is of these.
    """
    if places is not None:
        mask = draw(config, keys, places.shape[1:], counted)
        return Mask(at(places, mask.keep), at(places, mask.hide), mask.restore, places)
    shown = visible(config, cells)
    if config.mask == "uniform":
        noise, tiles = _noise(keys, math.prod(cells)), 0
    else:
        block = (
            (config.mask_block,) * len(cells)
            if config.mask == "block"
            else (cells[0],) + (1,) * (len(cells) - 1)
        )
        noise, tiles = grouped(keys, cells, block), math.prod(_tiles(cells, block))
    return _least(noise if counted is None else _first(noise, counted, shown, tiles), shown)


def from_noise(noise: jax.Array, mask_ratio: float) -> Mask:
    """The mask that keeps the patches with the least ``noise`` ``(B, N)``."""
    return _least(noise, visible_count(noise.shape[1], mask_ratio))


def grouped(keys: jax.Array, cells: tuple[int, ...], block: tuple[int, ...]) -> jax.Array:
    """``(B, N)`` noise that orders whole blocks of patches at random, and the patches within each.

    Its whole part is the block's place in that order. The blocks tile the grid from an offset of each example's own; those
    at the edge are cut. An axis along which one block reaches from end to end has no offset.
    """
    tiles = _tiles(cells, block)

    def row(key):
        shift, order, inside = jax.random.split(key, 3)
        offset = jax.random.randint(shift, (len(cells),), 0, jnp.asarray(block))
        tile = jnp.zeros(cells, jnp.int32)
        for axis, (n, size, count) in enumerate(zip(cells, block, tiles)):
            along = (jnp.arange(n) + offset[axis]) // size if count > 1 else jnp.zeros(n, jnp.int32)
            tile = tile * count + along.reshape(-1, *(1,) * (len(cells) - 1 - axis))
        rank = jax.random.permutation(order, math.prod(tiles))[tile.ravel()]
        return rank + 0.5 * jax.random.uniform(inside, (math.prod(cells),))

    return jax.vmap(row)(keys)


def _tiles(cells: tuple[int, ...], block: tuple[int, ...]) -> list[int]:
    """How many blocks there may be along each axis, one cut at either end."""
    return [1 if size >= n else -(-n // size) + 1 for n, size in zip(cells, block)]


def counted(config: MaskConfig, stream: dict, spec: Spec, patch: tuple[int, ...]) -> jax.Array | None:
    """``(B, N)`` booleans: the patches that count in the loss; None where ``config`` lets all of them.

    Args:
        stream: of a batch, its ``image`` normalised.

    Raises:
        InputError: structures are excluded, and the stream has no masks.
    """
    counts = None
    if config.foreground:
        low, high = jnp.asarray(spec.window, jnp.float32).T
        patches = patchify((stream["image"] - low) / (high - low), patch)
        means = patches.reshape(*patches.shape[:2], -1, spec.channels).mean(axis=2)
        counts = jnp.any(means > config.foreground, axis=-1)
    if config.exclude:
        if "mask" not in stream:
            raise InputError(
                f"exclude in config.objective is {config.exclude}, but these scans have no masks; leave it out, or ingest "
                "them with masks"
            )
        values = [value for name, held in spec.structures if name in config.exclude for value in held]
        touched = jnp.isin(patchify(stream["mask"][..., None], patch), jnp.asarray(values)).any(axis=-1)
        counts = ~touched if counts is None else counts & ~touched
    return counts


def mean_where_hidden(
    values: jax.Array, mask: Mask, counted: jax.Array | None, weight: jax.Array, axis: str | None
) -> tuple[Mean, dict[str, Mean]]:
    """Mean of ``values`` ``(B, N)`` over the hidden patches that count, of the global batch.

    Returns:
        The mean, and ``counted``, the share of all patches that count, where not all do.
    """
    weights = mask.hidden * weight[:, None]
    if counted is None:
        return mean(values, weights, axis), {}
    share = mean(counted, jnp.broadcast_to(weight[:, None], counted.shape), axis)
    return mean(values, weights * counted, axis), {"counted": share}


def _noise(keys: jax.Array, patches: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)


def _least(noise: jax.Array, shown: int) -> Mask:
    shuffle = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(shuffle, axis=1)
    return Mask(shuffle[:, :shown], shuffle[:, shown:], restore)


def _first(noise: jax.Array, counted: jax.Array, shown: int, tiles: int = 0) -> jax.Array:
    """Noise in the same order within each kind, by which patches that count are shown before those that do not.

    At least ``LEAST_HIDDEN`` of them come last, so that they are hidden. Of up to ``tiles`` blocks (``grouped``) all of
    one is of one kind: it counts where any patch of it does, and comes last where any patch of it would.
    """

    def throughout(values):
        most = jax.vmap(lambda row, tile: jax.ops.segment_max(row, tile, tiles)[tile])
        return most(values.astype(jnp.int32), noise.astype(jnp.int32)) if tiles else values

    counted = throughout(counted) > 0
    rank = jnp.argsort(jnp.argsort(noise, axis=1), axis=1)
    among = jnp.cumsum(jnp.take_along_axis(counted, jnp.argsort(noise, axis=1), axis=1), axis=1)
    place = jnp.take_along_axis(among, rank, axis=1) - 1  # of a patch that counts, among those that do
    place = throughout(place)
    most = jnp.floor(counted.sum(axis=1, keepdims=True) * (1 - LEAST_HIDDEN)).astype(jnp.int32)
    kind = jnp.where(counted, jnp.where(place < jnp.minimum(most, shown), 0, 2), 1)
    return kind * noise.shape[1] + rank
