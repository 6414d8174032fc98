"""AdamW with warm-up and cosine decay, decay masks, layer-wise decay and clipping, as one optax chain."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from vitmed.optim.layers import ENCODER, layer_scales

# What is not a matrix that mixes features is not decayed: biases, norms, tokens and embeddings (MAE, DeiT).
DECAYED = ("kernel", "down", "up", "prototypes")


@dataclass(frozen=True)
class OptimConfig:
    """Keys of ``config.optim``.

    Attributes:
        name: the optimiser.
        lr: peak learning rate, used as it is: it is not scaled by the batch size.
        weight_decay: decoupled decay of the matrices; biases, norms and tokens are never decayed.
        layer_decay: factor on the rate for each layer further from the head (BEiT); 1 is off.
        warmup: fraction of the steps over which the rate rises linearly from 0.
        final_lr: the rate at the last step as a fraction of the peak.
        beta1, beta2: Adam's moments.
        eps: what Adam adds to a slope's size: one that is small beside it makes no step of the full rate.
        clip: largest global norm of the gradient; 0 is off.
        ema: decay of the moving average of the parameters; 0 is off.
    """

    name: Literal["adamw"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    warmup: float = 0.05
    final_lr: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 0.0
    ema: float = 0.0

    def __post_init__(self):
        for name in ("warmup", "final_lr", "beta1", "beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a fraction in [0, 1) was expected")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; a factor in (0, 1] was expected")
        for name in ("weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; 0 (off) or a positive number was expected"
                )
        if self.lr <= 0:
            raise ValueError(f"lr is {self.lr}; a positive rate was expected")
        if self.eps <= 0:
            raise ValueError(f"eps is {self.eps}; a small positive number was expected")


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear warm-up to ``lr``, then half a cosine down to ``final_lr * lr`` at the last step.

    The warm-up has at least one step, and leaves one.
    """
    steps = max(2, steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.lr,
        warmup_steps=min(max(1, round(config.warmup * steps)), steps - 1),
        decay_steps=steps,
        end_value=config.final_lr * config.lr,
    )


def _all(params: Any) -> Any:
    return params


def optimiser(
    config: OptimConfig, steps: int, params: Any, trained: Callable[[Any], Any] = _all
) -> optax.GradientTransformation:
    """The update rule over ``steps`` steps for what ``trained`` picks of ``params``, or of a tree like it."""
    parts = []
    if config.clip:
        parts.append(optax.clip_by_global_norm(config.clip))
    parts.append(
        optax.adamw(
            schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decayed,
        )
    )
    if config.layer_decay < 1:
        scales = trained(layer_scales(params, config.layer_decay))
        parts.append(optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales)))
    return optax.chain(*parts)


def joined_later(
    config: OptimConfig, steps: int, wait: int, params: Any, trained: Callable[[Any], Any] = _all
) -> optax.GradientTransformation:
    """The update rule where the encoder is trained from step ``wait`` on only, the rest from the first.

    Gradients without an encoder leave its moments as they are. When it joins, it has a warm-up of its own and then
    the cosine down to the last step, from moments that know nothing of the steps before. The norm that is clipped is
    that of all gradients there are.
    """
    own = replace(config, clip=0.0)
    clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
    rules = {
        part: optimiser(own, steps - first, params, lambda tree, part=part: _part(trained(tree), part))
        for part, first in (("encoder", wait), ("rest", 0))
    }

    def init(params):
        return {part: rule.init(_part(params, part)) for part, rule in rules.items()}

    def update(gradients, state, params):
        gradients, _ = clip.update(gradients, optax.EmptyState())
        updates, state = {}, dict(state)
        for part, rule in rules.items():
            if mine := _part(gradients, part):
                change, state[part] = rule.update(mine, state[part], _part(params, part))
                updates |= change
        return updates, state

    return optax.GradientTransformation(init, update)


def _part(tree: dict, part: str) -> dict:
    return {name: node for name, node in tree.items() if (name in ENCODER) == (part == "encoder")}


def decayed(params: Any) -> Any:
    """True for each leaf that weight decay applies to."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in DECAYED, params)


def ema_update(average: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """Moving average of the parameters, its memory growing from 1 step to ``1 / (1 - decay)``.

    The short memory at the start (as in TensorFlow's ``ExponentialMovingAverage``) forgets the initial values.
    """
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a + (1 - rate) * (p - a), average, params)
