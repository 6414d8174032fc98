"""Masked modelling of all scans and supervised learning of the labelled ones, in one step on one encoder.

The masked loss of MAE (He et al. 2022, arXiv:2111.06377) goes on beside the labels' as an auxiliary task (Zhai et al.
2019, arXiv:1905.03670, "S4L"): what few labels alone would let the encoder forget, the unlabelled scans go on
teaching it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from vitmed.models.build import ModelConfig
from vitmed.models.transformer import Remat
from vitmed.objectives import mae, supervised
from vitmed.objectives.interface import Objective, Spec, keep_memory
from vitmed.objectives.tallies import Sum, mean

_LABELS, _PIXELS = 0, 1  # separate streams of randomness within a step


@dataclass(frozen=True)
class Config(supervised.Config):
    """Keys of ``config.objective`` for ``semi_masked``, beside those of ``supervised``.

    Attributes:
        masked: the masked loss, keys as of ``mae``. For the sake of its ``exclude`` masks of unlabelled scans are looked
            at; their labels are not.
        supervised_weight, masked_weight: of the two losses; 0 leaves one out.
    """

    streams: ClassVar[tuple[str, ...]] = ("main", "unlabelled")
    finetunes: ClassVar[bool] = False

    name: Literal["semi_masked"] = "semi_masked"
    masked: mae.Config = mae.Config()
    supervised_weight: float = 1.0
    masked_weight: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        weights = self.supervised_weight, self.masked_weight
        if min(weights) < 0 or not sum(weights):
            raise ValueError(
                f"supervised_weight and masked_weight are {weights}; one of them must be positive, none negative"
            )

    @property
    def excluded(self) -> tuple[str, ...]:
        """Structures that no pixel is predicted of, in either stream."""
        return self.masked.exclude


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images and labels of ``spec``; parameters are ``{encoder, head, decoder}``.

    The masked loss is the mean over the examples of both streams. Validation (``main`` alone) gives it of that.

    Raises:
        InputError: as ``supervised.build`` and ``mae.build``.
    """
    labels = supervised.build(config, model, spec, remat)
    pixels = mae.build(config.masked, model, spec, remat)

    def init(key, spec):
        label_key, pixel_key = jax.random.split(key)
        return {**pixels.init(pixel_key, spec)[0], **labels.init(label_key, spec)[0]}, {}

    def loss(params, memory, batch, key, axis=None, train=True):
        own = jax.random.fold_in(key, _LABELS)
        _, (metrics, _) = labels.loss(params, {}, batch, own, axis, train)
        own = jax.random.fold_in(key, _PIXELS)
        masked, *rest = (
            pixels.loss(params, {}, {"main": stream}, own, axis, train)[1][0]["loss"]
            for stream in batch.values()
        )
        if rest:
            counts = jnp.stack([stream["weight"].sum() for stream in batch.values()])
            counts = counts if axis is None else jax.lax.psum(counts, axis)
            masked = mean(jnp.stack([one.value for one in (masked, *rest)]), counts, None)
        parts = {"supervised": metrics["loss"], "masked": masked}
        both = Sum(tuple(parts.values()), (config.supervised_weight, config.masked_weight))
        return both.value, ({**metrics, **parts, "loss": both}, memory)

    return Objective(init, loss, keep_memory, labels.after_transfer)
