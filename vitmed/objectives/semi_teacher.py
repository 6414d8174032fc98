"""Pseudo-labels by a slow teacher: the semi-supervised stage of Semi-ViT (Cai et al. 2022, arXiv:2208.05688), N-D.

The teacher, a moving average of the student, guesses the class of an unlabelled scan from a weakly changed view of it;
the student has to agree on a strongly changed one, where the teacher is confident (FixMatch, Sohn et al. 2020,
arXiv:2001.07685, with an EMA teacher). Pairs of unlabelled scans are mixed in proportion to the teacher's confidence
in each, and count if either is confident (probabilistic pseudo mixup, section 3.4).

Other than in the paper, guesses stay probabilities, since hard labels of a few hundred scans are too sure of
themselves, and are aligned: their mean over time is held to that of the labels (ReMixMatch, Berthelot et al. 2020,
arXiv:1911.09785, section 3.1), so that the rare class is not guessed away. Both means are of the global batch; where
batches are drawn class by class (``config.data.sampling=balanced``), and so say nothing of how often a class is, the
labels' mean is the label budget's own frequencies (``Spec.frequencies``).

The weak view is what ``config.augment`` makes of a scan; the strong one is that, changed by ``config.objective.strong``
once more. Classes only: pseudo-labels of voxels are in ``vitmed.objectives.semi_teacher_masks``.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from vitmed.data.augment import AugmentConfig, augment
from vitmed.data.keys import example_keys
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.models.transformer import Remat
from vitmed.objectives import supervised, teacher
from vitmed.objectives.interface import Objective, Spec, weighted_mean

_LABELS, _STRONG, _DROP_PATH = 0, 1, 2  # separate streams of randomness within a step


@dataclass(frozen=True)
class Config(supervised.Config):
    """Keys of ``config.objective`` for ``semi_teacher``, beside those of ``supervised``.

    Attributes:
        strong: how the student's view is changed beyond the teacher's, keys as in ``config.augment``.
        threshold: least confidence, in [0, 1), of a guess that is learned from.
        unlabelled_weight: of the pseudo-labels' loss.
        momentum: of the teacher, in [0, 1).
        pseudo_mixup: whether unlabelled scans are mixed.
        alignment: memory, in [0, 1), of the running means of labels and guesses; 0 does not align. Under
            ``config.data.sampling=balanced`` guesses are aligned with how often the label budget shows each class.
    """

    streams: ClassVar[tuple[str, ...]] = ("main", "unlabelled")
    averages: ClassVar[bool] = True
    finetunes: ClassVar[bool] = False

    name: Literal["semi_teacher"] = "semi_teacher"
    strong: AugmentConfig = AugmentConfig()
    threshold: float = 0.7
    unlabelled_weight: float = 1.0
    momentum: float = 0.999
    pseudo_mixup: bool = True
    alignment: float = 0.99

    def __post_init__(self):
        super().__post_init__()
        for name in ("threshold", "momentum", "alignment"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a fraction in [0, 1) was expected")
        if self.unlabelled_weight < 0:
            raise ValueError(f"unlabelled_weight is {self.unlabelled_weight}; it must not be negative")


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images and classes of ``spec``.

    Parameters are ``{encoder, head}``; memory is the ``teacher``'s same two and the running means ``labels`` and
    ``guesses``, each ``(K,)``. Validation is of the teacher, which is what a run gives.

    Raises:
        InputError: as ``supervised.build``, or labels that are no classes.
    """
    labels = supervised.build(config, model, spec, remat)
    if spec.task != "multiclass":
        raise InputError(
            f"config.objective.name is 'semi_teacher', which guesses one class a scan, but the dataset's labels are "
            f"{spec.task!r}; use 'semi_masked'"
        )
    network = supervised.classifier(config, model, spec, remat)

    def init(key, spec):
        params, _ = labels.init(key, spec)
        even = jnp.full(spec.outputs, 1 / spec.outputs, jnp.float32)
        known = jnp.asarray(spec.frequencies, jnp.float32) if spec.frequencies else even
        return params, {"teacher": jax.tree.map(jnp.copy, params), "labels": known, "guesses": even}

    def loss(params, memory, batch, key, axis=None, train=True):
        if not train:
            return labels.loss(memory["teacher"], memory, batch, key, axis, train)
        own = jax.random.fold_in(key, _LABELS)
        supervised_loss, (metrics, _) = labels.loss(params, {}, batch, own, axis)

        main, stream = batch["main"], batch["unlabelled"]
        guess = jax.nn.softmax(network.logits(memory["teacher"], stream["image"]))
        if config.alignment:
            shares = {"guesses": mean_over_batch(guess, stream["weight"], axis)}
            if not spec.frequencies:
                known = main["weight"] * main["label_weight"][:, 0]
                shares["labels"] = mean_over_batch(supervised.targets(main, spec), known, axis)
            means = {name: _running(memory[name], share, config.alignment) for name, share in shares.items()}
            memory = {**memory, **means}
            guess = aligned(guess, memory["labels"], memory["guesses"])
        sure = guess.max(axis=-1)

        keys = example_keys(jax.random.fold_in(key, _STRONG), stream["example"])
        image = augment(stream["image"], keys, config.strong, spacing=stream["spacing"])
        weight = stream["weight"]
        if config.pseudo_mixup:
            other = supervised.partner(len(image), "pseudo_mixup", "config.data.unlabelled_batch")
            share = sure / (sure + sure[other])
            image, guess = (supervised.blend(x, share, other) for x in (image, guess))
            sure, weight = jnp.maximum(sure, sure[other]), weight * weight[other]

        keys = example_keys(jax.random.fold_in(key, _DROP_PATH), stream["example"])
        logits = network.logits(params, image, keys)
        kept = (sure >= config.threshold).astype(jnp.float32)
        each = -jnp.sum(guess * jax.nn.log_softmax(logits), axis=-1)
        pseudo_loss = weighted_mean(kept * each, weight, axis)
        value = supervised_loss + config.unlabelled_weight * pseudo_loss
        parts = {"loss": value, "supervised": supervised_loss, "pseudo": pseudo_loss}
        parts["kept"] = weighted_mean(kept, weight, axis)
        return value, ({**metrics, **parts}, memory)

    def after_update(params, memory, step):
        return {**memory, "teacher": teacher.follow(memory["teacher"], params, config.momentum)}

    return Objective(init, loss, after_update, labels.after_transfer)


def aligned(guess: jax.Array, labels: jax.Array, guesses: jax.Array) -> jax.Array:
    """Probabilities ``(B, K)`` of which the running mean is ``guesses`` ``(K,)``, moved towards that of ``labels``."""
    moved = guess * labels / guesses
    return moved / moved.sum(axis=-1, keepdims=True)


def mean_over_batch(rows: jax.Array, weight: jax.Array, axis: str | None) -> jax.Array:
    """``(K,)`` weighted mean of rows ``(B, K)`` over the global batch."""
    return jax.vmap(lambda column: weighted_mean(column, weight, axis), in_axes=1)(rows)


def _running(mean: jax.Array, now: jax.Array, memory: float) -> jax.Array:
    return memory * mean + (1 - memory) * now
