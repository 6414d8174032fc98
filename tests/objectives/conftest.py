"""What the tests of objectives share: a ViT small enough to be computed a second time, and that second computation."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.models.build import ModelConfig
from vitmed.models.vit import VARIANTS, Variant

sys.path.insert(0, str(Path(__file__).parent))  # numpy_vit, by name

# Two and three dimensions, three channels and one, none square.
SHAPES = [((8, 12), (4, 4), 3), ((4, 8, 6), (2, 4, 3), 1)]


@pytest.fixture(params=SHAPES, ids=lambda s: f"{len(s[0])}D-{s[2]}ch")
def shape(request):
    """(size, patch, channels)."""
    return request.param


@pytest.fixture
def mite(monkeypatch):
    """Makes a ModelConfig of 16 channels, one block and two heads."""
    monkeypatch.setitem(VARIANTS, "mite", Variant(16, 1, 2, 24))

    def make(patch, **keys):
        small = dict(decoder_dim=16, decoder_depth=1, decoder_heads=2)
        return ModelConfig(variant="mite", patch_size=patch, **{**small, **keys})

    return make


@pytest.fixture
def batch_of():
    """Makes a batch of ``main`` alone from images ``(B, *S, C)``."""

    def make(image, weight=None, **more):
        n = len(image)
        example = np.stack([np.arange(n), np.arange(n) * 7 + 1], axis=1).astype(np.uint32)
        stream = {"image": image, "weight": np.ones(n) if weight is None else weight, "example": example}
        stream["spacing"] = np.ones((n, np.ndim(image) - 2), np.float32)
        return {"main": {name: jnp.asarray(value) for name, value in {**stream, **more}.items()}}

    return make
