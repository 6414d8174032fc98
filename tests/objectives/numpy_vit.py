"""The networks once more, in NumPy and float64, and their slopes by differences: what JAX's gradients are held to.

Nothing here is shared with the package: positions, attention and patches are written from the papers.
"""

import itertools

import jax
import numpy as np
from scipy.special import erf


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def patches(image, patch):
    """(B, N, P), by walking the grid."""
    size = image.shape[1:-1]
    corners = itertools.product(*(range(0, s, p) for s, p in zip(size, patch)))
    cut = [image[(slice(None), *(slice(c, c + p) for c, p in zip(at, patch)))] for at in corners]
    return np.stack([c.reshape(len(image), -1) for c in cut], axis=1).astype(np.float64)


def positions(cells, dim):
    half = dim // (2 * len(cells))
    rates = 10000.0 ** -(np.arange(half) / half)
    rows = []
    for at in itertools.product(*map(range, cells)):
        row = [f(c * rates) for c in reversed(at) for f in (np.sin, np.cos)]
        rows.append(np.concatenate([*row, np.zeros(dim - 2 * half * len(cells))]))
    return np.stack(rows)


def linear(p, x, axes=1):
    inputs = int(np.prod(x.shape[x.ndim - axes :]))
    flat = x.reshape(*x.shape[: x.ndim - axes], inputs) @ p["kernel"].reshape(inputs, -1)
    return (flat + p["bias"].ravel()).reshape(*x.shape[: x.ndim - axes], *p["bias"].shape)


def norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(p, x):
    query, key, value = np.moveaxis(linear(p["qkv"], x), (2, 3), (0, 2))
    weights = softmax(query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]))
    return linear(p["out"], (weights @ value).swapaxes(1, 2), axes=2)


def transformer(p, x):
    for block in (p[f"block_{n}"] for n in range(len(p))):
        x = x + attention(block["attention"], norm(block["norm1"], x))
        x = x + linear(block["mlp2"], gelu(linear(block["mlp1"], norm(block["norm2"], x))))
    return x


def gather(x, index):
    return np.take_along_axis(x, np.asarray(index)[..., None], axis=1)


def encode(p, image, patch, keep=None, hidden=None, token=None):
    """(B, 1 + K, D); ``token`` stands where ``hidden`` (B, N)."""
    cells = tuple(s // c for s, c in zip(image.shape[1:-1], patch))
    x = linear(p["patches"], patches(image, patch))
    if hidden is not None:
        x = np.where(np.asarray(hidden)[..., None], token.reshape(-1), x)
    x = x + positions(cells, x.shape[-1])
    x = x if keep is None else gather(x, keep)
    cls = np.broadcast_to(p["cls"], (len(x), 1, x.shape[-1]))
    return norm(p["norm"], transformer(p["transformer"], np.concatenate([cls, x], axis=1)))


def decode(p, tokens, keep, cells):
    """MAE's decoder: (B, N, P)."""
    tokens = linear(p["embed"], tokens)
    x = np.broadcast_to(p["mask_token"], (len(tokens), int(np.prod(cells)), tokens.shape[-1])).copy()
    for row, (at, shown) in enumerate(zip(np.asarray(keep), tokens[:, 1:])):
        x[row, at] = shown
    x = np.concatenate([tokens[:, :1], x + positions(cells, x.shape[-1])], axis=1)
    return linear(p["predict"], norm(p["norm"], transformer(p["transformer"], x)[:, 1:]))


def assert_same_slopes(reference, params, gradients, seed=0):
    """Every array's gradient, along a random direction, is the slope of ``reference(params)`` (float64)."""
    rng = np.random.default_rng(seed)
    leaves, shape = jax.tree.flatten(double(params))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for n, (name, gradient) in enumerate(zip(names, jax.tree.leaves(double(gradients)), strict=True)):
        along, step = rng.normal(size=leaves[n].shape), 1e-5
        ends = []
        for sign in (1, -1):
            moved = [leaf + sign * step * along if k == n else leaf for k, leaf in enumerate(leaves)]
            ends.append(reference(shape.unflatten(moved)))
        slope, found = (ends[0] - ends[1]) / (2 * step), float((gradient * along).sum())
        tolerance = 2e-3 * np.linalg.norm(gradient) + 2e-6
        assert abs(slope - found) < tolerance, f"{name}: {found} by JAX, {slope} by differences"
