"""From a config to networks: what does not fit is refused by the key's name."""

import pytest

from vitmed.config import build as section
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig, decoder, encoder
from vitmed.models.resnet import ResNet
from vitmed.models.vit import VARIANTS, ViT


def test_names_become_networks():
    vit = encoder(ModelConfig("ti", (4, 4), drop_path=0.1, scan=True, dtype="bfloat16"), (28, 28), "full")
    assert isinstance(vit, ViT) and vit.variant == VARIANTS["ti"]
    assert (vit.drop_path, vit.scan, vit.remat, vit.dtype) == (0.1, True, "full", "bfloat16")
    cnn = encoder(ModelConfig("resnet10", width=16), (28, 28))
    assert isinstance(cnn, ResNet) and cnn.width == 16
    made = decoder(ModelConfig("ti", (4, 4), decoder_dim=64, decoder_depth=3, decoder_heads=2), (28, 28), 2)
    assert (made.dim, made.depth, made.heads, made.channels) == (64, 3, 2, 2)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"variant": "nani", "patch_size": (4, 4)}, "did you mean 'nano'?"),
        ({"variant": "nano"}, "config.model.patch_size is missing"),
        ({"variant": "nano", "patch_size": (4, 4), "drop_path": 1.0}, "config.model.drop_path is 1.0"),
        ({"variant": "nano", "patch_size": (4, 4), "decoder_heads": 5}, "config.model.decoder_heads is 5"),
        ({"variant": "nano", "patch_size": (4, 4), "dtype": "float16"}, "config.model.dtype"),
        ({"variant": "nano", "patch_size": (4, 4), "stem": "half"}, "config.model.stem is 'half'"),
        ({"variant": "unet", "stem": "half"}, "config.model.stem is 'half'"),
        ({"variant": "unet", "learned_slices": True}, "config.model.learned_slices is True"),
        ({"variant": "unet", "width": 0}, "config.model.width is 0; at least 1"),
        ({"variant": "nano", "patch_size": (4, 4), "width": -4}, "config.model.width is -4"),
        ({"variant": "nano", "patch_size": (4, 4), "learned_slices": True}, "have no slices"),
        (
            {"variant": "nano", "patch_size": (4, 4, 4), "positions": "learned", "learned_slices": True},
            "have a learned place each",
        ),
        ({"variant": "nano", "patch_size": (4, 4), "position_scale": (0.5,)}, "for each of 2 axes"),
        ({"variant": "nano", "patch_size": (4, 4), "position_scale": (0.5, 0.0)}, "one positive factor"),
        (
            {
                "variant": "nano",
                "patch_size": (4, 4, 4),
                "learned_slices": True,
                "position_scale": (1.0,) * 3,
            },
            "for each of 2 axes",
        ),
        (
            {"variant": "nano", "patch_size": (4, 4), "positions": "learned", "position_scale": (1.0, 1.0)},
            "learned positions have no coordinates",
        ),
        ({"variant": "nano", "patch_size": (4, 4), "brightest_patches": -1}, "brightest_patches is -1; 0"),
        (
            {"variant": "nano", "patch_size": (4, 4), "brightest_patches": 8, "pool": "grid"},
            "pool 'grid' is of all patches",
        ),
    ],
)
def test_a_wrong_key_is_named(values, says):
    """Otherwise it ends in a traceback, or an experiment is made of a key that changes nothing."""
    with pytest.raises(InputError) as refused:
        section(ModelConfig, values, "config.model")
    assert says in str(refused.value)


def test_a_cnn_has_no_patches_to_mask():
    with pytest.raises(InputError, match="no patches to mask"):
        decoder(ModelConfig("resnet10"), (28, 28), 1)


def test_a_patch_of_another_dimension_is_refused():
    with pytest.raises(InputError, match="3 axes but the scans have 2"):
        encoder(ModelConfig("nano", (4, 4, 4)), (28, 28))
