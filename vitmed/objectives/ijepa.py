"""I-JEPA (Assran et al. 2023, "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture").

From the features of a context block the predictor tells the features that a slow teacher has of several target
blocks of the whole image; the loss is smooth L1 between them (the paper's is their squared distance, its code's
this one), the teacher's features normalised. No pixels are reconstructed and no views are made. The predictor's
size is ``config.model.decoder_dim``, ``.decoder_depth`` and ``.decoder_heads``.

Blocks have fixed counts of patches, which a compiled step needs: a target block is the T patches nearest to a random
centre, in a box of a random aspect, and the context is the K patches nearest to a random centre that lie in no target,
with as many as are left where targets do not overlap. (The paper draws sizes a batch, and cuts every context to the
smallest of the batch.)
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitmed.data.keys import example_keys
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, cells_to_mask, encoder, predictor
from vitmed.models.transformer import Remat
from vitmed.objectives import teacher
from vitmed.objectives.interface import Objective, ObjectiveConfig, Spec, weighted_mean

EPSILON = 1e-5  # of the normalisation of the teacher's features


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """Keys of ``config.objective`` for ``ijepa``.

    Attributes:
        targets: number of target blocks.
        target_scale: share of the patches that each holds.
        target_aspect: range of the ratio of each axis's side to the last one's, drawn uniformly.
        momentum: of the teacher at the first and at the last step, linear between.
    """

    drops_paths: ClassVar[bool] = False
    averages: ClassVar[bool] = True

    name: Literal["ijepa"] = "ijepa"
    targets: int = 4
    target_scale: float = 0.175
    target_aspect: tuple[float, float] = (0.75, 1.5)
    momentum: tuple[float, float] = (0.996, 1.0)

    def __post_init__(self):
        if self.targets < 1:
            raise ValueError(f"targets is {self.targets}; at least 1 block was expected")
        if not 0 < self.target_scale < 1:
            raise ValueError(f"target_scale is {self.target_scale}; a fraction between 0 and 1 was expected")
        if not 0 < self.target_aspect[0] <= self.target_aspect[1]:
            raise ValueError(f"target_aspect is {self.target_aspect}; (smallest, largest) was expected")
        teacher.check_momentum(self.momentum)


class Blocks(NamedTuple):
    """Places on the grid: ``context`` ``(B, K)`` and ``targets`` ``(B, M, T)``."""

    context: jax.Array
    targets: jax.Array


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images of ``spec``; parameters are ``{encoder, predictor}``, memory ``{teacher}``.

    Raises:
        InputError: an encoder without patches, a patch that does not fit the size, or targets that leave no context.
    """
    cells = cells_to_mask(model, spec.size)
    counts(config, cells)
    student, guess = encoder(model, spec.size, remat), predictor(model, spec.size, remat)

    def init(key, spec):
        student_key, guess_key = jax.random.split(key)
        image = jnp.zeros((1, *spec.size, spec.channels))
        blocks = draw(config, jax.random.split(key, 1), cells)
        tokens, params = student.init_with_output(student_key, image, blocks.context)
        made = guess.init(guess_key, tokens[:, 1:], *blocks)["params"]
        first = {"encoder": jax.tree.map(jnp.copy, params["params"])}
        return {"encoder": params["params"], "predictor": made}, {"teacher": first}

    def loss(params, memory, batch, key, axis=None, train=True):
        stream = batch["main"]
        blocks = draw(config, example_keys(key, stream["example"]), cells)
        wanted = student.apply({"params": memory["teacher"]["encoder"]}, stream["image"])[:, 1:]
        wanted = at(normalised(wanted), blocks.targets)
        tokens = student.apply({"params": params["encoder"]}, stream["image"], blocks.context)[:, 1:]
        predicted = guess.apply({"params": params["predictor"]}, tokens, *blocks)
        each = smooth_l1(predicted - wanted).mean(axis=(1, 2, 3))
        value = weighted_mean(each, stream["weight"], axis)
        return value, ({"loss": value}, memory)

    def after_update(params, memory, step):
        momentum = teacher.linear(config.momentum, step, spec.steps)
        return {"teacher": teacher.follow(memory["teacher"], params, momentum)}

    return Objective(init, loss, after_update)


def counts(config: Config, cells: tuple[int, ...]) -> tuple[int, int]:
    """Patches of the context and of each target on the grid ``cells``.

    Raises:
        InputError: the targets may cover the grid.
    """
    patches = math.prod(cells)
    each = max(1, round(config.target_scale * patches))
    if config.targets * each >= patches:
        raise InputError(
            f"config.objective.targets is {config.targets}: so many blocks of {each} patches (target_scale "
            f"{config.target_scale}) may cover all {patches} of the grid {cells} and leave no context; "
            "lower targets or target_scale, or choose smaller patches"
        )
    return patches - config.targets * each, each


def draw(config: Config, keys: jax.Array, cells: tuple[int, ...]) -> Blocks:
    """The blocks of a batch, from the examples' ``keys`` ``(B,)``."""
    shown, each = counts(config, cells)
    places = jnp.asarray(np.indices(cells).reshape(len(cells), -1).T, jnp.float32)  # (N, axes)
    extent = jnp.asarray(cells, jnp.float32)

    def away(key, aspect):
        """(N,) distances from a random centre, in boxes of the sides' ratios ``aspect`` that lie on the grid."""
        side = aspect * (each / aspect.prod()) ** (1 / len(cells))
        room = jnp.maximum(extent - side, 0) + 1  # between the first and the last place, a patch either way
        centre = (extent - 1) / 2 + room * jax.random.uniform(key, extent.shape, minval=-0.5, maxval=0.5)
        return jnp.max(jnp.abs(places - centre) / aspect, axis=-1)

    def row(key):
        block_keys = jax.random.split(key, config.targets + 1)
        targets = []
        for block_key in block_keys[1:]:
            aspect_key, centre_key = jax.random.split(block_key)
            low, high = config.target_aspect
            free = jax.random.uniform(aspect_key, (len(cells) - 1,), minval=low, maxval=high)
            distance = away(centre_key, jnp.concatenate([free, jnp.ones(1)]))
            targets.append(jnp.argsort(distance)[:each])
        targets = jnp.stack(targets)
        taken = jnp.zeros(len(places), bool).at[targets.ravel()].set(True)
        distance = jnp.where(taken, jnp.inf, away(block_keys[0], jnp.ones(len(cells))))
        return Blocks(jnp.argsort(distance)[:shown], targets)

    return jax.vmap(row)(keys)


def at(features: jax.Array, places: jax.Array) -> jax.Array:
    """``(B, N, D)`` at ``places`` ``(B, M, T)``: ``(B, M, T, D)``."""
    return jax.vmap(lambda one, where: one[where])(features, places)


def normalised(features: jax.Array) -> jax.Array:
    """Each token (..., D) with mean 0 and variance 1, float32."""
    features = features.astype(jnp.float32)
    centred = features - features.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)


def smooth_l1(error: jax.Array) -> jax.Array:
    """Half the square below 1, the distance less a half beyond (Girshick 2015, "Fast R-CNN")."""
    size = jnp.abs(error)
    return jnp.where(size < 1, 0.5 * error**2, size - 0.5)
