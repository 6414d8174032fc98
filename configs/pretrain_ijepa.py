"""I-JEPA pretraining of a Vision Transformer on unlabelled scans, 2D or 3D: features predicted, no pixels.

  python -m vitmed train --config configs/pretrain_ijepa.py --workdir runs/ijepa --config.data.path=DATASET

Arguments: `:VARIANT+PATCH,SIZE` (`:b16,224`, `:b8,96x96x96`) or `:tiny` (seconds, for tests). Without one: small scans
such as MedMNIST's 28x28, patch 4. The loss says little here, since the teacher that it is measured by moves: watch
`health/rank` and, with labels, `health/knn_auroc` (`--config.probe.every`). What a run gives (`vitmed.runs.load`,
`init_from`) is the teacher.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", workers=2))
    config.model = ConfigDict(
        dict(variant="nano", patch_size=(4, 4), decoder_dim=64, decoder_depth=4, decoder_heads=4, scan=False)
    )
    config.objective = ConfigDict(dict(name="ijepa", targets=4, target_scale=0.175, momentum=(0.996, 1.0)))
    config.train = ConfigDict(dict(steps=3000, batch_size=256, seed=0, log_every=20, val_every=500))
    config.optim = ConfigDict(dict(name="adamw", lr=1e-3, weight_decay=0.05, warmup=0.1, clip=1.0))
    config.augment = ConfigDict(dict(crop=(0.3, 1.0), flip=()))
    config.probe = ConfigDict(dict(every=500))
    config.checkpoint = ConfigDict(dict(every=500, keep=2))
    config.parallel = ConfigDict(dict(engine="jit", remat="none"))
    config.init_from = ""
    if arg == "tiny":
        config.model.update(dict(decoder_dim=32, decoder_depth=1, scan=True))
        config.train.update(dict(steps=20, batch_size=8, log_every=1, val_every=10))
        config.probe.every = 10
        config.checkpoint.every = 10
    elif arg:
        from vitmed.config import variant

        name, patch, size = variant(arg)
        config.model.update(
            dict(variant=name, patch_size=patch, decoder_dim=384, decoder_depth=6, decoder_heads=12)
        )
        config.data.size = size
        # Assran et al. 2023, appendix A: 1e-3 at a batch of 2048.
        config.train.update(dict(steps=100_000, batch_size=1024))
        config.optim.lr = 5e-4
        config.probe.every = 5000
        config.checkpoint.every = 1000
    return config
