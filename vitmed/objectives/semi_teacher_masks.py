"""Pseudo-labels of voxels by a slow teacher: ``semi_teacher`` for segmentation, N-D.

As in Semi-ViT (Cai et al. 2022, arXiv:2208.05688) the teacher is a moving average of the student and guesses from a
weakly changed view; the student has to agree on a strongly changed one where the teacher is confident, voxel by voxel
(FixMatch, Sohn et al. 2020, arXiv:2001.07685, as PseudoSeg, Zou et al. 2021, arXiv:2010.09713, has it for masks).
Both views share their geometry, which ``config.augment`` draws, so that a guess lies where the student sees it:
``config.objective.strong`` changes intensities alone.

The likeliest class of a confident voxel is learned by the loss of ``vitmed.objectives.segmentation``, which counts by
the share of voxels that are confident: a teacher that knows little yet says little. Scans are neither mixed nor
guesses aligned, as of whole scans: shares of structures differ from crop to crop.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from vitmed.data.augment import AugmentConfig, augment
from vitmed.data.keys import example_keys
from vitmed.models.build import ModelConfig
from vitmed.models.transformer import Remat
from vitmed.objectives import segmentation, teacher
from vitmed.objectives.interface import Objective, Spec, weighted_mean

_LABELS, _STRONG, _DROP_PATH = 0, 1, 2  # separate streams of randomness within a step


@dataclass(frozen=True)
class Config(segmentation.Config):
    """Keys of ``config.objective`` for ``semi_teacher`` where ``task`` is ``segmentation``, beside those of ``supervised``.

    Attributes:
        strong: how the student's view is changed beyond the teacher's, keys as in ``config.augment`` but for those that
            move anything.
        threshold: least confidence, in [0, 1), of a voxel's guess that is learned from.
        unlabelled_weight: of the pseudo-labels' loss.
        momentum: of the teacher, in [0, 1).
    """

    streams: ClassVar[tuple[str, ...]] = ("main", "unlabelled")
    averages: ClassVar[bool] = True

    name: Literal["semi_teacher"] = "semi_teacher"
    strong: AugmentConfig = AugmentConfig()
    threshold: float = 0.8
    unlabelled_weight: float = 1.0
    momentum: float = 0.99

    def __post_init__(self):
        super().__post_init__()
        for name in ("threshold", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a fraction in [0, 1) was expected")
        if self.unlabelled_weight < 0:
            raise ValueError(f"unlabelled_weight is {self.unlabelled_weight}; it must not be negative")
        if self.strong.moves or self.strong.flip:
            still = {f.name: getattr(AugmentConfig(), f.name) for f in dataclasses.fields(AugmentConfig)}
            moving = ("flip", "shift", "scale", "rotate", "crop", "elastic")
            found = next(name for name in moving if getattr(self.strong, name) != still[name])
            raise ValueError(
                f"strong.{found} is {getattr(self.strong, found)}, which moves the student's view away from the guesses; "
                "move both views by config.augment"
            )


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images and masks of ``spec``; parameters and the memory's ``teacher`` are ``{encoder, segmenter}``.

    Validation is of the teacher, which is what a run gives.

    Raises:
        InputError: as ``segmentation.build``.
    """
    labels = segmentation.build(config, model, spec, remat)
    network = segmentation.Segmentation(model, spec, remat)
    class_weights = segmentation.class_weights_of(config, spec)

    def init(key, spec):
        params, _ = labels.init(key, spec)
        return params, {"teacher": jax.tree.map(jnp.copy, params)}

    def loss(params, memory, batch, key, axis=None, train=True):
        if not train:
            return labels.loss(memory["teacher"], memory, batch, key, axis, train)
        own = jax.random.fold_in(key, _LABELS)
        supervised_loss, (metrics, _) = labels.loss(params, {}, batch, own, axis)

        stream = batch["unlabelled"]
        guess = jax.nn.softmax(network.logits(memory["teacher"], stream["image"]))
        sure = guess.max(axis=-1) >= config.threshold
        weight = jnp.broadcast_to(stream["weight"].reshape(-1, *(1,) * (sure.ndim - 1)), sure.shape)
        kept = weighted_mean(sure, weight, axis)

        keys = example_keys(jax.random.fold_in(key, _STRONG), stream["example"])
        image = augment(stream["image"], keys, config.strong, spacing=stream["spacing"])
        keys = example_keys(jax.random.fold_in(key, _DROP_PATH), stream["example"])
        logits = network.logits(params, image, keys)
        target, counts = guess.argmax(axis=-1), sure * weight
        apart = segmentation.apart(logits, target, counts, config.dice_weight, axis, class_weights)
        pseudo_loss = kept * apart.value
        value = supervised_loss + config.unlabelled_weight * pseudo_loss
        parts = {"loss": value, "supervised": supervised_loss, "pseudo": pseudo_loss, "kept": kept}
        return value, ({**metrics, **parts}, memory)

    def after_update(params, memory, step):
        return {**memory, "teacher": teacher.follow(memory["teacher"], params, config.momentum)}

    return Objective(init, loss, after_update)
