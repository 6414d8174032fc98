"""SimMIM (Xie et al. 2022, "SimMIM: A Simple Framework for Masked Image Modeling", arXiv:2111.09886), N-D.

The encoder sees every place of the grid, a learned token standing where a patch is hidden; one linear layer on its
tokens gives the pixels; the loss is the mean absolute error on the hidden patches alone. With
``config.model.drop_path`` paths are dropped, as the paper's code does of its ViT (0.1).

With ``head="segmenter"`` what gives the pixels is the decoder of segmentation (``vitmed.models.segmenter``), whose stem sees
the image with its hidden patches at zero, so that a fine-tuning from masks starts from a whole network and not from an
encoder under fresh convolutions, as Models Genesis do (Zhou et al. 2021, arXiv:2004.07882).
"""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.data.keys import example_keys
from vitmed.models.build import ModelConfig, cells_to_mask, encoder, segmenter
from vitmed.models.linear import Linear
from vitmed.models.patches import patchify, unpatchify
from vitmed.models.transformer import Remat
from vitmed.objectives import masking
from vitmed.objectives.interface import Objective, ObjectiveConfig, Spec, keep_memory
from vitmed.objectives.mae import check_target, target_patches
from vitmed.objectives.masking import MaskConfig

_DROP_PATH = 1  # a stream of randomness beside the masks', which are drawn from the step's own key


@dataclass(frozen=True)
class Config(ObjectiveConfig, MaskConfig):
    """Keys of ``config.objective`` for ``simmim``, beside those of ``MaskConfig``, whose defaults are the paper's here.

    Attributes:
        target: "raw" pixels, as in the paper, or "patch": normalised within each patch, as in MAE.
        head: "linear", as in the paper, or "segmenter": the decoder that ``config.model.width`` describes, which a
            segmentation with ``config.init_from`` goes on with.
    """

    name: Literal["simmim"] = "simmim"
    mask_ratio: float = 0.6
    mask: Literal["uniform", "block", "tube"] = "block"
    target: Literal["patch", "raw"] = "raw"
    head: Literal["linear", "segmenter"] = "linear"

    @property
    def excluded(self) -> tuple[str, ...]:
        """Structures that no pixel is predicted of."""
        return self.exclude


class Pixels(nn.Module):
    """Tokens (B, N, D) to pixels (B, N, P), float32, by one linear layer."""

    pixels: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        return Linear((self.pixels,), name="predict")(tokens.astype(jnp.float32))


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images of ``spec``; parameters are ``{encoder, mask_token}`` and ``pixels`` or ``segmenter``.

    Raises:
        InputError: an encoder without patches, a patch that does not fit the size or has too few values for the target,
            or masks that fit neither.
    """
    cells = cells_to_mask(model, spec.size)
    check_target(config.target, model, spec)
    masking.check(config, spec, model.patch_size)
    network = encoder(model, spec.size, remat)
    if config.head == "segmenter":
        part, (head, depths) = "segmenter", segmenter(model, spec.size, spec.channels, remat)
    else:
        part, head, depths = "pixels", Pixels(math.prod(model.patch_size) * spec.channels), ()

    def predict(params, image, mask, keys):
        """What the patches of ``image`` hold, (B, N, P), from those that ``mask`` leaves visible."""
        blanks = (mask.hidden, params["mask_token"])
        encoded = network.apply({"params": params["encoder"]}, image, keys=keys, blanks=blanks, depths=depths)
        own = {"params": params[part]}
        if config.head == "linear":
            return head.apply(own, encoded[:, 1:])
        patches = jnp.where(mask.hidden[:, :, None], 0.0, patchify(image, model.patch_size))
        shown = unpatchify(patches, cells, model.patch_size, spec.channels)
        return patchify(head.apply(own, shown, encoded[1]), model.patch_size)

    def init(key, spec):
        encoder_key, head_key, token_key = jax.random.split(key, 3)
        image = jnp.zeros((1, *spec.size, spec.channels))
        encoded, params = network.init_with_output(encoder_key, image, depths=depths)
        token = 0.02 * jax.random.normal(token_key, (model.vit.dim,))
        made = head.init(head_key, image, encoded[1]) if depths else head.init(head_key, encoded)
        return {"encoder": params["params"], part: made["params"], "mask_token": token}, {}

    def loss(params, memory, batch, key, axis=None, train=True):
        stream = batch["main"]
        targets = target_patches(stream["image"], model.patch_size, config.target)
        counted = masking.counted(config, stream, spec, model.patch_size)
        mask = masking.draw(config, example_keys(key, stream["example"]), cells, counted)
        keys = example_keys(jax.random.fold_in(key, _DROP_PATH), stream["example"]) if train else None
        error = jnp.mean(jnp.abs(predict(params, stream["image"], mask, keys) - targets), axis=-1)
        found, metrics = masking.mean_where_hidden(error, mask, counted, stream["weight"], axis)
        return found.value, ({"loss": found, **metrics}, memory)

    return Objective(init, loss, keep_memory)
