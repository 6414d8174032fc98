"""Learning from labels: classification (multi-class, multi-label) and regression on pooled features.

Label smoothing follows Szegedy et al. 2016; mixup follows Zhang et al. 2018, with one mixing weight an example.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitmed.data.keys import example_keys
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, encoder
from vitmed.models.head import Head, pooled
from vitmed.models.norms import norm
from vitmed.models.patches import grid
from vitmed.models.transformer import Remat
from vitmed.objectives.interface import Objective, Spec, keep_memory, weighted_mean
from vitmed.objectives.probe import linear_probe

_DROP_PATH, _MIXUP = 1, 2  # separate streams of randomness within a step


@dataclass(frozen=True)
class Config:
    """Keys of ``config.objective`` for ``supervised``.

    Attributes:
        task: None takes the dataset's own task.
        label_smoothing: share of the target spread over all classes (multiclass).
        class_weights: loss weight of each class (multiclass) or of each label's positives (multilabel);
            () weighs all alike.
        mixup: parameter of the beta distribution of the mixing weight; 0 is off.
        head: what a pretrained encoder's head starts from: "probe" fits it to the labelled scans' features
            first (``vitmed.objectives.probe``), "zero" calls every class equally likely. From scratch there is
            nothing to probe, and it starts at zero.
    """

    labelled: ClassVar[bool] = True

    name: Literal["supervised"] = "supervised"
    task: Literal["multiclass", "multilabel", "regression"] | None = None
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    mixup: float = 0.0
    head: Literal["probe", "zero"] = "probe"

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; a fraction in [0, 1) was expected")
        if self.mixup < 0:
            raise ValueError(f"mixup is {self.mixup}; 0 (off) or a positive number was expected")


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images and labels of ``spec``.

    Raises:
        InputError: a set without labels, another task than the set's, or a wrong number of class weights.
    """
    task = config.task or spec.task
    if spec.task is None:
        raise InputError(
            f"config.objective.name is {config.name!r} but the dataset has no labels; ingest it with --labels"
        )
    if task != spec.task:
        raise InputError(f"config.objective.task is {task!r} but the dataset's labels are {spec.task!r}")
    if config.class_weights and len(config.class_weights) != spec.outputs:
        raise InputError(
            f"config.objective.class_weights has {len(config.class_weights)} entries; the dataset has {spec.outputs} labels"
        )
    if config.class_weights and task == "regression":
        raise InputError("config.objective.class_weights has no meaning for regression; leave it empty")
    network = Classifier(model, spec, remat)
    class_weights = jnp.asarray(config.class_weights or (1.0,) * spec.outputs, jnp.float32)

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
        value = weighted_mean(error(logits, target), weight, axis)
        metrics = {"loss": value}
        if task != "regression":
            right = correct(logits, stream, task)
            metrics["accuracy"] = weighted_mean(
                right, stream["weight"][:, None] * stream["label_weight"], axis
            )
        return value, (metrics, memory)

    def error(logits, target):
        """Loss of each example (multiclass: ``(B, 1)``) or of each label ``(B, K)``."""
        if task == "multiclass":
            smooth = optax.smooth_labels(target, config.label_smoothing)
            return -jnp.sum(class_weights * smooth * jax.nn.log_softmax(logits), axis=-1, keepdims=True)
        if task == "multilabel":
            positive = class_weights * target * jax.nn.log_sigmoid(logits)
            return -(positive + (1 - target) * jax.nn.log_sigmoid(-logits))
        return (logits - target) ** 2

    def probe(params, batches):
        return {**params, "head": {**params["head"], "scores": probed_scores(network, params, batches, spec)}}

    return Objective(init, loss, keep_memory, probe if config.head == "probe" else None)


class Classifier:
    """An encoder and a linear head on its pooled features, as pure functions of their parameters."""

    def __init__(self, model: ModelConfig, spec: Spec, remat: Remat = "none"):
        self._encoder = encoder(model, spec.size, remat)
        self._head = Head(spec.outputs)
        self._patches = grid(spec.size, model.patch_size) if model.patch_size else ()
        self._pool = model.pool
        self._image = jnp.zeros((1, *spec.size, spec.channels))

    def init(self, key: jax.Array) -> dict:
        """Fresh parameters ``{encoder, head}``."""
        encoder_key, head_key = jax.random.split(key)
        encoded, encoder_params = self._encoder.init_with_output(encoder_key, self._image)
        head_params = self._head.init(head_key, self._pooled(encoded))
        return {"encoder": encoder_params["params"], "head": head_params["params"]}

    def features(self, params: dict, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """``(B, F)`` pooled features, float32; ``keys`` ``(B,)`` drop paths in training."""
        return self._pooled(self._encoder.apply({"params": params["encoder"]}, image, None, keys))

    def _pooled(self, encoded: jax.Array) -> jax.Array:
        return pooled(encoded, self._pool, self._patches)

    def normed(self, params: dict, image: jax.Array) -> jax.Array:
        """``(B, F)`` features as the head's linear layer sees them, float32."""
        return norm("norm").apply({"params": params["head"]["norm"]}, self.features(params, image))

    def logits(self, params: dict, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """``(B, outputs)`` scores, float32."""
        return self._head.apply({"params": params["head"]}, self.features(params, image, keys))


def probed_scores(network: Classifier, params: dict, batches: Iterator[dict], spec: Spec) -> dict:
    """The head's linear layer, fitted to the features that ``params`` give of what is trained on."""
    features = jax.jit(network.normed)
    made, label, weight = [], [], []
    for batch in batches:
        stream = batch["main"]
        known = np.asarray(stream["weight"]) > 0  # the last batch is filled up
        made.append(np.asarray(features(params, stream["image"]))[known])
        label.append(np.asarray(stream["label"])[known])
        weight.append(np.asarray(stream["label_weight"])[known])
    joined = (np.concatenate(parts) for parts in (made, label, weight))
    kernel, bias = linear_probe(*joined, spec.task, spec.outputs)
    return {"kernel": kernel, "bias": bias}


def targets(stream: dict, spec: Spec) -> jax.Array:
    """``(B, outputs)``: one-hot for multi-class, the labels themselves otherwise (0 where missing)."""
    if spec.task == "multiclass":
        return jax.nn.one_hot(stream["label"][:, 0].astype(jnp.int32), spec.outputs)
    return jnp.where(stream["label_weight"] > 0, stream["label"], 0.0)


def correct(logits: jax.Array, stream: dict, task: str) -> jax.Array:
    """1 where the prediction at the neutral threshold is the label: ``(B, 1)`` or ``(B, K)``."""
    if task == "multiclass":
        return (jnp.argmax(logits, -1, keepdims=True) == stream["label"]).astype(jnp.float32)
    return ((logits > 0) == (stream["label"] > 0.5)).astype(jnp.float32)


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
