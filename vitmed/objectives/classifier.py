"""An encoder and a head on its features, as pure functions of their parameters: what learns from labels and is asked."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, brightest_patches, encoder
from vitmed.models.head import AttentivePool, Head, pooled
from vitmed.models.norms import norm
from vitmed.models.patches import brightest, grid
from vitmed.models.transformer import Remat
from vitmed.objectives.interface import Spec
from vitmed.objectives.probe import linear_probe, ordered_probe

ATTENTION = "attention"  # the attentive pool's parameters, in the head's


class Classifier:
    """An encoder and a linear head on its pooled features.

    Args:
        ranks: class number of each rank, lowest first, for an ordinal head; () is a head of independent scores.

    Raises:
        InputError: an attentive pool where there are no patches to attend to, or fewer patches than are to be chosen from.
    """

    def __init__(self, model: ModelConfig, spec: Spec, remat: Remat = "none", ranks: tuple[int, ...] = ()):
        self._encoder = encoder(model, spec.size, remat)
        self._head = Head(spec.outputs, ordered=bool(ranks))
        self._patches = grid(spec.size, model.patch_size) if model.patch_size else ()
        self._pool = model.pool
        self._brightest = brightest_patches(model, spec.size)
        self._patch = model.patch_size
        self._attention = None
        if model.pool == "attentive":
            if not self._patches:
                raise InputError(
                    f"config.model.pool is 'attentive', but variant {model.variant!r} has no patches to attend to; "
                    "leave it out"
                )
            self._attention = AttentivePool(model.vit.heads)
        self._ranks = ranks
        self._image = jnp.zeros((1, *spec.size, spec.channels))

    def init(self, key: jax.Array) -> dict:
        """Fresh parameters ``{encoder, head}``."""
        encoder_key, head_key = jax.random.split(key)
        keep = self._seen(self._image)
        encoded, encoder_params = self._encoder.init_with_output(encoder_key, self._image, keep)
        head = {}
        if self._attention is not None:
            head[ATTENTION] = self._attention.init(jax.random.fold_in(head_key, 1), encoded)["params"]
        features = self._pooled({"head": head}, encoded)
        head |= self._head.init(head_key, features)["params"]
        return {"encoder": encoder_params["params"], "head": head}

    def features(self, params: dict, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """``(B, F)`` pooled features, float32; ``keys`` ``(B,)`` drop paths in training."""
        keep = self._seen(image)
        return self._pooled(params, self._encoder.apply({"params": params["encoder"]}, image, keep, keys))

    def _seen(self, image: jax.Array) -> jax.Array | None:
        """``(B, K)`` places of the patches that are looked at; None is all."""
        return brightest(image, self._patch, self._brightest)

    def _pooled(self, params: dict, encoded: jax.Array) -> jax.Array:
        if self._attention is not None:
            return self._attention.apply({"params": params["head"][ATTENTION]}, encoded)
        return pooled(encoded, self._pool, self._patches)

    def normed(self, params: dict, image: jax.Array) -> jax.Array:
        """``(B, F)`` features as the head's linear layer sees them, float32."""
        return norm("norm").apply({"params": params["head"]["norm"]}, self.features(params, image))

    def logits(self, params: dict, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """``(B, outputs)`` scores, float32; of ordered classes, log-probabilities, in the order of the classes.

        Of a regression they are standardised while it is trained (``Spec.label_scale``), and values in the labels' unit by
        the parameters that a run gives (``vitmed.runs.units``).
        """
        scores = self._head.apply({"params": params["head"]}, self.features(params, image, keys))
        return scores[:, np.argsort(self._ranks)] if self._ranks else scores

    def probed(self, params: dict, batches: Iterator[dict], spec: Spec) -> dict:
        """``params`` with the head's linear layer fitted to the features that they give of what is trained on."""
        features = jax.jit(self.normed)
        # Once: what is left on the host would travel with every batch.
        placed = jax.device_put({part: params[part] for part in ("encoder", "head")})
        made, label, weight = [], [], []
        for batch in batches:
            stream = batch["main"]
            known = np.asarray(stream["weight"]) > 0  # the last batch is filled up
            made.append(np.asarray(features(placed, stream["image"]))[known])
            label.append(np.asarray(stream["label"])[known])
            weight.append(np.asarray(stream["label_weight"])[known])
        x, label, weight = (np.concatenate(parts) for parts in (made, label, weight))
        if self._ranks:
            known = weight[:, 0] > 0
            rank = np.argsort(self._ranks)[label[known, 0].astype(int)]
            scores = dict(zip(("kernel", "thresholds"), ordered_probe(x[known], rank, len(self._ranks))))
        else:
            label = spec.standardised(label) if spec.task == "regression" else label
            scores = dict(zip(("kernel", "bias"), linear_probe(x, label, weight, spec.task, spec.outputs)))
        return {**params, "head": {**params["head"], "scores": scores}}
