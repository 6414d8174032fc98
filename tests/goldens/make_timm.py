"""Makes timm.npz: tiny encoders of timm with random weights, an image and the tokens they give it.

  pip install 'timm>=1.0,<1.1' && python tests/goldens/make_timm.py

In the file, for each of CASES: ``CASE/weights/NAME`` (the state dict), ``CASE/image`` (B, C, H, W) and ``CASE/tokens``
(B, 1 + registers + N, D) after the last norm. MAE's and DINOv2's encoders are timm's, or take over its names.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("timm.npz")
_SMALL = dict(img_size=(12, 8), patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0)
CASES = {
    "vit": dict(mlp_ratio=2.5),
    "qk_norm": dict(qk_norm=True, qkv_bias=False),
    "registers": dict(reg_tokens=2, init_values=1e-5, no_embed_class=True),
}


def make(case: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of one case, computed now."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(seed)
    model = VisionTransformer(**_SMALL, **CASES[case]).eval()
    with torch.no_grad():  # biases, scales and norms start at 0 and 1, where a mistake in them would not show
        for weight in model.parameters():
            weight.copy_(torch.where(weight.abs() > 0.9, weight, 0 * weight) + 0.3 * torch.randn_like(weight))
        image = torch.randn(2, 3, *_SMALL["img_size"])
        tokens = model.forward_features(image)
    made = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    return made | {"image": image.numpy(), "tokens": tokens.numpy()}


if __name__ == "__main__":
    every = {f"{case}/{name}": value for case in CASES for name, value in make(case).items()}
    np.savez_compressed(FILE, **every)
    print(f"{FILE}: {FILE.stat().st_size / 1024:.0f} KiB")
