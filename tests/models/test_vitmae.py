"""Same weights as ViTMAE of ``transformers``, same numbers: latent and loss to 1e-4."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.models.decoder import MAEDecoder
from vitmed.models.positions import sincos
from vitmed.models.vit import Variant, ViT
from vitmed.objectives.mae import target_patches
from vitmed.objectives.masking import from_noise

MAKER = Path(__file__).parents[1] / "goldens" / "make_vitmae.py"


def maker():
    spec = importlib.util.spec_from_file_location("make_vitmae", MAKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(golden: dict, shape: dict) -> dict:
    """Their state dict as our tree ``{encoder, decoder}``."""

    def weight(name):
        return golden[f"weights/{name}"]

    def linear(name):
        return {"kernel": weight(f"{name}.weight").T, "bias": weight(f"{name}.bias")}

    def norm(name):
        return {"scale": weight(f"{name}.weight"), "bias": weight(f"{name}.bias")}

    def block(name, heads):
        parts = [linear(f"{name}.attention.attention.{part}") for part in ("query", "key", "value")]
        dim = parts[0]["bias"].size
        out = linear(f"{name}.attention.output.dense")
        return {
            "norm1": norm(f"{name}.layernorm_before"),
            "attention": {
                "qkv": {
                    "kernel": np.stack([p["kernel"].reshape(dim, heads, -1) for p in parts], axis=1),
                    "bias": np.stack([p["bias"].reshape(heads, -1) for p in parts]),
                },
                "out": {"kernel": out["kernel"].reshape(heads, -1, dim), "bias": out["bias"]},
            },
            "norm2": norm(f"{name}.layernorm_after"),
            "mlp1": linear(f"{name}.intermediate.dense"),
            "mlp2": linear(f"{name}.output.dense"),
        }

    def blocks(name, depth, heads):
        return {f"block_{n}": block(f"{name}.{n}", heads) for n in range(depth)}

    patches = weight("vit.embeddings.patch_embeddings.projection.weight")  # (D, C, H, W) -> (H, W, C, D)
    return {
        "encoder": {
            "patches": {
                "kernel": patches.transpose(2, 3, 1, 0).reshape(-1, len(patches)),
                "bias": weight("vit.embeddings.patch_embeddings.projection.bias"),
            },
            "cls": weight("vit.embeddings.cls_token"),
            "transformer": blocks(
                "vit.encoder.layer", shape["num_hidden_layers"], shape["num_attention_heads"]
            ),
            "norm": norm("vit.layernorm"),
        },
        "decoder": {
            "embed": linear("decoder.decoder_embed"),
            "mask_token": weight("decoder.mask_token"),
            "transformer": blocks(
                "decoder.decoder_layers",
                shape["decoder_num_hidden_layers"],
                shape["decoder_num_attention_heads"],
            ),
            "norm": norm("decoder.decoder_norm"),
            "predict": linear("decoder.decoder_pred"),
        },
    }


def agree(golden: dict, shape: dict) -> None:
    size, patch = (shape["image_size"],) * 2, (shape["patch_size"],) * 2
    variant = Variant(
        shape["hidden_size"],
        shape["num_hidden_layers"],
        shape["num_attention_heads"],
        shape["intermediate_size"],
    )
    encoder = ViT(variant, patch, epsilon=shape["layer_norm_eps"])
    decoder = MAEDecoder(
        shape["decoder_hidden_size"], shape["decoder_num_hidden_layers"], shape["decoder_num_attention_heads"],
        size, patch, shape["num_channels"], epsilon=shape["layer_norm_eps"],
    )  # fmt: skip
    params = parameters(golden, shape)
    image = jnp.asarray(golden["image"].transpose(0, 2, 3, 1))
    mask = from_noise(jnp.asarray(golden["noise"]), shape["mask_ratio"])
    hidden = np.ones_like(golden["noise"])
    np.put_along_axis(hidden, np.asarray(mask.keep), 0, axis=1)
    assert np.array_equal(hidden, golden["mask"]), "another set of patches is hidden"

    fresh = jax.eval_shape(encoder.init, jax.random.key(0), image, mask.keep)["params"]
    assert jax.tree.map(np.shape, params["encoder"]) == jax.tree.map(np.shape, fresh)
    latent = encoder.apply({"params": params["encoder"]}, image, mask.keep)
    np.testing.assert_allclose(latent, golden["latent"], atol=1e-4)

    predicted = decoder.apply({"params": params["decoder"]}, latent, mask.restore)
    error = ((predicted - target_patches(image, patch, "patch")) ** 2).mean(axis=-1)
    np.testing.assert_allclose((error * hidden).sum() / hidden.sum(), golden["loss"], atol=1e-4)


def test_the_kept_golden():
    module = maker()
    agree(dict(np.load(module.FILE)), module.SHAPE)


def test_their_position_tables_are_ours():
    module = maker()
    golden = np.load(module.FILE)
    cells = (module.SHAPE["image_size"] // module.SHAPE["patch_size"],) * 2
    np.testing.assert_allclose(
        sincos(cells, module.SHAPE["hidden_size"])[None],
        golden["weights/vit.embeddings.position_embeddings"],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        sincos(cells, module.SHAPE["decoder_hidden_size"])[None],
        golden["weights/decoder.decoder_pos_embed"],
        atol=1e-6,
    )


@pytest.mark.filterwarnings(
    "default::DeprecationWarning", "default::FutureWarning"
)  # PyTorch's are not ours to mend
def test_live():
    """Against the ``transformers`` installed here, with other weights than the golden's."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install 'vitmed[bench]'")
    module = maker()
    agree(module.make(seed=1), module.SHAPE)
