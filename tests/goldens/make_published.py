"""Makes published.npz: tiny encoders of ``transformers`` with random weights, an image and the tokens they give it.

  pip install 'torch>=2.13,<2.14' 'transformers>=4.57,<4.58' && python tests/goldens/make_published.py

In the file, for each of CASES: ``CASE/weights/NAME`` (the state dict), ``CASE/image`` (B, C, H, W) and ``CASE/tokens``
(B, 1 + registers + N, D) after the last norm. Kept so that the tests need no PyTorch; ``tests/weights`` also computes
it live where PyTorch is installed.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("published.npz")
_SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4)
# Name of the configuration's class, of the model's, and what is set.
CASES = {
    "vit": ("ViTConfig", "ViTModel", dict(intermediate_size=40)),
    "dinov2": ("Dinov2Config", "Dinov2Model", dict(mlp_ratio=3)),
    "dinov2_registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        dict(num_register_tokens=3, use_swiglu_ffn=True, mlp_ratio=3),
    ),
    "dinov3": ("DINOv3ViTConfig", "DINOv3ViTModel", dict(num_register_tokens=2, intermediate_size=40)),
    "dinov3_gated": (
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        dict(num_register_tokens=4, intermediate_size=24, use_gated_mlp=True, hidden_act="silu"),
    ),
}


def make(case: str, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of one case, computed now."""
    import torch
    import transformers

    config, model, keys = CASES[case]
    torch.manual_seed(seed)
    model = getattr(transformers, model)(getattr(transformers, config)(**_SMALL, **keys)).eval()
    with torch.no_grad():  # biases, scales and norms start at 0 and 1, where a mistake in them would not show
        for weight in model.parameters():
            weight.copy_(torch.where(weight.abs() > 0.9, weight, 0 * weight) + 0.3 * torch.randn_like(weight))
        image = torch.randn(2, 3, _SMALL["image_size"], _SMALL["image_size"])
        tokens = model(image).last_hidden_state
    made = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    return made | {"image": image.numpy(), "tokens": tokens.numpy()}


if __name__ == "__main__":
    every = {f"{case}/{name}": value for case in CASES for name, value in make(case).items()}
    np.savez_compressed(FILE, **every)
    print(f"{FILE}: {FILE.stat().st_size / 1024:.0f} KiB")
