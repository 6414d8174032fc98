"""Masked-autoencoder pretraining of a Vision Transformer on unlabelled scans, 2D or 3D.

  python -m vitmed train --config configs/pretrain_mae.py --workdir runs/mae --config.data.path=DATASET

Arguments: `:VARIANT+PATCH,SIZE` (`:b16,224`, `:l16,224`, `:b8,96x96x96`) or `:tiny` (seconds, for tests).
Without one: small scans such as MedMNIST's 28x28, patch 4; on PneumoniaMNIST 11 to 15 minutes on two cores, and
val/loss ends at 0.42 or so.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", workers=2))
    config.model = ConfigDict(
        dict(variant="nano", patch_size=(4, 4), decoder_dim=64, decoder_depth=2, decoder_heads=4, scan=False)
    )
    config.objective = ConfigDict(dict(name="mae", mask_ratio=0.75, target="patch"))
    config.train = ConfigDict(dict(steps=3000, batch_size=256, seed=0, log_every=20, val_every=500))
    config.optim = ConfigDict(
        dict(name="adamw", lr=1.5e-3, weight_decay=0.05, warmup=0.05, beta1=0.9, beta2=0.95, clip=1.0)
    )
    config.augment = ConfigDict(dict(crop=(0.5, 1.0), flip=()))
    config.probe = ConfigDict(dict(every=0))
    config.checkpoint = ConfigDict(dict(every=500, keep=2))
    config.parallel = ConfigDict(dict(engine="jit", remat="none"))
    config.init_from = ""
    if arg == "tiny":
        config.model.update(dict(decoder_dim=32, decoder_depth=1, scan=True))
        config.train.update(dict(steps=20, batch_size=8, log_every=1, val_every=10))
        config.checkpoint.every = 10
    elif arg:
        from vitmed.config import variant

        name, patch, size = variant(arg)
        config.model.update(
            dict(variant=name, patch_size=patch, decoder_dim=512, decoder_depth=8, decoder_heads=16)
        )
        config.data.size = size
        # He et al. 2022, table 8: 1.5e-4 for each 256 images of the batch.
        config.train.update(dict(steps=100_000, batch_size=1024))
        config.optim.lr = 1.5e-4 * 1024 / 256
        config.augment.crop = (0.2, 1.0)
        config.checkpoint.every = 1000
    return config
