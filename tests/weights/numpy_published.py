"""The forward pass of timm's and facebookresearch's ViTs by their own names, in NumPy: what a conversion is held to."""

import numpy as np
from scipy.special import erf, expit


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def norm(w, name, x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * w[f"{name}.weight"]
        + w[f"{name}.bias"]
    )


def attention(w, name, x, heads, epsilon):
    count, dim = x.shape
    query, key, value = (
        linear(w, f"{name}.qkv", x).reshape(count, 3, heads, dim // heads).transpose(1, 2, 0, 3)
    )
    if f"{name}.q_norm.weight" in w:
        query, key = (norm(w, f"{name}.{n}", z, epsilon) for n, z in (("q_norm", query), ("k_norm", key)))
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(dim // heads)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ value
    return linear(w, f"{name}.proj", mixed.transpose(1, 0, 2).reshape(count, dim))


def mlp(w, name, x):
    if f"{name}.w12.weight" in w:
        gate, value = np.split(linear(w, f"{name}.w12", x), 2, axis=-1)
        return linear(w, f"{name}.w3", gate * expit(gate) * value)
    hidden = linear(w, f"{name}.fc1", x)
    return linear(w, f"{name}.fc2", hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))))


def tokens(w, image, heads, epsilon=1e-6):
    """Class token and patches (1 + N, D) of one image (C, H, W)."""
    kernel = w["patch_embed.proj.weight"]
    p = kernel.shape[2:]
    rows, columns = (s // n for s, n in zip(image.shape[1:], p))
    x = np.stack(
        [
            np.einsum("dcyx,cyx->d", kernel, image[:, i * p[0] : (i + 1) * p[0], j * p[1] : (j + 1) * p[1]])
            for i in range(rows)
            for j in range(columns)
        ]
    )
    x = np.concatenate([w["cls_token"][0], x + w["patch_embed.proj.bias"]])
    table = w["pos_embed"][0]
    x[len(x) - len(table) :] += table  # timm's no_embed_class leaves the class token out
    for name in ("register_tokens", "reg_token"):
        if name in w:
            x = np.concatenate([x[:1], w[name][0], x[1:]])
    registers = len(x) - 1 - rows * columns
    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    for block in (f"blocks.{n}" for n in range(depth)):
        y = attention(w, f"{block}.attn", norm(w, f"{block}.norm1", x, epsilon), heads, epsilon)
        x = x + y * w.get(f"{block}.ls1.gamma", 1)
        y = mlp(w, f"{block}.mlp", norm(w, f"{block}.norm2", x, epsilon))
        x = x + y * w.get(f"{block}.ls2.gamma", 1)
    return np.delete(norm(w, "norm", x, epsilon), range(1, 1 + registers), axis=0)


def random_weights(rng, dim=16, depth=2, hidden=40, patch=(4, 4), cells=(3, 3), cls=True, **kinds):
    """Weights by timm's names; ``kinds``: registers="name", scale=True, gated=True, qk_norm=heads, qkv_bias=False."""

    def draw(*shape):
        return 0.3 * rng.standard_normal(shape).astype(np.float32)

    w = {
        "cls_token": draw(1, 1, dim),
        "pos_embed": draw(1, int(cls) + cells[0] * cells[1], dim),
        "patch_embed.proj.weight": draw(dim, 3, *patch),
        "patch_embed.proj.bias": draw(dim),
    }
    if name := kinds.get("registers"):
        w[name] = draw(1, 2, dim)

    def module(name, out, into=None, bias=True):
        w[f"{name}.weight"] = draw(out, into) if into else 1 + draw(out)
        if bias:
            w[f"{name}.bias"] = draw(out)

    for block in (f"blocks.{n}" for n in range(depth)):
        module(f"{block}.norm1", dim)
        module(f"{block}.attn.qkv", 3 * dim, dim, kinds.get("qkv_bias", True))
        if heads := kinds.get("qk_norm"):
            module(f"{block}.attn.q_norm", dim // heads)
            module(f"{block}.attn.k_norm", dim // heads)
        module(f"{block}.attn.proj", dim, dim)
        module(f"{block}.norm2", dim)
        if kinds.get("gated"):
            module(f"{block}.mlp.w12", 2 * hidden, dim)
            module(f"{block}.mlp.w3", dim, hidden)
        else:
            module(f"{block}.mlp.fc1", hidden, dim)
            module(f"{block}.mlp.fc2", dim, hidden)
        if kinds.get("scale"):
            w[f"{block}.ls1.gamma"], w[f"{block}.ls2.gamma"] = draw(dim), draw(dim)
    module("norm", dim)
    return w
