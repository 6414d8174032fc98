"""Masked autoencoding (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners"), N-D.

A random quarter of the patches is encoded; a light decoder fills in the rest; the loss is the mean squared
error on the hidden patches alone, against pixels normalised within each patch (section 4.1, ``norm_pix_loss``).
The decoder's size is ``config.model.decoder_dim``, ``.decoder_depth`` and ``.decoder_heads``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from vitmed.data.keys import example_keys
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, brightest_patches, cells_to_mask, decoder, encoder
from vitmed.models.patches import at, brightest, grid, patchify
from vitmed.models.transformer import Remat
from vitmed.objectives import frequency, masking
from vitmed.objectives.interface import Objective, ObjectiveConfig, Spec, keep_memory
from vitmed.objectives.masking import MaskConfig

VARIANCE_FLOOR = 1e-6  # as in the paper's code


@dataclass(frozen=True)
class Config(ObjectiveConfig, MaskConfig):
    """Keys of ``config.objective`` for ``mae``, beside those of ``MaskConfig``.

    Attributes:
        target: "patch" normalises each target patch to zero mean and unit variance; "raw" does not.
        high_frequency: how much more the finest detail within a patch weighs than its mean
            (``vitmed.objectives.frequency``); 0 is the mean squared error.
    """

    drops_paths: ClassVar[bool] = False

    name: Literal["mae"] = "mae"
    target: Literal["patch", "raw"] = "patch"
    high_frequency: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.high_frequency < 0:
            raise ValueError(
                f"high_frequency is {self.high_frequency}; 0 (off) or a positive number was expected"
            )

    @property
    def excluded(self) -> tuple[str, ...]:
        """Structures that no pixel is predicted of."""
        return self.exclude


def build(config: Config, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective for images of ``spec``.

    Raises:
        InputError: an encoder without patches, a patch that does not fit the size or has too few values for the target,
            or masks that fit neither or not the choice of patches.
    """
    network = Autoencoder(model, spec, remat)
    check_target(config.target, model, spec)
    masking.check(config, spec, model.patch_size)
    cells = cells_to_mask(model, spec.size)
    if network.brightest and config.mask != "uniform":
        raise InputError(
            f"config.objective.mask is {config.mask!r}, which hides neighbours of the whole grid; with "
            "config.model.brightest_patches take 'uniform'"
        )
    if network.brightest == 1:
        raise InputError(
            "config.model.brightest_patches is 1, but a masked autoencoder needs at least 2: one is shown, one predicted"
        )

    def init(key, spec):
        return network.init(key, config.mask_ratio), {}

    def loss(params, memory, batch, key, axis=None, train=True):
        stream = batch["main"]
        places = brightest(stream["image"], model.patch_size, network.brightest)
        targets = at(target_patches(stream["image"], model.patch_size, config.target), places)
        counted = masking.counted(config, stream, spec, model.patch_size)
        counted = None if counted is None else at(counted, places)
        mask = masking.draw(config, example_keys(key, stream["example"]), cells, counted, places)
        error = network.predict(params, stream["image"], mask) - targets
        if config.high_frequency:
            square = frequency.weighted_square(error, model.patch_size, config.high_frequency)
        else:
            square = jnp.mean(error**2, axis=-1)
        found, metrics = masking.mean_where_hidden(square, mask, counted, stream["weight"], axis)
        return found.value, ({"loss": found, **metrics}, memory)

    return Objective(init, loss, keep_memory)


class Autoencoder:
    """The two networks of MAE as pure functions of their parameters.

    Attributes:
        brightest: how many patches of an image take part; 0 is all.
    """

    def __init__(self, model: ModelConfig, spec: Spec, remat: Remat = "none"):
        self._decoder = decoder(model, spec.size, spec.channels, remat)  # refuses an encoder without patches
        self._encoder = encoder(model, spec.size, remat)
        self.brightest = brightest_patches(model, spec.size)
        self._image = jnp.zeros((1, *spec.size, spec.channels))
        self._patches = self.brightest or math.prod(grid(spec.size, model.patch_size))

    def init(self, key: jax.Array, mask_ratio: float) -> dict:
        """Fresh parameters ``{encoder, decoder}``."""
        mask = masking.from_noise(jnp.arange(self._patches, dtype=jnp.float32)[None], mask_ratio)
        encoder_key, decoder_key = jax.random.split(key)
        tokens, encoder_params = self._encoder.init_with_output(encoder_key, self._image, mask.keep)
        places = jnp.arange(self._patches)[None] if self.brightest else None
        decoder_params = self._decoder.init(decoder_key, tokens, mask.restore, places)
        return {"encoder": encoder_params["params"], "decoder": decoder_params["params"]}

    def predict(self, params: dict, image: jax.Array, mask: masking.Mask) -> jax.Array:
        """Every patch that takes part as the decoder sees it from the visible ones: ``(B, N, P)`` in the target's scale."""
        tokens = self._encoder.apply({"params": params["encoder"]}, image, mask.keep)
        return self._decoder.apply({"params": params["decoder"]}, tokens, mask.restore, mask.places)


def check_target(target: str, model: ModelConfig, spec: Spec) -> None:
    """InputError where patches have too few values to be normalised within each: one value has no variance."""
    if target == "patch" and math.prod(model.patch_size) * spec.channels < 2:
        raise InputError(
            f"config.objective.target is 'patch', but a patch of {tuple(model.patch_size)} has one value, which leaves "
            "nothing to normalise; take larger patches or target 'raw'"
        )


def target_patches(image: jax.Array, patch: tuple[int, ...], target: str) -> jax.Array:
    """What the decoder must predict: ``(B, N, P)``; the variance is the unbiased one, as in the paper's code."""
    patches = patchify(image, patch).astype(jnp.float32)
    if target == "raw":
        return patches
    mean, deviation = patch_statistics(patches)
    return (patches - mean) / deviation


def patch_statistics(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation within each patch of ``(B, N, P)``, each ``(B, N, 1)``."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True, ddof=1)
    return mean, jnp.sqrt(variance + VARIANCE_FLOOR)
