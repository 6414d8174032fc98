"""Weights of every layout give the numbers of the implementation that they come from, to 1e-4."""

import importlib.util
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.models.build import encoder as network
from vitmed.weights.published import encoder

sys.path.insert(0, str(Path(__file__).parent))  # numpy_published, by name
GOLDENS = Path(__file__).parents[1] / "goldens"


def maker(name):
    spec = importlib.util.spec_from_file_location(name, GOLDENS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(golden):
    return {name.removeprefix("weights/"): golden[name] for name in golden if name.startswith("weights/")}


def tokens(found, image):
    """Of an image (B, C, H, W)."""
    model = network(found.model, image.shape[2:])
    return model.apply({"params": found.params}, jnp.asarray(image.transpose(0, 2, 3, 1)))


def agree(golden, found):
    truth = golden["tokens"]
    truth = np.concatenate([truth[:, :1], truth[:, 1 + found.model.registers :]], axis=1)
    np.testing.assert_allclose(tokens(found, golden["image"]), truth, atol=1e-4)


CASES = {
    "vit": ("ViT (transformers)", dict(positions="learned", epsilon=1e-12)),
    "dinov2": ("Dinov2 (transformers)", dict(positions="learned", mlp="gelu", layer_scale=1e-5)),
    "dinov2_registers": ("Dinov2 (transformers)", dict(registers=3, mlp="swiglu")),
    "dinov3": ("DINOv3 (transformers)", dict(positions="rotary", registers=2, mlp="gelu", epsilon=1e-5)),
    "dinov3_gated": ("DINOv3 (transformers)", dict(positions="rotary", registers=4, mlp="swiglu")),
}


@pytest.fixture(scope="module")
def goldens():
    with np.load(GOLDENS / "published.npz") as file:
        held = {name: file[name] for name in file.files}
    return {
        case: {name.removeprefix(f"{case}/"): held[name] for name in held if name.startswith(f"{case}/")}
        for case in CASES
    }


@pytest.mark.parametrize("case", list(CASES))
def test_the_kept_goldens(goldens, case):
    name, model = CASES[case]
    found = encoder(weights(goldens[case]), "x.npz", heads=2, size=(12, 12))
    assert found.layout == name and found.channels == 3 and found.size == (12, 12)
    assert {key: getattr(found.model, key) for key in model} == model
    agree(goldens[case], found)


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.filterwarnings(
    "default::DeprecationWarning", "default::FutureWarning"
)  # PyTorch's are not ours to mend
def test_live(case):
    """Against the ``transformers`` installed here, with other weights than the golden's."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install 'vitmed[bench]'")
    golden = maker("make_published").make(case, seed=1)
    agree(golden, encoder(weights(golden), "x.npz", heads=2, size=(12, 12)))


def test_a_vitmae_of_transformers():
    """With its decoder beside it, which is left out; against the golden of the masked encoder."""
    module = maker("make_vitmae")
    with np.load(module.FILE) as file:
        golden = {name: file[name] for name in file.files}
    found = encoder(weights(golden), "x.npz", heads=4)
    assert found.layout == "ViTMAE (transformers)" and all("decoder" in name for name in found.left_out)
    image = jnp.asarray(golden["image"].transpose(0, 2, 3, 1))
    keep = jnp.argsort(jnp.asarray(golden["noise"]), axis=1)[:, :4]
    latent = network(found.model, (32, 32)).apply({"params": found.params}, image, keep)
    np.testing.assert_allclose(latent, golden["latent"], atol=1e-4)


TIMM = {
    "vit": dict(positions="learned", registers=0, qk_norm=False),
    "qk_norm": dict(qk_norm=True),
    "registers": dict(registers=2, layer_scale=1e-5),
}


@pytest.mark.parametrize("case", list(TIMM))
def test_the_goldens_of_timm(case):
    """Not square; the layout by whose names MAE's and DINOv2's own weights are kept too."""
    with np.load(GOLDENS / "timm.npz") as file:
        golden = {name.removeprefix(f"{case}/"): file[name] for name in file if name.startswith(f"{case}/")}
    found = encoder(weights(golden), "x.npz", heads=2, size=(12, 8))
    assert found.layout in ("ViT (timm)", "DINOv2 (facebookresearch)")
    assert {key: getattr(found.model, key) for key in TIMM[case]} == TIMM[case]
    agree(golden, found)


DECODER = {"decoder_embed.weight": (8, 16), "decoder_blocks.0.norm1.weight": (8,), "mask_token": (1, 1, 8)}
FUSED = {
    "MAE (facebookresearch)": (dict(), DECODER),
    "DINOv2 (facebookresearch)": (
        dict(scale=True, registers="register_tokens", gated=True),
        {"mask_token": (1, 16)},
    ),
    "ViT (timm)": (dict(scale=True, registers="reg_token", cls=False, qk_norm=2), {"head.weight": (5, 16)}),
}


@pytest.mark.parametrize("name", list(FUSED))
def test_the_fused_layouts_against_numpy(rng, name):
    """Not square, with patches that are not."""
    import numpy_published

    kinds, more = FUSED[name]
    own = numpy_published.random_weights(rng, patch=(4, 2), cells=(2, 3), **kinds)
    held = own | {key: np.zeros(shape, np.float32) for key, shape in more.items()}
    found = encoder({f"module.{key}": value for key, value in held.items()}, "x.npz", heads=2, size=(8, 6))
    assert (found.layout, set(found.left_out), found.model.patch_size) == (name, set(more), (4, 2))
    assert found.model.positions == "learned" and found.params["positions"].shape == (2, 3, 16)
    image = rng.standard_normal((2, 3, 8, 6)).astype(np.float32)
    double = {key: value.astype(np.float64) for key, value in own.items()}
    truth = np.stack([numpy_published.tokens(double, x.astype(np.float64), 2) for x in image])
    np.testing.assert_allclose(tokens(found, image), truth, atol=1e-4)


def renamed(golden):
    """DINOv3 by the names of facebookresearch."""
    own, made = weights(golden), {}
    for n in range(2):
        parts = [own.pop(f"layer.{n}.attention.{p}_proj.weight") for p in "qkv"]
        made[f"blocks.{n}.attn.qkv.weight"] = np.concatenate(parts)
        biases = [own.pop(f"layer.{n}.attention.{p}_proj.bias", np.full(16, 7.0, np.float32)) for p in "qkv"]
        made[f"blocks.{n}.attn.qkv.bias"] = np.concatenate(biases)
        made[f"blocks.{n}.attn.qkv.bias_mask"] = np.repeat(np.array([1.0, 0.0, 1.0], np.float32), 16)
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": "storage_tokens",
        "embeddings.patch_embeddings.": "patch_embed.proj.",
        "attention.o_proj": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "mlp.gate_proj": "mlp.w1",
        "mlp.down_proj": "mlp.w3" if any("gate" in name for name in own) else "mlp.fc2",
        "mlp.up_proj": "mlp.w2" if any("gate" in name for name in own) else "mlp.fc1",
    }
    for name, value in own.items():
        for theirs, other in names.items():
            name = name.replace(theirs, other)
        made[name.replace("layer.", "blocks.")] = value
    return made | {"rope_embed.periods": (100.0 ** (np.arange(2) / 2)).astype(np.float32)}


@pytest.mark.parametrize("case", ["dinov3", "dinov3_gated"])
def test_dinov3_of_facebookresearch(goldens, case):
    """Its keys' biases are masked out, and the heads are told by the periods."""
    found = encoder(renamed(goldens[case]), "x.npz", size=(12, 12))
    assert found.layout == "DINOv3 (facebookresearch)" and found.model.vit.heads == 2
    agree(goldens[case], found)


def test_what_dinov3_norms_small_crops_by_in_training_is_left_out(goldens):
    """Otherwise the released ViT-7B and the ViT-L of satellite images, which hold it, are refused."""
    local = {f"local_cls_norm.{part}": np.full(16, 7.0, np.float32) for part in ("weight", "bias")}
    found = encoder(renamed(goldens["dinov3"]) | local, "x.npz", size=(12, 12))
    assert set(local) < set(found.left_out)
    agree(goldens["dinov3"], found)


# --- what cannot be converted ----------------------------------------------------------------------------------------


@pytest.fixture
def timm(rng):
    import numpy_published

    return numpy_published.random_weights(rng)


@pytest.mark.parametrize(
    "change,says",
    [
        (
            dict(drop="blocks.1.attn.proj.bias"),
            "looks like ViT \\(timm\\), but blocks.1.attn.proj.bias is missing",
        ),
        (dict(drop="norm.weight"), "but norm.weight is missing"),
        (dict(drop="blocks.0.mlp.fc2.weight"), "but blocks.0.mlp.fc2.weight is missing"),
        (dict(drop="pos_embed"), "but pos_embed is missing"),
        (dict(add="fc_norm.weight"), "has fc_norm.weight, not known there; .* nothing was converted"),
        (dict(add="blocks.1.attn.relative_table"), "has blocks.1.attn.relative_table"),
        (dict(cut="blocks.1.mlp.fc1.bias"), "transformer/block_1/mlp1/bias is \\(8,\\) and \\(40,\\)"),
        (dict(cut="pos_embed"), "has 8 positions, which are no class token .* give --size"),
        (dict(cut="blocks.1.attn.qkv.weight"), "an array has a wrong shape"),
        (dict(heads=3), "width 16, which 3 heads do not divide"),
        (dict(heads=None), "of which no number of heads is known; give --heads"),
        (dict(beside={"hidden_act": "quick_gelu", "num_attention_heads": 2}), "hidden_act 'quick_gelu'"),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_named(timm, change, says):
    heads = change.pop("heads", 2)
    if name := change.get("drop"):
        del timm[name]
    if name := change.get("add"):
        timm[name] = np.zeros(3, np.float32)
    if name := change.get("cut"):
        timm[name] = timm[name][:8] if name != "pos_embed" else timm[name][:, :8]
    with pytest.raises(InputError, match=says):
        encoder(timm, "x.npz", change.get("beside"), heads)


def test_another_network_is_of_no_layout():
    with pytest.raises(
        InputError, match="x.npz is of no layout that is known: its names are conv1.weight, fc.bias"
    ):
        encoder({"conv1.weight": np.zeros(3), "fc.bias": np.zeros(3)}, "x.npz")


@pytest.mark.parametrize("heads", [None, 2])
def test_rotary_positions_of_other_periods_are_refused(goldens, heads):
    """Otherwise every patch is taken to lie elsewhere; that the heads are given says nothing of the periods."""
    held = renamed(goldens["dinov3"])
    held["rope_embed.periods"] = held["rope_embed.periods"] * 2
    with pytest.raises(InputError, match="other periods than DINOv3's"):
        encoder(held, "x.npz", heads=heads, size=(12, 12))


def test_periods_are_those_of_the_config_beside(goldens):
    """Otherwise weights of transformers, which hold no periods, import with wrong ones without a word."""
    held = weights(goldens["dinov3"])
    agree(goldens["dinov3"], encoder(held, "x.npz", {"rope_theta": 100.0}, heads=2, size=(12, 12)))
    with pytest.raises(InputError, match="rope_theta 10000.0, .*other periods than DINOv3's \\(100\\)"):
        encoder(held, "x.npz", {"rope_theta": 10000.0}, heads=2, size=(12, 12))


def test_a_gate_of_another_activation_is_refused(goldens):
    """Otherwise it becomes silu without a word: DINOv3's config in transformers gates by gelu unless told otherwise."""
    held = weights(goldens["dinov3_gated"])
    agree(goldens["dinov3_gated"], encoder(held, "x.npz", {"hidden_act": "silu"}, heads=2, size=(12, 12)))
    with pytest.raises(InputError, match="hidden_act 'gelu'; of a gated perceptron only 'silu' can be"):
        encoder(held, "x.npz", {"hidden_act": "gelu"}, heads=2, size=(12, 12))


def test_dinov2s_gate_is_silu_whatever_its_config_says(goldens):
    """Otherwise the released giant, whose config says gelu, is refused."""
    golden = goldens["dinov2_registers"]
    agree(golden, encoder(weights(golden), "x.npz", {"hidden_act": "gelu"}, heads=2, size=(12, 12)))


@pytest.mark.parametrize("said,size", [(12, (12, 12)), ([8, 12], (8, 12)), ((8, 12), (8, 12))])
def test_the_size_is_that_of_the_config_beside(goldens, said, size):
    """Otherwise one length an axis ends in a traceback."""
    found = encoder(weights(goldens["dinov3"]), "x.npz", {"image_size": said}, heads=2)
    assert found.size == size
    assert encoder(weights(goldens["dinov3"]), "x.npz", {"image_size": said}, 2, (4, 4)).size == (4, 4)


def test_a_table_of_positions_is_laid_out_by_the_size_of_the_config_beside(rng):
    """Otherwise one of 16x4 patches, which is as long as one of 8x8, is read as square."""
    import numpy_published

    held = numpy_published.random_weights(rng, cells=(16, 4))
    assert encoder(held, "x.npz", {"image_size": [64, 16]}, heads=2).params["positions"].shape == (16, 4, 16)


@pytest.mark.parametrize("said", [[12], [12, 12, 12], "12", [12, None], 0])
def test_a_size_that_is_none_is_named(goldens, said):
    """Otherwise a config that was written by hand ends in a traceback, or in an image without a patch."""
    with pytest.raises(InputError, match="config beside x.npz says image_size .*for each of 2 axes"):
        encoder(weights(goldens["dinov3"]), "x.npz", {"image_size": said}, heads=2)
