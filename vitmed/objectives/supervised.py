"""Learning from labels: classification (multi-class, multi-label, ordinal) and regression on pooled features.

Label smoothing follows Szegedy et al. 2016; mixup follows Zhang et al. 2018, with one mixing weight an example.

A regression learns how many standard deviations a number lies from the mean of those that it is trained on
(``Spec.label_scale``): a head at zero then says the mean, and what a rate or a clipped gradient does is the same for ages
in years and volumes in mm3. Metrics other than the loss are in the labels' unit, and so is what a run gives
(``vitmed.runs.units``).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitmed.data.keys import example_keys
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.models.transformer import Remat
from vitmed.objectives.classifier import Classifier
from vitmed.objectives.interface import (
    Objective,
    ObjectiveConfig,
    Spec,
    balanced,
    check_class_weights,
    keep_memory,
)
from vitmed.objectives.tallies import mean

_DROP_PATH, _MIXUP = 1, 2  # separate streams of randomness within a step


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """Keys of ``config.objective`` for ``supervised``.

    Attributes:
        task: None takes the dataset's own task; "ordinal" learns the classes of a multi-class set as ranks, by maximum
            likelihood of the cumulative-logit model (``vitmed.models.head.Ranks``).
        order: the classes from the lowest to the highest, for "ordinal": no name says it. Given for a multi-class task,
            evaluation speaks of ranks too. With an order, the class that is said is the median rank.
        label_smoothing: share of the target spread over all classes (multiclass, ordinal), or over the yes and the no
            of each label (multilabel), in training and in the loss of validation. A number (regression) has nothing to
            be spread over: not used there.
        class_weights: loss weight of each class (multiclass, ordinal) or of each label's positives (multilabel);
            () weighs all alike. "balanced" makes every class, or the two sides of every label, weigh the same, by how
            often the labelled scans that are trained on show them.
        mixup: parameter of the beta distribution of the mixing weight; 0 is off.
        head: what a pretrained encoder's head starts from: "probe" fits it to the labelled scans' features
            first (``vitmed.objectives.probe``), "zero" calls every class equally likely. From scratch there is
            nothing to probe, and it starts at zero.
    """

    labelled: ClassVar[bool] = True
    finetunes: ClassVar[bool] = True

    name: Literal["supervised"] = "supervised"
    task: Literal["multiclass", "multilabel", "regression", "ordinal"] | None = None
    order: tuple[str, ...] = ()
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | Literal["balanced"] = ()
    mixup: float = 0.0
    head: Literal["probe", "zero"] = "probe"

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; a fraction in [0, 1) was expected")
        if self.mixup < 0:
            raise ValueError(f"mixup is {self.mixup}; 0 (off) or a positive number was expected")
        check_class_weights(self.class_weights)


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images and labels of ``spec``.

    Raises:
        InputError: a set without labels, another task than the set's, an order that is not of its classes, or a wrong
            number of class weights.
    """
    if spec.task is None:
        raise InputError(
            f"config.objective.name is {config.name!r} but the dataset has no labels; ingest it with --labels"
        )
    task = spec.task
    if config.task not in (None, task) and (config.task, task) != ("ordinal", "multiclass"):
        raise InputError(f"config.objective.task is {config.task!r} but the dataset's labels are {task!r}")
    ranks = ranks_of(config, spec)
    class_weights = jnp.asarray(_class_weights(config, spec), jnp.float32)
    network = classifier(config, model, spec, remat)

    def init(key, spec):
        return network.init(key), {}

    def loss(params, memory, batch, key, axis=None, train=True):
        stream = batch["main"]
        image, target, weight = (
            stream["image"],
            targets(stream, spec),
            stream["weight"][:, None] * stream["label_weight"],
        )
        if train and config.mixup:
            keys = example_keys(jax.random.fold_in(key, _MIXUP), stream["example"])
            image, target, weight = mix(image, target, weight, keys, config.mixup)
        keys = example_keys(jax.random.fold_in(key, _DROP_PATH), stream["example"]) if train else None
        logits = network.logits(params, image, keys)
        metrics = {"loss": mean(error(logits, target), weight, axis)}
        known = stream["weight"][:, None] * stream["label_weight"]
        if task == "regression":
            off = jnp.abs(logits - targets(stream, spec)) * spec.deviations
            metrics["mae"] = mean(off, known, axis)
        else:
            right = correct(logits, stream, task, ranks)
            metrics["accuracy"] = mean(right, known, axis)
        return metrics["loss"].value, (metrics, memory)

    def error(logits, target):
        """Loss of each example (multiclass: ``(B, 1)``) or of each label ``(B, K)``."""
        if task == "multiclass":
            smooth = optax.smooth_labels(target, config.label_smoothing)
            return -jnp.sum(class_weights * smooth * jax.nn.log_softmax(logits), axis=-1, keepdims=True)
        if task == "multilabel":
            target = target * (1 - config.label_smoothing) + config.label_smoothing / 2
            positive = class_weights * target * jax.nn.log_sigmoid(logits)
            return -(positive + (1 - target) * jax.nn.log_sigmoid(-logits))
        return (logits - target) ** 2

    def probe(params, batches):
        return network.probed(params, batches, spec)

    return Objective(init, loss, keep_memory, probe if config.head == "probe" else None)


def targets(stream: dict, spec: Spec) -> jax.Array:
    """``(B, outputs)``: one-hot for multi-class, standardised numbers, the labels themselves otherwise (0 where missing)."""
    if spec.task == "multiclass":
        return jax.nn.one_hot(stream["label"][:, 0].astype(jnp.int32), spec.outputs)
    label = spec.standardised(stream["label"]) if spec.task == "regression" else stream["label"]
    return jnp.where(stream["label_weight"] > 0, label, 0.0)


def correct(logits: jax.Array, stream: dict, task: str, ranks: tuple[int, ...] = ()) -> jax.Array:
    """1 where the prediction at the neutral threshold is the label: ``(B, 1)`` or ``(B, K)``.

    With ``ranks``, the class number of each rank, the prediction is the median rank.
    """
    if task == "multiclass":
        said = jnp.argmax(logits, -1, keepdims=True)
        if ranks:
            numbers = np.asarray(ranks)
            below = jnp.cumsum(jax.nn.softmax(logits)[:, numbers], axis=-1)[:, :-1] < 0.5
            said = jnp.asarray(numbers)[below.sum(axis=-1, keepdims=True)]
        return (said == stream["label"]).astype(jnp.float32)
    return ((logits > 0) == (stream["label"] > 0.5)).astype(jnp.float32)


def classifier(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Classifier:
    """The network that the objective trains."""
    return Classifier(model, spec, remat, ranks_of(config, spec) if config.task == "ordinal" else ())


def ranks_of(config: Config, spec: Spec) -> tuple[int, ...]:
    """The class number of each rank by ``config.order``, lowest first; () where there is none.

    Raises:
        InputError: an order that does not name every class once, or of what has none; "ordinal" without an order.
    """
    classes = ", ".join(spec.classes)
    if not config.order:
        if config.task == "ordinal":
            raise InputError(
                "config.objective.task is 'ordinal', but config.objective.order is empty: name the classes from the "
                f"lowest to the highest; the dataset has {classes}"
            )
        return ()
    if spec.task != "multiclass" or spec.outputs < 3:
        what = "two classes" if spec.task == "multiclass" else f"{spec.task} labels"
        raise InputError(
            f"config.objective.order is {config.order}, but the dataset has {what}, which have no ranks; leave it out"
        )
    if sorted(config.order) != sorted(spec.classes):
        raise InputError(
            f"config.objective.order is {config.order}; it must name each class of the dataset once: {classes}"
        )
    return tuple(spec.classes.index(name) for name in config.order)


def _class_weights(config: Config, spec: Spec) -> tuple[float, ...]:
    if config.class_weights and spec.task == "regression":
        raise InputError("config.objective.class_weights has no meaning for regression; leave it empty")
    if config.class_weights == "balanced":
        return _balanced(spec)
    if config.class_weights and len(config.class_weights) != spec.outputs:
        raise InputError(
            f"config.objective.class_weights has {len(config.class_weights)} entries; the dataset has {spec.outputs} labels"
        )
    return config.class_weights or (1.0,) * spec.outputs


def _balanced(spec: Spec) -> tuple[float, ...]:
    """Weights by ``spec.counts``: as ``balanced`` has them of a class, negatives / positives of a label.

    What is never shown, or shown by all, has 1.
    """
    if spec.task == "multilabel":
        return tuple(without / shown if shown and without else 1.0 for shown, without in spec.counts)
    return balanced(spec.counts)


def mix(image, target, weight, keys, alpha):
    """Mixes each example with its neighbour in the batch, by its own beta draw (``blend``).

    A pair with a missing label counts by the product of the weights.

    Raises:
        InputError: as ``partner``.
    """
    other = partner(len(image), "mixup", "config.train.batch_size")
    share = jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)
    return blend(image, share, other), blend(target, share, other), weight * weight[other]


def partner(count: int, name: str, batch: str) -> jax.Array:
    """``(count,)`` places of each example's neighbour in the batch: 0 with 1, 2 with 3, ...

    Neighbours share a device, so jit over a mesh and pmap mix the same pairs.

    Args:
        name: key of ``config.objective`` that asks for pairs, and
        batch: the key of the batch size, for messages.

    Raises:
        InputError: an odd number of examples (under pmap: on a device), so that one has no neighbour.
    """
    if count % 2:
        raise InputError(
            f"config.objective.{name} mixes pairs, but a device has {count} examples; "
            f"choose {batch} as an even multiple of the devices, or switch {name} off"
        )
    return jnp.arange(count) ^ 1


def blend(values: jax.Array, share: jax.Array, other: jax.Array) -> jax.Array:
    """``share`` (B,) of each row's own ``values`` (B, ...), and the rest of those of the row ``other`` (B,) names."""
    wide = share.reshape(-1, *(1,) * (values.ndim - 1))
    return wide * values + (1 - wide) * values[other]
