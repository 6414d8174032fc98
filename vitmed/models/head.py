"""From an encoder's output to one feature vector a scan, and from that to scores."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitmed.models.linear import Linear
from vitmed.models.norms import norm

Pool = Literal["mean", "cls", "grid", "attentive"]
CELLS = 4  # along each axis of the "grid" pool


def pooled(output: jax.Array, pool: Pool = "mean", patches: tuple[int, ...] = ()) -> jax.Array:
    """Features of an encoder's tokens (B, 1 + N, D), float32.

    - "mean": (B, D), the mean over all patches. It forgets where a finding was, unless the encoder wrote it down.
    - "cls": (B, D), the class token.
    - "grid": (B, R * D), the means over the R regions of a coarse grid (at most CELLS along each axis), side by
      side: what was seen, and roughly where (the spatial pyramid of Lazebnik et al. 2006, at one level).

    What is pooled already (B, D), as a ResNet's output is, comes back as it is. "attentive" has parameters, and is
    ``AttentivePool``.

    Args:
        patches: patches along each axis, of which N is the product; needed for "grid".
    """
    if output.ndim == 2:
        return output.astype(jnp.float32)
    if pool == "cls":
        return output[:, 0].astype(jnp.float32)
    tokens = output[:, 1:].astype(jnp.float32)
    if pool == "mean":
        return tokens.mean(axis=1)
    tokens = tokens.reshape(len(tokens), *patches, -1)
    for axis, length in enumerate(patches, start=1):
        tokens = jnp.moveaxis(jnp.tensordot(_regions(length), tokens, (1, axis)), 0, axis)
    return tokens.reshape(len(tokens), -1)


def _regions(length: int) -> np.ndarray:
    """Matrix (regions, length) that averages neighbours; where the length does not divide, regions share some."""
    count = min(CELLS, length)
    place, region = np.arange(length), np.arange(count)[:, None]
    inside = (place >= region * length // count) & (place < -(-(region + 1) * length // count))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


class AttentivePool(nn.Module):
    """One learned query that attends over all patches of an encoder's tokens (B, 1 + N, D): features (B, D), float32.

    The attentive probe of CAE (Chen et al. 2022, arXiv:2202.03026) and V-JEPA (Bardes et al. 2024, arXiv:2404.08471):
    which patches matter is learned with the labels. It has one cross-attention and no perceptron after it.
    """

    heads: int

    @nn.compact
    def __call__(self, output: jax.Array) -> jax.Array:
        tokens = output[:, 1:].astype(jnp.float32)
        dim = tokens.shape[-1]
        query = self.param("query", nn.initializers.normal(0.02), (self.heads, dim // self.heads))
        key, value = jnp.moveaxis(Linear((2, self.heads, dim // self.heads), name="kv")(tokens), 2, 0)
        scores = jnp.einsum("hd,bnhd->bhn", query * query.shape[-1] ** -0.5, key)
        mixed = jnp.einsum("bhn,bnhd->bhd", jax.nn.softmax(scores), value)
        return Linear((dim,), axes=2, name="out")(mixed)


class Head(nn.Module):
    """A linear classifier or regressor on features (B, D), in float32; with ``norm``, on normed ones.

    It starts at zero: every class equally likely, or the mean of the numbers learned, whatever the encoder says. With ``ordered`` the outputs are ranks
    (``Ranks``).
    """

    num_outputs: int
    norm: bool = True
    ordered: bool = False

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Features (B, D) to scores (B, num_outputs)."""
        if self.norm:
            features = norm("norm")(features)
        if self.ordered:
            return Ranks(self.num_outputs, name="scores")(features)
        return nn.Dense(self.num_outputs, kernel_init=nn.initializers.zeros, name="scores")(features)


class Ranks(nn.Module):
    """Features (B, D) to the log-probabilities (B, K) of K ordered classes, from the lowest to the highest.

    The cumulative-logit model (McCullagh 1980, "Regression models for ordinal data"): the log odds of lying above rank
    k are one score, shared by all ranks, less threshold k. As in CORAL (Cao, Mirjalili & Raschka 2020,
    arXiv:1901.07884) no rank can then contradict another; here the thresholds are in order by construction, not at the
    optimum alone: the first is a parameter and the others lie the softplus of one above the one before.
    """

    num_ranks: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.zeros, (features.shape[-1], 1))
        start = jnp.asarray(
            gaps_of(np.log(np.arange(1, self.num_ranks) / np.arange(self.num_ranks - 1, 0, -1)))
        )
        gaps = self.param("thresholds", lambda _: start)
        # (B, K - 1) log odds of lying above each rank but the highest.
        above = features @ kernel - ordered(gaps)
        # P(k) = P(above k - 1) P(not above k) (1 - exp(threshold k-1 - threshold k)), without a difference that
        # cancels: the last factor is 1 - exp(-softplus(gap)), which is sigmoid(gap).
        between = jax.nn.log_sigmoid(gaps[1:])
        yes, no = jax.nn.log_sigmoid(above), jax.nn.log_sigmoid(-above)
        middle = yes[:, :-1] + no[:, 1:] + between
        return jnp.concatenate([no[:, :1], middle, yes[:, -1:]], axis=1)


def ordered(gaps: jax.Array) -> jax.Array:
    """Thresholds (K - 1,) in order, of the first one and the inverse softplus of each gap to the next."""
    return jnp.cumsum(jnp.concatenate([gaps[:1], jax.nn.softplus(gaps[1:])]))


def gaps_of(thresholds: np.ndarray) -> np.ndarray:
    """The inverse of ``ordered``, float32, of thresholds that increase."""
    gaps = np.diff(thresholds)
    return np.concatenate([thresholds[:1], gaps + np.log(-np.expm1(-gaps))]).astype(np.float32)
