"""What may be chosen of a ViT: positions, registers and the styles of a block, against NumPy and against each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from vitmed.config import build as section
from vitmed.errors import InputError
from vitmed.models.attention import Attention
from vitmed.models.build import PRESETS, ModelConfig, encoder
from vitmed.models.positions import rotary, turned
from vitmed.models.transformer import gated_width, stacked, unrolled
from vitmed.models.vit import VARIANTS

SHAPE = dict(variant="custom", shape=(24, 2, 2, 48))
MODERN = ModelConfig(**SHAPE, patch_size=(2, 3), preset="modern", layer_scale=0.5)


def tokens(network, params, *arguments):
    """The network's output, compiled, which is faster than one operation after another."""
    return jax.jit(network.apply)({"params": params}, *arguments)


def started(config, size, channels=1, seed=0):
    """Network, image and parameters away from their start, where a scale of one or a bias of zero hides a mistake."""
    image = jax.random.normal(jax.random.key(seed), (2, *size, channels))
    network = encoder(config, size)
    params = jax.jit(network.init)(jax.random.key(seed + 1), image)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 2), len(leaves))
    moved = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys)]
    return network, image, tree.unflatten(moved)


# --- by NumPy --------------------------------------------------------------------------------------------------------


def rms(p, x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]


def turn(x, cells, prefix):
    """(N, d) of one head: each pair as a complex number, turned by its place, axis by axis (DINOv3)."""
    width, axes = x.shape[-1], len(cells)
    share = width // (2 * axes)
    pairs = x[:, : width // 2] + 1j * x[:, width // 2 :]
    for row, place in enumerate(np.ndindex(*cells)):
        for axis in range(axes):
            coordinate = (place[axis] + 0.5) / cells[axis] * 2 - 1
            for k in range(share):
                period = 100 ** (k / share)
                pairs[prefix + row, axis * share + k] *= np.exp(2j * np.pi * coordinate / period)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def modern(p, image, patch, config):
    """The class token and the patches' tokens of one image, (1 + N, D)."""
    cells = tuple(s // n for s, n in zip(image.shape, patch))
    cut = [
        image[tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, patch))].ravel()
        for at in np.ndindex(*cells)
    ]
    x = np.stack(cut) @ p["patches"]["kernel"] + p["patches"]["bias"]
    x = np.concatenate([p["cls"][0], p["registers"][0], x])
    prefix = 1 + p["registers"].shape[1]
    for block in (p["transformer"][f"block_{n}"] for n in range(config.vit.depth)):
        y, own = rms(block["norm1"], x), block["attention"]
        qkv = np.einsum("nd,dphe->phne", y, own["qkv"]["kernel"]) + own["qkv"]["bias"][:, :, None]
        heads = []
        for q, k, v in zip(*qkv):
            q, k = (turn(rms(own[n], z), cells, prefix) for n, z in (("query_norm", q), ("key_norm", k)))
            weights = np.exp(q @ k.T / np.sqrt(q.shape[-1]))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v)
        y = np.einsum("hne,hed->nd", np.stack(heads), own["out"]["kernel"]) + own["out"]["bias"]
        x = x + block["scale1"] * y
        y = np.einsum("nd,dgm->gnm", rms(block["norm2"], x), block["mlp1"]["kernel"])
        gate, value = y + block["mlp1"]["bias"][:, None]
        y = gate * expit(gate) * value @ block["mlp2"]["kernel"] + block["mlp2"]["bias"]
        x = x + block["scale2"] * y
    x = rms(p["norm"], x)
    return np.concatenate([x[:1], x[prefix:]])


@pytest.mark.parametrize("size,patch", [((4, 9), (2, 3)), ((2, 4, 6), (1, 2, 3))], ids=["2D", "3D"])
def test_the_modern_vit_is_the_formulas(size, patch):
    """3D: of a head's 6 pairs each axis turns 2; 2D: 3. Wrong gates, norms, scales or places all show here."""
    config = dataclasses.replace(MODERN, patch_size=patch)
    network, image, params = started(config, size)
    made = tokens(network, params, image)
    double = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    for row in range(2):
        truth = modern(double, np.asarray(image[row, ..., 0], np.float64), patch, config)
        np.testing.assert_allclose(made[row], truth, atol=2e-5)


# --- positions -------------------------------------------------------------------------------------------------------


def test_rotary_scores_know_how_far_apart_and_not_where():
    """The product of a turned query and key is a function of the distance of their places alone."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))
    cells = (5, 4)
    angles = jnp.asarray(rotary(cells, 16))[None]
    q, k = (turned(jnp.broadcast_to(x, (1, 20, 1, 16)), angles)[0, :, 0] for x in (q, k))
    scores = np.asarray(q @ k.T).reshape(*cells, *cells)
    np.testing.assert_allclose(scores[0, 0, 1, 2], scores[3, 1, 4, 3], atol=1e-4)
    np.testing.assert_allclose(scores[4, 2, 2, 0], scores[2, 3, 0, 1], atol=1e-4)
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-3
    np.testing.assert_allclose(jnp.linalg.norm(q, axis=-1), jnp.linalg.norm(q[0]), rtol=1e-5)


def test_a_grid_of_any_size_spans_the_same_angles():
    """Twice as fine: the mean of two neighbours' coordinates is the coarse patch's own."""
    coarse, fine = rotary((3, 2), 8), rotary((6, 4), 8)
    means = fine.reshape(3, 2, 2, 2, 4).mean((1, 3)).reshape(6, 4)
    np.testing.assert_allclose(means, coarse, atol=1e-5)
    with pytest.raises(ValueError, match="width 4 have no pair of channels for each of 3 axes"):
        rotary((2, 2, 2), 4)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_visible_patch_brings_its_own_position(positions):
    """The order in which patches are shown must not matter, and where each lies must."""
    config = dataclasses.replace(MODERN, positions=positions)
    network, image, params = started(config, (4, 9))
    there = tokens(network, params, image, jnp.array([[0, 3, 1], [0, 2, 5]]))
    back = tokens(network, params, image, jnp.array([[1, 3, 0], [0, 5, 2]]))
    np.testing.assert_allclose(there[0, jnp.array([0, 3, 2, 1])], back[0], atol=1e-5)
    np.testing.assert_allclose(there[1, jnp.array([0, 1, 3, 2])], back[1], atol=1e-5)
    alike = jnp.ones_like(image)
    made = tokens(network, params, alike)[0, 1:]
    assert len(np.unique(np.asarray(made).round(4), axis=0)) == 6, "two places look the same"
    every = jnp.tile(jnp.arange(6), (2, 1))
    whole = tokens(network, params, image)
    np.testing.assert_allclose(tokens(network, params, image, every), whole, atol=1e-5)


def test_a_learned_table_serves_other_grids():
    """A small view is embedded with the table resampled to it; on a constant table nothing depends on the grid."""
    config = ModelConfig(**SHAPE, patch_size=(2, 2), positions="learned")
    network, image, params = started(config, (8, 12))
    assert params["positions"].shape == (4, 6, 24)
    flat = {**params, "positions": jnp.ones_like(params["positions"])}
    ones = jnp.ones((1, 4, 4, 1))
    near = tokens(network, flat, ones)
    np.testing.assert_allclose(near[0, 1:], jnp.broadcast_to(near[0, 1], (4, 24)), atol=1e-5)
    made = tokens(network, params, ones)
    assert not np.allclose(made[0, 1], made[0, 2])


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_learned_slices_tell_apart_what_fixed_positions_do_not(positions):
    """At zero a volume turned upside down gives the same tokens in the other order; then it does not."""
    config = ModelConfig(**SHAPE, patch_size=(1, 2, 3), positions=positions, learned_slices=True)
    network, image, params = started(config, (2, 4, 9))
    assert params["slices"].shape == (2, 24)
    none = {**params, "slices": jnp.zeros((2, 24))}
    upside_down = jnp.arange(12).reshape(2, 6)[::-1].reshape(-1)
    for p, alike in ((none, True), (params, False)):
        made, turned_over = tokens(network, p, image)[:, 1:], tokens(network, p, image[:, ::-1])[:, 1:]
        assert np.allclose(made, turned_over[:, upside_down], atol=1e-5) == alike
    every = jnp.tile(jnp.arange(12), (2, 1))
    whole = tokens(network, params, image)
    np.testing.assert_allclose(tokens(network, params, image, every), whole, atol=1e-5)
    assert tokens(network, params, image[:, :1]).shape == (2, 7, 24), "another number of slices"


# --- registers, presets ----------------------------------------------------------------------------------------------


def test_registers_take_part_and_do_not_come_out():
    network, image, params = started(MODERN, (4, 9))
    made = tokens(network, params, image)
    assert made.shape == (2, 7, 24)
    other = tokens(network, {**params, "registers": params["registers"] + 1}, image)
    assert np.abs(np.asarray(other - made)).max(axis=-1).min() > 1e-4, "some token does not see the registers"


def test_layer_scale_starts_as_nearly_nothing():
    """With 1e-5 the tokens are nearly those of no layers at all; without it they are not."""
    for layer_scale, close in ((1e-5, True), (0.0, False)):
        config = ModelConfig(**SHAPE, patch_size=(2, 2), layer_scale=layer_scale)
        image = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))
        network = encoder(config, (4, 4))
        params = network.init(jax.random.key(1), image)["params"]
        none = {**params, "transformer": jax.tree.map(jnp.zeros_like, params["transformer"])}
        made, bare = (tokens(network, p, image) for p in (params, none))
        assert np.allclose(made, bare, atol=5e-3) == close


@pytest.mark.parametrize(
    "config", [MODERN, dataclasses.replace(MODERN, positions="learned", mlp="gelu", norm="layer")]
)
def test_scanned_layers_and_rematerialisation_change_nothing(config):
    network, image, params = started(config, (4, 9))
    keys = jax.random.split(jax.random.key(5), 2)

    def value_and_slopes(params, **changes):
        model = encoder(
            dataclasses.replace(config, drop_path=0.5, **changes), (4, 9), changes and "full" or "none"
        )
        keep = jnp.array([[0, 3, 1], [0, 2, 5]])
        return jax.jit(
            jax.value_and_grad(lambda p: jnp.sum(jnp.sin(model.apply({"params": p}, image, keep, keys))))
        )(params)

    plain = value_and_slopes(params)
    value, slopes = value_and_slopes(stacked(params), scan=True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), (value, unrolled(slopes)), plain
    )


def test_bf16_keeps_parameters_and_tokens_float32():
    config = dataclasses.replace(MODERN, dtype="bfloat16")
    network, image, params = started(config, (4, 9))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    made = tokens(network, params, image)
    assert made.dtype == jnp.float32
    exact = tokens(encoder(MODERN, (4, 9)), params, image)
    np.testing.assert_allclose(made, exact, atol=0.1)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("layer_scale", [1e-5, 1e-2])
def test_bf16_keeps_what_blocks_under_a_small_layer_scale_add(layer_scale, scan):
    """Otherwise it is rounded away: such blocks do nothing, and published weights with small scales lose accuracy."""
    exact = ModelConfig(
        "custom", (8, 8), preset="modern", shape=(64, 12, 2, 256), layer_scale=layer_scale, scan=scan
    )
    image = jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    params = jax.jit(encoder(exact, (32, 32)).init)(jax.random.key(1), image)["params"]
    idle = {**params, "transformer": jax.tree.map(jnp.zeros_like, params["transformer"])}
    networks = [encoder(dataclasses.replace(exact, dtype=d), (32, 32)) for d in ("float32", "bfloat16")]
    wanted, added = (tokens(n, params, image) - tokens(n, idle, image) for n in networks)
    assert np.linalg.norm(added - wanted) < 0.02 * np.linalg.norm(wanted)


def test_normed_queries_keep_scores_in_bounds():
    """However large the input grows, the weights stay: ten times as large, the output is ten times as large."""
    x = 1e4 * jax.random.normal(jax.random.key(0), (1, 5, 16))
    made, variables = Attention(2, qk_norm="rms").init_with_output(jax.random.key(1), x)
    again = Attention(2, qk_norm="rms").apply(variables, 10 * x)
    np.testing.assert_allclose(again, 10 * made, rtol=1e-3)


def test_presets_say_what_is_left_out_and_the_config_holds_the_truth():
    plain, made = ModelConfig("b", (16, 16)), ModelConfig("b", (16, 16), preset="modern", registers=0)
    assert {name: getattr(plain, name) for name in PRESETS["plain"]} == PRESETS["plain"]
    assert {name: getattr(made, name) for name in PRESETS["modern"]} == {**PRESETS["modern"], "registers": 0}
    again = section(ModelConfig, dataclasses.asdict(made), "config.model")
    assert again == made


def test_a_modern_vit_has_as_many_parameters():
    """A comparison of presets would otherwise be one of sizes."""
    counts = []
    for preset in PRESETS:
        network = encoder(ModelConfig("s", (16, 16), preset=preset), (32, 32))
        shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
        counts.append(sum(x.size for x in jax.tree.leaves(shapes)))
    assert counts[1] == pytest.approx(counts[0], rel=0.005)
    assert gated_width(VARIANTS["b"].mlp_dim) == 2048 and gated_width(6144) == 4096  # DINOv2's ViT-g


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"variant": "resnet18", "preset": "modern"},
            "positions is 'rotary' \\(preset 'modern'\\), which variant",
        ),
        ({"variant": "resnet18", "registers": 4}, "registers is 4"),
        ({"variant": "nano", "patch_size": (4, 4), "registers": -1}, "registers is -1"),
        ({"variant": "nano", "patch_size": (4, 4), "positions": "rotery"}, "did you mean 'rotary'"),
        ({"variant": "custom", "patch_size": (4, 4)}, "'custom' needs \\(dim, depth, heads, mlp_dim\\)"),
        ({"variant": "nano", "patch_size": (4, 4), "shape": (8, 1, 2, 8)}, "the others have their own"),
        ({"variant": "custom", "patch_size": (4, 4), "shape": (9, 1, 2, 8)}, "heads must divide its dim"),
        (
            {"variant": "custom", "patch_size": (4, 4, 4), "shape": (8, 1, 2, 8), "positions": "rotary"},
            "heads of width 4 have no pair of channels for each of 3 axes",
        ),
    ],
)
def test_what_does_not_fit_is_named(values, says):
    with pytest.raises(InputError, match=says):
        section(ModelConfig, values, "config.model")


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("size,patch", [((160, 160, 160), 8), ((96, 96, 96), 16)])
def test_volumes_of_real_size_are_built(preset, size, patch):
    """8,000 and 216 tokens, forward and backward, by shape alone."""
    config = ModelConfig("b", (patch,) * 3, preset=preset, scan=True, dtype="bfloat16")
    network = encoder(config, size, "full")
    image = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), image)
    slopes = jax.eval_shape(jax.grad(lambda p, x: network.apply(p, x).sum()), params, image)
    assert jax.tree.map(jnp.shape, slopes) == jax.tree.map(jnp.shape, params)
    assert jax.eval_shape(network.apply, params, image).shape == (1, 1 + (size[0] // patch) ** 3, 768)
