"""Ways of fine-tuning: which of a run's parameters are trained, and how what was learned becomes plain weights.

A run's parameters are ``{encoder, head, ...}`` and, by low-rank adaptation, ``lora`` beside them. A ``Split`` picks from
them what is trained. The loss is differentiated by that alone, and optimiser state, weight decay and the moving average
know nothing else; so what is frozen ends as it began, to the bit.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from vitmed.errors import InputError
from vitmed.models import lora
from vitmed.models.lora import LoraConfig
from vitmed.optim.layers import layers
from vitmed.optim.optimiser import OptimConfig, joined_later, optimiser

# Where it starts at zero, nothing else tells slices apart; a run that began so is opened again without the former one.
_SLICES = ("encoder", "slices")
_LORA = 1  # its stream of randomness beside the key that the parameters are drawn from


class Split(NamedTuple):
    """Parameters in two: what is trained, and what is not.

    Attributes:
        starts: of each leaf that is trained, by its path, from which entry of its first axis on; None trains all.
    """

    starts: dict[tuple[str, ...], int] | None

    def trained(self, params: dict) -> dict:
        """What is trained of ``params``, or of any tree like it: a smaller tree."""
        if self.starts is None:
            return params
        flat = traverse_util.flatten_dict(params)
        return traverse_util.unflatten_dict(
            {path: flat[path][start:] if start else flat[path] for path, start in self.starts.items()}
        )

    def joined(self, params: dict, trained: dict) -> dict:
        """``params`` with what is trained of them as in ``trained``."""
        if self.starts is None:
            return trained
        flat, new = traverse_util.flatten_dict(params), traverse_util.flatten_dict(trained)
        for path, start in self.starts.items():
            flat[path] = jnp.concatenate([flat[path][:start], new[path]]) if start else new[path]
        return traverse_util.unflatten_dict(flat)


class Stage(NamedTuple):
    """A stretch of the training.

    Attributes:
        start: its first step.
        split: what is trained of the parameters.
        still: whether nothing of the encoder is.
    """

    start: int
    split: Split
    still: bool


@dataclass(frozen=True)
class FinetuneConfig:
    """Keys of ``config.finetune``.

    Attributes:
        method: "full" trains all; "probe" the head alone, on features of the encoder as it is and without drop path;
            "lora" the head, a low-rank change of the encoder's products (``vitmed.models.lora``) and the table of
            ``config.model.learned_slices``, which is no product. Of segmentation the head is all that makes masks of
            the features, which is more than a linear probe. A probe of an encoder that is inflated here leaves that
            table at zero: its features do not depend on the order of slices.
        head_first: share of the steps in which the head is trained alone, before the encoder joins it (Kumar et al.
            2022, arXiv:2202.10054).
        frozen_blocks: the embedding and so many first blocks of the encoder stay as they are ("full" only), but for
            the table of ``config.model.learned_slices``.
        lora: of "lora".
    """

    method: Literal["full", "probe", "lora"] = "full"
    head_first: float = 0.0
    frozen_blocks: int = 0
    lora: LoraConfig = LoraConfig()

    def __post_init__(self):
        if not 0 <= self.head_first < 1:
            raise ValueError(
                f"head_first is {self.head_first}; a fraction of the steps in [0, 1) was expected"
            )
        if self.frozen_blocks < 0:
            raise ValueError(f"frozen_blocks is {self.frozen_blocks}; a number of blocks was expected")
        unused = {
            "head_first": self.head_first and self.method == "probe",
            "frozen_blocks": self.frozen_blocks and self.method != "full",
            "lora": self.lora != LoraConfig() and self.method != "lora",
        }
        for key, wrong in unused.items():
            if wrong:
                raise ValueError(
                    f"{key} is {getattr(self, key)}, which has no meaning for the method {self.method!r}; leave it out"
                )

    @property
    def whole(self) -> bool:
        """Whether all parameters are trained from the first step to the last."""
        return self.method == "full" and not self.head_first and not self.frozen_blocks

    def check(self, objective: Any, init_from: str) -> None:
        """Refuses to keep from training what nobody has trained, or what the objective's section needs.

        Raises:
            InputError: an objective that must train all of the model, or no run to start from.
        """
        if self.whole:
            return
        if not objective.finetunes:
            raise InputError(
                f"config.finetune keeps parts of the model from training, which {objective.name!r} does not allow; "
                "leave the section out, or fine-tune with configs/finetune_classify.py or configs/finetune_segment.py"
            )
        if not init_from:
            raise InputError(
                "config.finetune keeps parts of the model from training, but config.init_from is empty, so nobody "
                "trained them before; name the run to start from"
            )

    def begun(self, params: dict, key: jax.Array) -> dict:
        """Fresh parameters ``{encoder, head, ...}`` with what this way of fine-tuning adds to them."""
        if self.method != "lora":
            return params
        return {**params, "lora": lora.fresh(jax.random.fold_in(key, _LORA), params["encoder"], self.lora)}

    def plain(self, params: dict) -> dict:
        """The parameters as a network takes them, ``{encoder, head, ...}``: a low-rank change is added to the encoder."""
        if self.method != "lora":
            return params
        rest = {name: part for name, part in params.items() if name != "lora"}
        return {**rest, "encoder": lora.added(params["encoder"], params["lora"], self.lora)}

    def split(self, params: dict, head_alone: bool = False) -> "Split":
        """What is trained of parameters of these shapes; ``head_alone`` is for the steps before the encoder joins.

        Raises:
            InputError: more frozen blocks than the encoder has.
        """
        if self.method == "full" and not self.frozen_blocks and not head_alone:
            return Split(None)
        numbers, depth = layers(params)
        if self.frozen_blocks > depth:
            raise InputError(
                f"config.finetune.frozen_blocks is {self.frozen_blocks}, but the encoder has {depth} blocks"
            )
        starts = {}
        for path, number in traverse_util.flatten_dict(numbers).items():
            if path[0] not in ("encoder", "lora"):
                starts[path] = 0
            elif head_alone or self.method == "probe":
                continue
            elif path == _SLICES:
                starts[path] = 0
            elif path[0] == "encoder" and self.method != "full":
                continue
            elif isinstance(number, np.ndarray) and path[0] == "encoder":
                if self.frozen_blocks < depth:
                    starts[path] = self.frozen_blocks
            elif not self.frozen_blocks or np.min(number) > self.frozen_blocks:
                starts[path] = 0
        return Split(starts)

    def stages(self, params: dict, steps: int) -> list[Stage]:
        """The stretches of a training of so many steps, in order, for parameters of these shapes."""
        joins, rest = self._joins(steps), self.split(params)
        if not joins:
            return [Stage(0, rest, self.method == "probe")]
        return [Stage(0, self.split(params, head_alone=True), True), Stage(joins, rest, False)]

    def rule(self, optim: OptimConfig, steps: int, params: dict) -> optax.GradientTransformation:
        """The update rule for what is trained of parameters of these shapes."""
        joins, trained = self._joins(steps), self.split(params).trained
        if joins:
            return joined_later(optim, steps, joins, params, trained)
        return optimiser(optim, steps, params, trained)

    def told(self, state: dict) -> str:
        """For people: how many parameters of a training state are trained, and what the optimiser keeps of them."""
        part = jax.eval_shape(self.split(state["params"]).trained, state["params"])
        trained = sum(x.size for x in jax.tree.leaves(part))
        kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state["opt_state"]))
        return f"{self.method}: {trained:,} parameters are trained, with {kept:,} bytes of optimiser state"

    def _joins(self, steps: int) -> int:
        """The step from which the encoder is trained."""
        return min(round(self.head_first * steps), steps - 1)
