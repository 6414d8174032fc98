"""The pre-norm transformer (Vaswani et al. 2017; pre-norm as in ViT, arXiv:2010.11929).

Parameters are float32 and so are norms, softmax and their gradients; matrix products run in the compute
``dtype``, which the stream between blocks has too unless LayerScale makes what they add to it small (``Style.stream``).
Layers are unrolled, or scanned over one stacked set of parameters, which compiles in the time of one layer: ``stacked``
and ``unrolled`` turn one parameter tree into the other.

``Style`` says how a block is made: as in the papers named above, or with what later ones found to train better.
"""

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitmed.activations import by_examples
from vitmed.models.attention import Attention
from vitmed.models.linear import PRODUCT, Linear
from vitmed.models.norms import EPSILON, Norm, norm

Remat = Literal["none", "dots", "full"]
MLP = Literal["gelu", "swiglu"]


class Style(NamedTuple):
    """How a block is made.

    Attributes:
        norm: "layer", or "rms" (Zhang and Sennrich 2019).
        mlp: "gelu", or "swiglu" (Shazeer 2020, arXiv:2002.05202): one half of the hidden layer gates the other.
        qk_norm: whether queries and keys are normed (``vitmed.models.attention``).
        layer_scale: what each channel of a branch is first multiplied by (Touvron et al. 2021, "CaiT",
            arXiv:2103.17239); it is learned. 0 is off.
    """

    norm: Norm = "layer"
    mlp: MLP = "gelu"
    qk_norm: bool = False
    layer_scale: float = 0.0

    def stream(self, dtype: Any) -> Any:
        """The dtype of the stream that branches are added to, where products run in ``dtype``."""
        # bfloat16 tells numbers apart that differ by 1/256: a branch under a LayerScale of 1e-5 is rounded away. One
        # that is not scaled is about as large as the stream, whose bytes need not double for it.
        return jnp.promote_types(dtype, jnp.float32) if self.layer_scale else dtype


def gated_width(mlp_dim: int) -> int:
    """Width of each half of a SwiGLU with as many weights as a perceptron of ``mlp_dim``, in eights (as in DINOv2)."""
    return -(-(2 * mlp_dim // 3) // 8) * 8


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, x * Phi(x) (arXiv:1606.08415), computed in float32.

    Its backward pass needs x alone, where the chain rule would keep three arrays of that size.
    """
    return _gelu(x)[0]


def _gelu(x):
    wide = x.astype(jnp.float32)
    return (wide * _phi(wide)).astype(x.dtype), x


def _gelu_slope(x, slope):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
    return (((_phi(wide) + wide * density) * slope).astype(x.dtype),)


def _phi(x):
    # By erf, which XLA computes three times faster than the erfc of jax.nn.gelu.
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5))


gelu.defvjp(_gelu, _gelu_slope)


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each on a normed input and added to the stream."""

    heads: int
    mlp_dim: int
    drop_path: float = 0.0
    epsilon: float = EPSILON
    dtype: Any = jnp.float32
    style: Style = Style()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        layer: jax.Array | int,
        rate: jax.Array | float,
        keys: jax.Array | None,
        angles: jax.Array | None = None,
    ):
        """x (B, N, D) -> (B, N, D); ``layer`` and ``rate`` are this block's number and its drop-path rate."""
        style = self.style
        qk_norm = style.norm if style.qk_norm else None
        x = by_examples(x)
        y = norm("norm1", self.epsilon, style.norm)(x).astype(self.dtype)
        y = Attention(self.heads, self.dtype, qk_norm, self.epsilon, name="attention")(y, angles)
        x = x + self._drop(self._scaled(y, "scale1"), 2 * layer, rate, keys)
        y = norm("norm2", self.epsilon, style.norm)(x).astype(self.dtype)
        if style.mlp == "swiglu":
            y = Linear((2, gated_width(self.mlp_dim)), dtype=self.dtype, name="mlp1")(y)
            y = nn.silu(y[:, :, 0]) * y[:, :, 1]
        else:
            y = gelu(Linear((self.mlp_dim,), dtype=self.dtype, name="mlp1")(y))
        y = Linear((x.shape[-1],), dtype=self.dtype, name="mlp2")(y)
        return x + self._drop(self._scaled(y, "scale2"), 2 * layer + 1, rate, keys)

    def _scaled(self, y, name):
        if not self.style.layer_scale:
            return y
        start = nn.initializers.constant(self.style.layer_scale)
        dtype = self.style.stream(self.dtype)
        return y.astype(dtype) * self.param(name, start, y.shape[-1:]).astype(dtype)

    def _drop(self, y, branch, rate, keys):
        """Stochastic depth (arXiv:1603.09382): the branch is left out of some examples, by each example's own key."""
        if keys is None or not self.drop_path:
            return y
        kept = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, branch), 1 - rate))(keys)
        return y * (kept / (1 - rate)).astype(y.dtype)[:, None, None]


class Transformer(nn.Module):
    """``depth`` blocks. Parameters are ``block_0`` .. or, with ``scan``, one ``blocks`` with a leading layer axis.

    ``remat`` chooses what the backward pass computes again: "none" keeps everything, "dots" keeps the outputs of
    products with weights, "full" keeps only each block's input.
    """

    depth: int
    heads: int
    mlp_dim: int
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    epsilon: float = EPSILON
    dtype: Any = jnp.float32
    style: Style = Style()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array | None = None,
        angles: jax.Array | None = None,
        depths: tuple[int, ...] = (),
    ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        """x (B, N, D) -> (B, N, D) in the dtype of the stream (``Style.stream``), without a final norm.

        ``keys`` (B,) are the examples' random keys for stochastic depth, whose rate rises linearly from zero to
        ``drop_path`` over the layers; without keys nothing is dropped. ``angles`` (B or 1, N, D / heads / 2) turn
        queries and keys in every layer. With ``depths``, what x is after so many of the blocks (1 is after the first)
        comes along.
        """
        x = x.astype(self.style.stream(self.dtype))
        block = Block
        if self.remat != "none":
            policies = jax.checkpoint_policies
            policy = (
                policies.save_only_these_names(PRODUCT) if self.remat == "dots" else policies.nothing_saveable
            )
            # Inside a scan the loop itself keeps XLA from merging the second computation with the first.
            block = nn.remat(Block, policy=policy, prevent_cse=not self.scan)
        fields = dict(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            drop_path=self.drop_path,
            epsilon=self.epsilon,
            style=self.style,
        )
        rates = [self.drop_path * layer / max(self.depth - 1, 1) for layer in range(self.depth)]
        if not self.scan:
            after = []
            for layer, rate in enumerate(rates):
                x = block(**fields, dtype=self.dtype, name=f"block_{layer}")(x, layer, rate, keys, angles)
                after.append(x)
            return (x, [after[n - 1] for n in depths]) if depths else x

        def body(module, x, layer, rate, keys, angles):
            x = module(x, layer, rate, keys, angles)
            return x, x if depths else None

        layers = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        module = block(**fields, dtype=self.dtype, name="blocks")
        x, after = layers(module, x, jnp.arange(self.depth), jnp.asarray(rates, jnp.float32), keys, angles)
        return (x, [after[n - 1] for n in depths]) if depths else x


def stacked(params: dict) -> dict:
    """A parameter tree with ``block_0`` .. replaced by one ``blocks``, at any depth of the tree."""
    if not isinstance(params, dict):
        return params
    count = sum(name.startswith("block_") for name in params)
    rest = {name: stacked(value) for name, value in params.items() if not name.startswith("block_")}
    if not count:
        return rest
    blocks = [params[f"block_{layer}"] for layer in range(count)]
    return {**rest, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def unrolled(params: dict) -> dict:
    """The inverse of ``stacked``: ``blocks`` replaced by ``block_0`` .., at any depth of the tree."""
    if not isinstance(params, dict):
        return params
    rest = {name: unrolled(value) for name, value in params.items() if name != "blocks"}
    if "blocks" not in params:
        return rest
    depth = jax.tree.leaves(params["blocks"])[0].shape[0]
    layers = {f"block_{n}": jax.tree.map(lambda leaf, n=n: leaf[n], params["blocks"]) for n in range(depth)}
    return {**rest, **layers}
