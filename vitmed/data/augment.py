"""Augmentation inside the compiled step: N-D, per example, a function of each example's key.

All geometry is composed into one map from output to input coordinates and the image is resampled once,
linearly: by a small interpolation matrix an axis (flips, shifts, scaling and crops keep the axes apart, and
matrices suit accelerators), or by gathering neighbours when a rotation or an elastic field mixes them. What lies
outside the image repeats its edge, which for scans continues the background they end in; a fixed fill value
would draw a border for the model to find. Masks follow the same map to the nearest voxel.

Each kind of change has its own place in the row of random numbers that an example's key gives, so switching
one on leaves the others' draws as they were. Everything is off by default. Rotation is in millimetres: an example
whose spacing is known turns rigidly whatever its pixels' shape; unknown, they are taken to be square. A flip
across the body's midline moves the heart to the other side: choose axes with the labels in mind
(``vitmed.data.mirrors`` says which are doubted).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from vitmed.data import fields
from vitmed.errors import InputError

_ONCE = ("crop area", "scale", "rotate", "gamma", "contrast", "brightness", "noise level")
_AN_AXIS = ("flip", "crop place", "shift", "cutout")
_LATER = (
    "elastic",
    "bias field",
    "blur",
)  # drawn from a key of their own, so that the rows above stay as they were
# Folded into an example's key: for the noise of its pixels, the later row of numbers, and the two fields.
_NOISE, _ROW, _ELASTIC, _BIAS, _BOX = 1, 2, 3, 4, 5
_BIAS_CELLS = 2  # a coil's sensitivity bends once or twice over an image


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """The ``augment`` section of a config; every default is "off".

    Attributes:
        flip: spatial axes (0 the first, array order), each mirrored for half of the examples.
        shift: largest shift along each axis, as a fraction of the size.
        scale: range of the zoom, drawn log-uniformly; above 1 magnifies.
        rotate: largest angle in degrees, either way: in the image plane, or about z for a volume.
        crop: range of the part of the area (or volume) that is cut out, at a random place and in the image's
            own aspect, and resized to the whole; () does not crop.
        elastic: largest displacement by a smooth random field, as a fraction of the size of each axis; each
            example draws its own strength up to it. At most 0.4 / elastic_cells, so that tissue never folds.
        elastic_cells: cells of the field's grid along each axis: more bend more finely.
        brightness: largest value added, in standard deviations of the data (the unit of normalised images).
        contrast: largest relative change of the deviation from the image's mean.
        gamma: exponents from 1/(1+gamma) to 1+gamma, log-uniform, on the image's own range.
        bias_field: gains of a smooth multiplicative field lie between 1/(1+bias_field) and 1+bias_field, each
            example with its own strength; MR's uneven coils. It multiplies what lies above the image's minimum,
            which is air, 0 in a magnitude image, so give it to images that show some.
        blur: largest standard deviation, in voxels, of a Gaussian blur along every axis, drawn from 0 up.
        noise: largest standard deviation of added Gaussian noise, in standard deviations of the data.
        cutout: part of the area (or volume) that one box, at a random place, sets to the data's mean. The image alone:
            a mask still says what is there, to be told from what is around the box (DeVries and Taylor, arXiv:1708.04552).
    """

    flip: tuple[int, ...] = ()
    shift: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    crop: tuple[float, ...] = ()
    elastic: float = 0.0
    elastic_cells: int = 4
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    bias_field: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0

    def __post_init__(self):
        for name, most in (("shift", 1), ("rotate", 180), ("contrast", 1), ("cutout", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and {most}")
        for name in ("brightness", "gamma", "bias_field", "blur", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.elastic_cells < 1:
            raise ValueError(f"elastic_cells is {self.elastic_cells}; give 1 or more cells along an axis")
        most = fields.FOLD_FREE / self.elastic_cells
        if not 0 <= self.elastic <= most:
            raise ValueError(
                f"elastic is {self.elastic}; with elastic_cells {self.elastic_cells} it must lie between 0 and "
                f"{most:.4g}, or tissue would fold onto itself; lower one of the two"
            )
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}; give (smallest, largest), such as (0.9, 1.1)")
        if self.crop and (len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1] <= 1):
            raise ValueError(f"crop is {self.crop}; give the range of area kept, such as (0.5, 1.0), or ()")
        if any(axis < 0 for axis in self.flip):
            raise ValueError(f"flip is {self.flip}; give spatial axes counted from 0")

    @property
    def moves(self) -> bool:
        """Whether anything but flips changes the geometry."""
        whole = self.shift or self.rotate or self.crop or self.elastic
        return bool(whole or tuple(self.scale) != (1.0, 1.0))


def augment(
    images: jax.Array,
    keys: jax.Array,
    config: AugmentConfig,
    masks: jax.Array | None = None,
    spacing: jax.Array | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Augments a batch.

    Args:
        images: (B, *S, C) float, normalised.
        keys: (B,) keys, from ``example_keys``.
        masks: (B, *S) integers that follow the geometry, or None.
        spacing: (B, n) millimetres, nan where unknown, or None: what rotation turns in.

    Returns:
        The images, or (images, masks) when masks are given; what no setting touches is returned as it came.

    Raises:
        InputError: ``config.flip`` names an axis that the images do not have.
    """
    ndim = images.ndim - 2
    if any(axis >= ndim for axis in config.flip):
        raise InputError(
            f"flip is {config.flip} in config.augment or the views of config.objective, but images are {ndim}D; give axes 0 "
            f"to {ndim - 1}"
        )
    if config == AugmentConfig():
        return images if masks is None else (images, masks)
    draws = _Draws.of(keys, ndim)
    air = images.min(tuple(range(1, ndim + 1)), keepdims=True)  # before a crop may leave it out
    if config.moves:
        source = _coordinates(draws, keys, images.shape[1:-1], config, spacing)
        images = _linear(images, source)
        masks = None if masks is None else _nearest(masks, source)
    elif config.flip:
        flipped = _flipped(draws, config.flip)
        images = _mirror(images, flipped, config.flip)
        masks = None if masks is None else _mirror(masks, flipped, config.flip)
    images = _intensity(images, air, draws, keys, config)
    return images if masks is None else (images, masks)


def boxes(
    images: jax.Array, keys: jax.Array, volume: tuple[float, float], size: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """A random box of each image, resized: the views of multi-crop (Caron et al. 2020, arXiv:2006.09882).

    Args:
        images: (B, *S, C) float.
        keys: (B,) keys.
        volume: range of the box's part of the area or volume, drawn uniformly; it has the image's own aspect.
        size: of what comes out, array order.

    Returns:
        (B, *size, C), interpolated linearly, and (B, n) how many of the image's voxels each of theirs is long.
    """
    whole = jnp.asarray(images.shape[1:-1], jnp.float32)
    ndim = len(size)
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (ndim + 1,)))(_own(keys, _BOX))
    side = (volume[0] + (volume[1] - volume[0]) * drawn[:, :1]) ** (1 / ndim) * whole
    corner = drawn[:, 1:] * (whole - side)
    source = [
        corner[:, axis, None] + (jnp.arange(n) + 0.5) / n * side[:, axis, None] - 0.5
        for axis, n in enumerate(size)
    ]
    return _linear(images, source), side / jnp.asarray(size)


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Numbers in [0, 1), one row an example, each place kept for one purpose whether it is used or not."""

    values: jax.Array  # (B, 7 + 4 * ndim)
    later: jax.Array  # (B, 3)
    ndim: int

    @classmethod
    def of(cls, keys: jax.Array, ndim: int) -> "_Draws":
        def row(keys, places):
            return jax.vmap(lambda key: jax.random.uniform(key, (places,)))(keys)

        return cls(row(keys, len(_ONCE) + len(_AN_AXIS) * ndim), row(_own(keys, _ROW), len(_LATER)), ndim)

    def one(self, purpose: str, low: float, high: float) -> jax.Array:
        """(B,) numbers from [low, high)."""
        later = purpose in _LATER
        drawn = self.later[:, _LATER.index(purpose)] if later else self.values[:, _ONCE.index(purpose)]
        return low + (high - low) * drawn

    def an_axis(self, purpose: str, low: float, high: float) -> jax.Array:
        """(B, ndim) numbers from [low, high)."""
        start = len(_ONCE) + _AN_AXIS.index(purpose) * self.ndim
        return low + (high - low) * self.values[:, start : start + self.ndim]


def _own(keys: jax.Array, purpose: int) -> jax.Array:
    """(B,) keys for one purpose."""
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)


def _coordinates(
    draws: _Draws, keys: jax.Array, size: tuple[int, ...], config: AugmentConfig, spacing: jax.Array | None
) -> list[jax.Array]:
    """Where each output voxel comes from in the input, in voxels.

    The elastic field displaces the output's voxels first and the affine map follows, so that the whole is free of
    folds where the field is.

    Returns:
        For each axis, (B, n) coordinates where that axis stays apart from the others, else (B, *S).
    """
    ndim = len(size)
    extent = jnp.asarray(size, jnp.float32)
    step = jnp.ones((draws.values.shape[0], ndim))
    middle = jnp.broadcast_to((extent - 1) / 2, step.shape)
    if config.crop:
        kept = draws.one("crop area", *config.crop)[:, None] ** (1 / ndim)
        step *= kept
        middle += draws.an_axis("crop place", -0.5, 0.5) * (1 - kept) * extent
    if tuple(config.scale) != (1.0, 1.0):
        low, high = map(math.log, config.scale)
        step *= jnp.exp(-draws.one("scale", low, high))[:, None]
    if config.shift:
        middle += draws.an_axis("shift", -config.shift, config.shift) * extent
    if config.flip:
        step *= jnp.where(_flipped(draws, config.flip), -1.0, 1.0)
    from_middle = [(jnp.arange(n) - (n - 1) / 2) * step[:, axis, None] for axis, n in enumerate(size)]
    if not (config.rotate or config.elastic):
        return [middle[:, axis, None] + along for axis, along in enumerate(from_middle)]
    moved = [_along(values, axis, ndim) for axis, values in enumerate(from_middle)]
    if config.elastic:
        strength = draws.one("elastic", 0, config.elastic)[:, None] * extent * step
        bent = fields.field(_own(keys, _ELASTIC), size, config.elastic_cells, ndim)
        moved = [along + bent[..., axis] * _over(strength[:, axis], ndim) for axis, along in enumerate(moved)]
    if config.rotate:
        *others, y, x = moved
        angle = jnp.deg2rad(draws.one("rotate", -config.rotate, config.rotate))
        cos, sin = (_over(f(angle), ndim) for f in (jnp.cos, jnp.sin))
        tall = _over(_height(spacing, step.shape[0]), ndim)
        moved = [*others, cos * y - sin * x / tall, sin * y * tall + cos * x]
    return [
        jnp.broadcast_to(_over(middle[:, axis], ndim) + along, (step.shape[0], *size))
        for axis, along in enumerate(moved)
    ]


def _height(spacing: jax.Array | None, count: int) -> jax.Array:
    """(B,) height over width of a pixel of the image plane; 1 where the spacing is unknown."""
    if spacing is None:
        return jnp.ones(count)
    ratio = spacing[:, -2] / spacing[:, -1]
    return jnp.where(jnp.isfinite(ratio) & (ratio > 0), ratio, 1.0)


def _linear(images: jax.Array, source: list[jax.Array]) -> jax.Array:
    """(B, *S, C) resampled by linear interpolation, edges repeated."""
    if source[0].ndim > 2:
        return jax.vmap(jax.vmap(_map_coordinates(1), (-1, None), -1))(images, source)
    for axis, along in enumerate(source, start=1):
        n = images.shape[axis]
        # Row i holds the weights of the two voxels that output i lies between: a tent over the voxels.
        weights = jnp.maximum(0, 1 - jnp.abs(jnp.clip(along, 0, n - 1)[:, :, None] - jnp.arange(n)))
        images = fields.mixed(images, weights, axis)
    return images


def _blurred(images: jax.Array, sigma: jax.Array) -> jax.Array:
    """(B, *S, C) under a Gaussian of ``sigma`` (B,) voxels along every axis; at the edges its inner part alone."""
    narrow = jnp.maximum(sigma, 1e-3)[:, None, None]  # nothing of a neighbour is left at this width
    for axis in range(1, images.ndim - 1):
        place = jnp.arange(images.shape[axis])
        weights = jnp.exp(-0.5 * ((place[:, None] - place) / narrow) ** 2)
        images = fields.mixed(images, weights / weights.sum(-1, keepdims=True), axis)
    return images


def _nearest(masks: jax.Array, source: list[jax.Array]) -> jax.Array:
    """(B, *S) resampled to the nearest voxel, edges repeated."""
    if source[0].ndim > 2:
        return jax.vmap(_map_coordinates(0))(masks, source)
    for axis, along in enumerate(source, start=1):
        index = jnp.clip(jnp.round(along), 0, masks.shape[axis] - 1).astype(jnp.int32)
        masks = jnp.take_along_axis(masks, _along(index, axis - 1, masks.ndim - 1), axis)
    return masks


def _map_coordinates(order: int):
    return lambda image, source: jax.scipy.ndimage.map_coordinates(image, source, order, mode="nearest")


def _mirror(arrays: jax.Array, flipped: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """(B, *S, ...) reversed along each of ``axes`` where ``flipped`` (B, n) says so; exact for any dtype."""
    for axis in axes:
        chosen = flipped[:, axis].reshape(-1, *(1,) * (arrays.ndim - 1))
        arrays = jnp.where(chosen, jnp.flip(arrays, axis + 1), arrays)
    return arrays


def _intensity(
    images: jax.Array, air: jax.Array, draws: _Draws, keys: jax.Array, config: AugmentConfig
) -> jax.Array:
    """What changes values in place; ``air`` (B, 1, ..., C) is each channel's minimum before it was moved."""
    space = tuple(range(1, images.ndim))
    size = images.shape[1:-1]
    wide = images.ndim - 1
    if config.bias_field:
        strength = draws.one("bias field", 0, math.log1p(config.bias_field))
        gain = jnp.exp(fields.field(_own(keys, _BIAS), size, _BIAS_CELLS) * _over(strength, wide))
        images = (images - air) * gain + air
    if config.gamma:
        bound = math.log1p(config.gamma)
        low, high = images.min(space, keepdims=True), images.max(space, keepdims=True)
        extent = jnp.maximum(high - low, 1e-6)
        power = _over(jnp.exp(draws.one("gamma", -bound, bound)), wide)
        images = ((images - low) / extent) ** power * extent + low
    if config.contrast:
        mean = images.mean(space, keepdims=True)
        gain = _over(draws.one("contrast", 1 - config.contrast, 1 + config.contrast), wide)
        images = (images - mean) * gain + mean
    if config.brightness:
        images = images + _over(draws.one("brightness", -config.brightness, config.brightness), wide)
    if config.blur:
        images = _blurred(images, draws.one("blur", 0, config.blur))
    if config.noise:
        drawn = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(
            _own(keys, _NOISE)
        )
        images = images + drawn * _over(draws.one("noise level", 0, config.noise), wide)
    if config.cutout:
        ndim = len(size)
        side = config.cutout ** (1 / ndim)
        inside = jnp.ones((), bool)
        corner = draws.an_axis("cutout", 0, 1 - side)
        for axis, n in enumerate(size):
            at = (jnp.arange(n) + 0.5) / n - corner[:, axis, None]
            inside = inside & _along((0 <= at) & (at < side), axis, ndim)
        images = jnp.where(inside[..., None], 0, images)
    return images


def _over(values: jax.Array, axes: int) -> jax.Array:
    """(B,) shaped to broadcast over ``axes`` more axes."""
    return values.reshape(-1, *(1,) * axes)


def _along(values: jax.Array, axis: int, ndim: int) -> jax.Array:
    """(B, n) shaped to broadcast over (B, *S), with n on spatial ``axis``."""
    return values.reshape(values.shape[0], *(values.shape[1] if a == axis else 1 for a in range(ndim)))


def _flipped(draws: _Draws, axes: tuple[int, ...]) -> jax.Array:
    """(B, ndim) booleans: which spatial axes of which example are mirrored."""
    allowed = np.isin(np.arange(draws.ndim), axes)
    return (draws.an_axis("flip", 0, 1) < 0.5) & allowed
