"""Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762), softmax in float32.

The exponentials are divided by their sum after they have weighed the values, and the backward pass takes the
softmax's inner product from the output rather than from the weights (as FlashAttention does, arXiv:2205.14135):
three passes fewer over the (N, N) scores. Of many tokens the queries are taken in parts, each over all keys, and the
backward pass computes their scores again (Rabe and Staats 2021, arXiv:2112.05682): memory then grows with N, not with
its square.

Queries and keys may be normed before they meet (Dehghani et al. 2023, "ViT-22B", arXiv:2302.05442, section 2), so that
no score runs away, and turned by their places (``vitmed.models.positions.rotary``).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.models.linear import Linear
from vitmed.models.norms import EPSILON, Norm, norm
from vitmed.models.positions import turned

WHOLE = 1024  # tokens up to which the scores of all pairs are kept: two thirds of the time for 4 MiB a head at most
PART = 512  # queries of more tokens that are taken at once


class Attention(nn.Module):
    """Self-attention over (B, N, D) with ``heads`` heads of width D / heads; ``qk_norm`` norms queries and keys."""

    heads: int
    dtype: Any = jnp.float32
    qk_norm: Norm | None = None
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array | None = None) -> jax.Array:
        """(B, N, D) to (B, N, D); queries and keys turn by ``angles`` (B or 1, N, D / heads / 2), if any."""
        dim = x.shape[-1]
        # One product for queries, keys and values; heads are an axis of the kernel, so that a mesh can split them.
        qkv = Linear((3, self.heads, dim // self.heads), dtype=self.dtype, name="qkv")(x)
        if self.qk_norm or angles is not None:
            query, key, value = (qkv[:, :, part] for part in range(3))
            if self.qk_norm:
                query = norm("query_norm", self.epsilon, self.qk_norm)(query).astype(self.dtype)
                key = norm("key_norm", self.epsilon, self.qk_norm)(key).astype(self.dtype)
            if angles is not None:
                query, key = turned(query, angles), turned(key, angles)
            qkv = jnp.stack([query, key, value], axis=2)
        return Linear((dim,), axes=2, dtype=self.dtype, name="out")(attend(qkv))


def attend(qkv: jax.Array) -> jax.Array:
    """softmax(query key^T / sqrt(d)) value: of queries, keys and values (B, N, 3, H, d) to (B, N, H, d)."""
    return _whole(qkv) if qkv.shape[1] <= WHOLE else _in_parts(qkv)


@jax.custom_vjp
def _whole(qkv):
    return _whole_forward(qkv)[0]


def _whole_forward(qkv):
    query, key, value = _split(qkv)
    mixed, weights, _, total = _mix(query, key, value)
    return mixed.swapaxes(1, 2), (query, key, value, weights, total, mixed)


def _whole_backward(saved, slope):
    return (_merged(_slopes(*saved, slope.swapaxes(1, 2)), slope.dtype),)


_whole.defvjp(_whole_forward, _whole_backward)


@jax.custom_vjp
def _in_parts(qkv):
    return _parts_forward(qkv)[0]


def _parts_forward(qkv):
    query, key, value = _split(qkv)

    def part(query):
        mixed, _, top, total = _mix(query, key, value)
        return mixed, top, total

    mixed, top, total = jax.lax.map(part, _cut(query))
    return _joined(mixed, qkv.shape[1]).swapaxes(1, 2), (qkv, mixed, top, total)


def _parts_backward(saved, slope):
    qkv, mixed, top, total = saved
    query, key, value = _split(qkv)

    def part(sums, own):
        query, mixed, top, total, slope = own
        weights = jnp.exp(_scores(query, key) - top).astype(query.dtype)
        to_query, *to_others = _slopes(query, key, value, weights, total, mixed, slope)
        return jax.tree.map(jnp.add, sums, to_others), to_query.astype(query.dtype)

    # What fills the last part up has a slope of zero, and so no effect on any sum.
    parts = (_cut(query), mixed, top, total, _cut(slope.swapaxes(1, 2)))
    sums = [jnp.zeros(key.shape, jnp.float32)] * 2
    (to_key, to_value), to_query = jax.lax.scan(part, sums, parts)
    return (_merged((_joined(to_query, qkv.shape[1]), to_key, to_value), slope.dtype),)


_in_parts.defvjp(_parts_forward, _parts_backward)


def _split(qkv):
    return jnp.moveaxis(qkv, (2, 3), (0, 2))  # queries, keys and values, each (B, H, N, d)


def _merged(slopes, dtype):
    return jnp.stack([part.astype(dtype).swapaxes(1, 2) for part in slopes], axis=2)


def _cut(x):
    """(B, H, N, d) to (parts, B, H, n, d), the last part filled up with zeros."""
    parts = -(-x.shape[2] // PART)
    size = -(-x.shape[2] // parts)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, parts * size - x.shape[2]), (0, 0)))
    return jnp.moveaxis(x.reshape(*x.shape[:2], parts, size, x.shape[-1]), 2, 0)


def _joined(parts, n):
    """The inverse of ``_cut`` for ``n`` tokens."""
    x = jnp.moveaxis(parts, 0, 2)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :n]


def _scores(query, key):
    return _dot("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key)


def _mix(query, key, value):
    scores = _scores(query, key)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(query.dtype)
    mixed = (_dot("bhqk,bhkd->bhqd", weights, value) / total).astype(query.dtype)
    return mixed, weights, top, total


def _slopes(query, key, value, weights, total, mixed, slope):
    shared = (slope / total).astype(query.dtype)
    to_value = _dot("bhqk,bhqd->bhkd", weights, shared)
    inner = (shared * mixed).sum(axis=-1, keepdims=True, dtype=jnp.float32)
    scale = query.shape[-1] ** -0.5
    to_scores = (weights * (_dot("bhqd,bhkd->bhqk", shared, value) - inner)).astype(query.dtype)
    to_query = _dot("bhqk,bhkd->bhqd", to_scores, key) * scale
    to_key = _dot("bhqk,bhqd->bhkd", to_scores, query) * scale
    return to_query, to_key, to_value


def _dot(shapes, *operands):
    return jnp.einsum(shapes, *operands, preferred_element_type=jnp.float32)
