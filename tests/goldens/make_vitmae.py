"""Makes vitmae.npz: a tiny ViTMAE of ``transformers``, its input and what it computes.

  pip install 'torch>=2.13,<2.14' 'transformers>=4.57,<4.58' && python tests/goldens/make_vitmae.py

In the file: ``weights/NAME`` (the state dict), ``image`` (B, C, H, W), ``noise`` (B, N: the patches with the least
noise stay visible), ``mask`` (B, N, 1 = hidden), ``latent`` (B, 1 + K, D) of the encoder and the ``loss``. Kept so
that the test needs no PyTorch; ``tests/models/test_vitmae.py`` also computes it live where PyTorch is installed.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("vitmae.npz")
SHAPE = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    image_size=32,
    patch_size=8,
    num_channels=3,
    decoder_hidden_size=24,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=4,
    decoder_intermediate_size=96,
    mask_ratio=0.75,
    norm_pix_loss=True,
    layer_norm_eps=1e-12,
)


def make(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of the file, computed now."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(seed)
    model = ViTMAEForPreTraining(ViTMAEConfig(**SHAPE)).eval()
    patches = (SHAPE["image_size"] // SHAPE["patch_size"]) ** 2
    model.decoder.initialize_weights(
        patches
    )  # a fresh model of this release forgets the decoder's position table
    with torch.no_grad():  # biases and norms start at 0 and 1, where a mistake in them would not show
        for _, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    image, noise = torch.randn(2, 3, SHAPE["image_size"], SHAPE["image_size"]), torch.rand(2, patches)
    with torch.no_grad():
        encoded, output = model.vit(image, noise=noise), model(image, noise=noise)
    made = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    return made | {
        "image": image.numpy(),
        "noise": noise.numpy(),
        "mask": output.mask.numpy(),
        "latent": encoded.last_hidden_state.numpy(),
        "loss": output.loss.numpy(),
    }


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
    print(f"{FILE}: {FILE.stat().st_size / 1024:.0f} KiB")
