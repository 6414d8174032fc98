"""Learning from masks: a class for every voxel, by cross-entropy and the soft Dice loss (Milletari et al. 2016,
arXiv:1606.04797; their sum as in nnU-Net, Isensee et al. 2021).

Dice is taken over the whole global batch, a structure at a time, and not of each example by itself: a crop often holds
none of a structure, where its Dice would be 0 or undefined whatever is predicted, and a handful of voxels of it would
weigh as much as an organ. A structure of which the batch has no voxel is left out of the mean, and so is the
background, which is easy and most of the image; the cross-entropy counts both. Voxels that nobody has marked weigh
nothing anywhere. Class weights are the cross-entropy's alone: Dice counts every structure alike, however small it is.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from vitmed.data.keys import example_keys
from vitmed.data.structures import class_table
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, encoder, segmenter
from vitmed.models.transformer import Remat
from vitmed.objectives.interface import (
    Objective,
    ObjectiveConfig,
    Spec,
    balanced,
    check_class_weights,
    keep_memory,
    rooted,
)
from vitmed.objectives.tallies import Mean, Sum, mean
from vitmed.scans.layout import UNMARKED


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """Keys of ``config.objective`` for ``supervised`` where ``task`` is ``segmentation``.

    Attributes:
        dice_weight: of the Dice loss, beside the cross-entropy's 1.
        class_weights: of a voxel in the cross-entropy, by its class: the background's first, then one for each structure
            in the datasheet's order; () weighs all alike. Their mean over the voxels is not divided out. "balanced" makes
            every class weigh the same, however few voxels it has of the masks that are trained on, and "root" takes the
            roots of these weights: enough for a structure that looks like a larger one not to be given up for it, and not
            so much that all are drawn too large.
    """

    labelled: ClassVar[bool] = True
    of_masks: ClassVar[bool] = True
    finetunes: ClassVar[bool] = True

    name: Literal["supervised"] = "supervised"
    task: Literal["segmentation"] = "segmentation"
    dice_weight: float = 1.0
    class_weights: tuple[float, ...] | Literal["balanced", "root"] = ()

    def __post_init__(self):
        if self.dice_weight < 0:
            raise ValueError(f"dice_weight is {self.dice_weight}; it must not be negative")
        check_class_weights(self.class_weights)


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images and masks of ``spec``; parameters are ``{encoder, segmenter}``.

    Raises:
        InputError: masks without a structure, or with some that overlap; a model that makes no masks; a wrong number
            of class weights.
    """
    network = Segmentation(model, spec, remat)
    table = jnp.asarray(class_table(spec.structures))
    class_weights = class_weights_of(config, spec)

    def init(key, spec):
        return network.init(key), {}

    def loss(params, memory, batch, key, axis=None, train=True):
        stream = batch["main"]
        target, weight = targets(stream, table)
        keys = example_keys(key, stream["example"]) if train else None
        logits = network.logits(params, stream["image"], keys)
        both = apart(logits, target, weight, config.dice_weight, axis, class_weights)
        found = dice(one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1]), target, weight, axis)
        return both.value, ({"loss": both, "cross_entropy": both.parts[0], "dice": found}, memory)

    return Objective(init, loss, keep_memory)


class Segmentation:
    """An encoder and what makes masks of its features, as pure functions of their parameters."""

    def __init__(self, model: ModelConfig, spec: Spec, remat: Remat = "none"):
        if not spec.structures:
            raise InputError(
                "config.objective.task is 'segmentation', but the dataset's masks hold no structure; ingest scans with "
                "masks (a manifest's column mask, nnU-Net's labelsTr, DICOM SEG)"
            )
        self.outputs = 1 + len(spec.structures)
        self._encoder = encoder(model, spec.size, remat)
        self._segmenter, self._depths = segmenter(model, spec.size, self.outputs, remat)
        self._image = jnp.zeros((1, *spec.size, spec.channels))

    def init(self, key: jax.Array) -> dict:
        """Fresh parameters ``{encoder, segmenter}``."""
        encoder_key, segmenter_key = jax.random.split(key)
        (_, features), params = self._encoder.init_with_output(encoder_key, self._image, depths=self._depths)
        own = self._segmenter.init(segmenter_key, self._image, features)
        return {"encoder": params["params"], "segmenter": own["params"]}

    def logits(self, params: dict, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """``(B, *S, 1 + K)`` scores, float32, the background's first; ``keys`` ``(B,)`` drop paths in training."""
        encoded = {"params": params["encoder"]}
        _, features = self._encoder.apply(encoded, image, None, keys, depths=self._depths)
        return self._segmenter.apply({"params": params["segmenter"]}, image, features)


def targets(stream: dict, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Classes ``(B, *S)`` of the voxels, and what each weighs: nothing where it is not marked or in padding."""
    classes = table[stream["mask"]]
    marked = classes != UNMARKED
    wide = stream["weight"].reshape(-1, *(1,) * (classes.ndim - 1))
    return jnp.where(marked, classes, 0), marked * wide


def class_weights_of(config: Config, spec: Spec) -> jax.Array:
    """``(1 + K,)`` weights of the classes in the cross-entropy.

    Raises:
        InputError: a wrong number of them.
    """
    if isinstance(config.class_weights, str):
        weights = {"balanced": balanced, "root": rooted}[config.class_weights]
        return jnp.asarray(weights(spec.counts), jnp.float32)
    classes = ["background", *(name for name, _ in spec.structures)]
    if config.class_weights and len(config.class_weights) != len(classes):
        raise InputError(
            f"config.objective.class_weights has {len(config.class_weights)} entries; voxels are of {len(classes)} classes: "
            f"{', '.join(classes)}"
        )
    return jnp.asarray(config.class_weights or (1.0,) * len(classes), jnp.float32)


def apart(
    logits: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    dice_weight: float,
    axis: str | None,
    class_weights: jax.Array,
) -> Sum:
    """How far scores are from classes: cross-entropy, its first part, and the weighted soft Dice loss."""
    entropy = cross_entropy(logits, target, weight, axis, class_weights)
    overlap = dice(jax.nn.softmax(logits), target, weight, axis)
    return Sum((entropy, overlap), (1.0, -dice_weight), plus=dice_weight)


def cross_entropy(
    logits: jax.Array, target: jax.Array, weight: jax.Array, axis: str | None, class_weights: jax.Array
) -> Mean:
    """Mean over the voxels of the global batch, by ``weight`` ``(B, *S)``, of each times its class's weight."""
    wanted = class_weights * one_hot(target, logits.shape[-1])
    each = -jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1)
    return mean(each, weight, axis)


class Dice(NamedTuple):
    """Mean over the structures that there are, of twice the overlap by the sum of both volumes: a tally.

    Attributes:
        overlap, guessed, held: ``(K,)`` voxels of each structure: found where they are, found, and there.
    """

    overlap: jax.Array
    guessed: jax.Array
    held: jax.Array

    @property
    def value(self) -> jax.Array:
        """1 where there is none: nothing is to be found."""
        there = self.held > 0
        each = there * 2 * self.overlap / (self.guessed + self.held + ~there)
        none = ~there.any()
        return (each.sum() + none) / (there.sum() + none)

    @property
    def empty(self) -> jax.Array:
        """Whether there is none."""
        return ~(self.held > 0).any()


def dice(probability: jax.Array, target: jax.Array, weight: jax.Array, axis: str | None) -> Dice:
    """Dice of the structures of the global batch.

    Args:
        probability: ``(B, *S, 1 + K)``, soft or one-hot.
        target: ``(B, *S)`` classes.
        weight: ``(B, *S)``.
    """
    true = one_hot(target, probability.shape[-1])[..., 1:] * weight[..., None]
    guess = probability[..., 1:] * weight[..., None]
    over = tuple(range(true.ndim - 1))
    sums = jnp.stack([(probability[..., 1:] * true).sum(over), guess.sum(over), true.sum(over)])
    if axis is not None:
        sums = jax.lax.psum(sums, axis)
    return Dice(*sums)


def one_hot(classes: jax.Array, count: int) -> jax.Array:
    """``(..., count)`` float32."""
    return jax.nn.one_hot(classes, count)
