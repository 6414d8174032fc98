"""Self-distillation: DINO and iBOT as DINOv2 joins them (Oquab et al. 2023, arXiv:2304.07193), N-D.

A slow teacher sees two large views of each scan, the student these with patches hidden and several small ones. The
student's class token must tell the teacher's of another view (DINO, Caron et al. 2021, arXiv:2104.14294), its hidden
patches the teacher's of the same place (iBOT, Zhou et al. 2022, arXiv:2111.07832). The teacher's scores become targets
by Sinkhorn's iteration, and KoLeo spreads the class tokens, both over the whole global batch. The prototypes learn from
the first step on; in DINO they stand still for an epoch.

``config.augment`` changes a scan before its views are cut; ``config.objective.views`` each view on its own.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from vitmed.data.augment import AugmentConfig, augment, boxes
from vitmed.data.keys import example_keys
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, cells_to_mask, encoder
from vitmed.models.patches import grid
from vitmed.models.projector import Projector
from vitmed.models.transformer import Remat
from vitmed.objectives import masking, teacher
from vitmed.objectives.interface import Objective, ObjectiveConfig, Spec, weighted_mean
from vitmed.objectives.whole_batch import koleo, sinkhorn

GLOBALS = 2  # large views
_BOX, _CHANGE, _MASK, _DROP = 0, 1, 2, 3  # separate streams of randomness of a view


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """Keys of ``config.objective`` for ``self_distil``.

    Attributes:
        locals: number of small views; 0 is none.
        global_crop, local_crop: ranges of the part of the area or volume that a large and a small view shows.
        local_size: spatial size of a small view, array order; () is about half of each axis, in whole patches.
        views: changes of each view by its own draw, keys as in ``config.augment``.
        mask_ratio: range of the share of patches that is hidden from the student, drawn for each large view.
        masked: share of the large views of which anything is hidden.
        mask_block: patches along each side of the blocks that are hidden.
        prototypes, hidden, bottleneck: the two heads' sizes (``vitmed.models.projector``).
        student_temperature: by which the student's scores are divided.
        teacher_temperature: by which the teacher's are, at the start and after ``temperature_warmup``.
        temperature_warmup: fraction of the steps over which it rises.
        dino, ibot, koleo: weights of the three losses; 0 leaves one out.
        momentum: of the teacher at the first and at the last step, along half a cosine.
    """

    averages: ClassVar[bool] = True

    name: Literal["self_distil"] = "self_distil"
    locals: int = 8
    global_crop: tuple[float, float] = (0.32, 1.0)
    local_crop: tuple[float, float] = (0.05, 0.32)
    local_size: tuple[int, ...] = ()
    views: AugmentConfig = AugmentConfig()
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    masked: float = 0.5
    mask_block: int = 2
    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    temperature_warmup: float = 0.1
    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1
    momentum: tuple[float, float] = (0.992, 1.0)

    def __post_init__(self):
        for name in ("global_crop", "local_crop"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(
                    f"{name} is {(low, high)}; the range of a fraction, such as (0.3, 1.0), was expected"
                )
        for name, least in (
            ("locals", 0),
            ("mask_block", 1),
            ("prototypes", 2),
            ("hidden", 1),
            ("bottleneck", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {least} was expected")
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ValueError(
                f"mask_ratio is {self.mask_ratio}; the range of a fraction, such as (0.1, 0.5), was expected"
            )
        for name in ("masked", "temperature_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a fraction was expected")
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise ValueError("student_temperature and teacher_temperature must be positive")
        if min(self.dino, self.ibot, self.koleo) < 0 or not self.dino + self.ibot:
            raise ValueError(
                f"dino and ibot are {self.dino} and {self.ibot}; one of them must be positive, none negative"
            )
        teacher.check_momentum(self.momentum)


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images of ``spec``.

    Parameters are ``{encoder, image, patches, mask_token}`` (the heads of the class token and of the patches), memory
    is the teacher's ``{encoder, image, patches}`` and the count of ``updates``.

    Raises:
        InputError: an encoder without patches, a patch that does not fit the size, or small views that do not fit.
    """
    cells = cells_to_mask(model, spec.size)
    small = local_size(config, model, spec)
    network = encoder(model, spec.size, remat)
    head = Projector(config.hidden, config.bottleneck, config.prototypes)
    patches = math.prod(cells)
    # So many tokens go through the patches' head, whatever the ratio that a view draws.
    most = max(1, math.ceil(config.mask_ratio[1] * patches)) if config.ibot else 0

    def init(key, spec):
        keys = jax.random.split(key, 4)
        image = jnp.zeros((1, *spec.size, spec.channels))
        tokens, made = network.init_with_output(keys[0], image)
        slow = {"encoder": made["params"], "image": head.init(keys[1], tokens[:, 0])["params"]}
        params = dict(slow)
        if config.ibot:
            slow["patches"] = params["patches"] = head.init(keys[2], tokens[:, 1:])["params"]
            params["mask_token"] = 0.02 * jax.random.normal(keys[3], (model.vit.dim,))
        return params, {"teacher": jax.tree.map(jnp.copy, slow), "updates": jnp.zeros((), jnp.int32)}

    def encode(params, image, keys=None, blanks=None):
        return network.apply({"params": params["encoder"]}, image, keys=keys, blanks=blanks)

    def score(params, name, tokens):
        return head.apply({"params": params[name]}, tokens)

    def loss(params, memory, batch, key, axis=None, train=True):
        stream, slow = batch["main"], memory["teacher"]

        def keys(which, purpose):
            """(B * len(which),) as ``views`` orders them."""
            return jnp.stack([_keys(key, view, purpose, stream["example"]) for view in which], 1).reshape(-1)

        large = views(config, stream, key, range(GLOBALS), config.global_crop, spec.size)
        weight = jnp.repeat(stream["weight"], GLOBALS)  # of each large view
        warmed = teacher.linear(
            config.teacher_temperature, memory["updates"], round(config.temperature_warmup * spec.steps)
        )
        blanks, places, hidden = None, None, None
        if config.ibot:
            shown, places, hidden = mask(config, keys(range(GLOBALS), _MASK), cells, most)
            blanks = (shown, params["mask_token"])
        seen = encode(params, large, keys(range(GLOBALS), _DROP) if train else None, blanks)
        told = encode(slow, large)

        target = sinkhorn(score(slow, "image", told[:, 0]), weight, warmed, axis)
        guess = jax.nn.log_softmax(score(params, "image", seen[:, 0]) / config.student_temperature)
        target, guess = (x.reshape(-1, GLOBALS, x.shape[-1]) for x in (target, guess))
        # Each of the teacher's views against every other one of the student's.
        crossed = -jnp.einsum("bvk,bwk->b", target, guess) + jnp.einsum("bvk,bvk->b", target, guess)
        if config.locals:
            rest = range(GLOBALS, GLOBALS + config.locals)
            little = views(config, stream, key, rest, config.local_crop, small)
            tokens = encode(params, little, keys(rest, _DROP) if train else None)[:, 0]
            guess = jax.nn.log_softmax(score(params, "image", tokens) / config.student_temperature)
            guess = guess.reshape(-1, config.locals, guess.shape[-1])
            crossed = crossed - jnp.einsum("bvk,bwk->b", target, guess)
        pairs = GLOBALS * (GLOBALS - 1 + config.locals)
        parts = {"dino": weighted_mean(crossed / pairs, stream["weight"], axis)}
        if config.ibot:
            parts["ibot"] = ibot(params, slow, seen, told, places, hidden, weight, warmed, axis)
        if config.koleo:
            tokens = seen[:, 0].reshape(-1, GLOBALS, seen.shape[-1])
            parts["koleo"] = sum(
                koleo(tokens[:, view], stream["weight"], stream["example"], axis) for view in range(GLOBALS)
            )
        value = sum(getattr(config, name) * part for name, part in parts.items())
        return value, ({"loss": value, **parts}, memory)

    def ibot(params, slow, seen, told, places, hidden, weight, warmed, axis):
        """Cross-entropy at the hidden patches, a mean over each view's, then over views."""
        seen, told = (jnp.take_along_axis(x[:, 1:], places[:, :, None], axis=1) for x in (seen, told))
        counts = (hidden * weight[:, None]).reshape(-1)
        scores = score(slow, "patches", told).reshape(-1, config.prototypes)
        target = sinkhorn(scores, counts, warmed, axis).reshape(*hidden.shape, -1)
        guess = jax.nn.log_softmax(score(params, "patches", seen) / config.student_temperature)
        each = -(target * guess).sum(axis=-1)
        return weighted_mean((each * hidden).sum(axis=1) / jnp.maximum(hidden.sum(axis=1), 1), weight, axis)

    def after_update(params, memory, step):
        momentum = teacher.cosine(config.momentum, step, spec.steps)
        return {"teacher": teacher.follow(memory["teacher"], params, momentum), "updates": step}

    return Objective(init, loss, after_update)


def local_size(config: Config, model: ModelConfig, spec: Spec) -> tuple[int, ...]:
    """Spatial size of a small view.

    Raises:
        InputError: it has other axes than the scans, is larger, or the patch does not divide it.
    """
    if not config.local_size:
        return tuple(max(s // 2 // p, 1) * p for s, p in zip(spec.size, model.patch_size))
    size, whole = config.local_size, spec.size
    if len(size) != len(whole) or any(a > b for a, b in zip(size, whole)):
        raise InputError(
            f"config.objective.local_size is {size}, which does not lie within the scans' {whole}"
        )
    if any(s < p for s, p in zip(size, model.patch_size)):
        raise InputError(
            f"config.objective.local_size is {size}, smaller than a patch {model.patch_size}; enlarge it or lower "
            "config.model.patch_size"
        )
    try:
        grid(size, model.patch_size)
    except InputError as error:
        raise InputError(f"config.objective.local_size: {error}") from None
    return size


def views(
    config: Config,
    stream: dict,
    key: jax.Array,
    which: range,
    crop: tuple[float, float],
    size: tuple[int, ...],
) -> jax.Array:
    """The views of these numbers, ``(B * len(which), *size, C)``, those of one example together.

    A view of another aspect than the scan's has voxels of another shape, which a rotation of it goes by.
    """
    known = jnp.isfinite(stream["spacing"]).all(axis=-1, keepdims=True)
    spacing = jnp.where(known, stream["spacing"], 1.0)  # unknown, the scan's voxels are taken to be cubes
    made = []
    for view in which:
        box, step = boxes(stream["image"], _keys(key, view, _BOX, stream["example"]), crop, size)
        keys = _keys(key, view, _CHANGE, stream["example"])
        made.append(augment(box, keys, config.views, spacing=spacing * step))
    return jnp.stack(made, axis=1).reshape(-1, *made[0].shape[1:])


def mask(
    config: Config, keys: jax.Array, cells: tuple[int, ...], most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What is hidden of each view.

    Args:
        keys: ``(V,)``, one a view.
        most: places given, of which the last ones are hidden.

    Returns:
        ``(V, N)`` booleans, and ``(V, most)`` places with, for each, whether it is hidden.
    """
    patches = math.prod(cells)
    low, high = config.mask_ratio

    def count(key):
        whether, share = jax.random.uniform(jax.random.fold_in(key, 1), (2,))
        ratio = low + (high - low) * share
        return jnp.where(whether < config.masked, jnp.clip(jnp.floor(ratio * patches), 1, most), 0)

    hidden = jax.vmap(count)(keys)[:, None]
    order = jnp.argsort(masking.grouped(keys, cells, (config.mask_block,) * len(cells)), axis=1)
    rank = jnp.argsort(order, axis=1)
    last = jnp.arange(patches - most, patches) >= patches - hidden
    return rank >= patches - hidden, order[:, patches - most :], last.astype(jnp.float32)


def _keys(key: jax.Array, view: int, purpose: int, example: jax.Array) -> jax.Array:
    return example_keys(jax.random.fold_in(jax.random.fold_in(key, view), purpose), example)
