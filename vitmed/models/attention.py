"""Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762), softmax in float32.

The exponentials are divided by their sum after they have weighed the values, and the backward pass takes the
softmax's inner product from the output rather than from the weights (as FlashAttention does, arXiv:2205.14135):
three passes fewer over the (N, N) scores.

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


@jax.custom_vjp
def attend(qkv: jax.Array) -> jax.Array:
    """softmax(query key^T / sqrt(d)) value: of queries, keys and values (B, N, 3, H, d) to (B, N, H, d)."""
    return _forward(qkv)[0]


def _forward(qkv):
    query, key, value = jnp.moveaxis(qkv, (2, 3), (0, 2))  # each (B, H, N, d)
    scores = _dot("bhqd,bhkd->bhqk", query * query.shape[-1] ** -0.5, key)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(qkv.dtype)
    mixed = (_dot("bhqk,bhkd->bhqd", weights, value) / total).astype(qkv.dtype)
    return mixed.swapaxes(1, 2), (query, key, value, weights, total, mixed)


def _backward(saved, slope):
    query, key, value, weights, total, mixed = saved
    shared = (slope.swapaxes(1, 2) / total).astype(query.dtype)
    to_value = _dot("bhqk,bhqd->bhkd", weights, shared)
    inner = (shared * mixed).sum(axis=-1, keepdims=True, dtype=jnp.float32)
    scale = query.shape[-1] ** -0.5
    to_scores = (weights * (_dot("bhqd,bhkd->bhqk", shared, value) - inner)).astype(query.dtype)
    to_query = _dot("bhqk,bhkd->bhqd", to_scores, key) * scale
    to_key = _dot("bhqk,bhqd->bhkd", to_scores, query) * scale
    slopes = [part.astype(query.dtype).swapaxes(1, 2) for part in (to_query, to_key, to_value)]
    return (jnp.stack(slopes, axis=2),)


attend.defvjp(_forward, _backward)


def _dot(shapes, *operands):
    return jnp.einsum(shapes, *operands, preferred_element_type=jnp.float32)
