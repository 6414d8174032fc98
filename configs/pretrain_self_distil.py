"""Self-distillation (DINO and iBOT, as in DINOv2) of a Vision Transformer on unlabelled scans, 2D or 3D.

  python -m vitmed train --config configs/pretrain_self_distil.py --workdir runs/dino --config.data.path=DATASET

Arguments: `:VARIANT+PATCH,SIZE` (`:b16,224`, `:b8,96x96x96`) or `:tiny` (seconds, for tests). Without one: small scans
such as MedMNIST's 28x28, patch 4. The loss says little here: watch `health/rank` and, with labels, `health/knn_auroc`
(`--config.probe.every`). `--config.objective.views.KEY` changes each view (keys as in `config.augment`); choose flips
and intensities with the modality in mind. What a run gives (`vitmed.runs.load`, `init_from`) is the teacher.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", workers=2))
    config.model = ConfigDict(dict(variant="nano", patch_size=(4, 4), drop_path=0.1, scan=False))
    config.objective = ConfigDict(
        dict(name="self_distil", locals=4, prototypes=1024, hidden=512, bottleneck=128, momentum=(0.992, 1.0))
    )
    config.objective.views = ConfigDict(dict(flip=(), brightness=0.2, contrast=0.2, blur=0.5))
    config.train = ConfigDict(dict(steps=3000, batch_size=128, seed=0, log_every=20, val_every=500))
    config.optim = ConfigDict(dict(name="adamw", lr=5e-4, weight_decay=0.04, warmup=0.1, clip=3.0))
    config.augment = ConfigDict(dict(flip=()))
    config.probe = ConfigDict(dict(every=500))
    config.checkpoint = ConfigDict(dict(every=500, keep=2))
    config.parallel = ConfigDict(dict(engine="jit", remat="none"))
    config.init_from = ""
    if arg == "tiny":
        config.model.scan = True
        config.objective.update(dict(locals=2, prototypes=32, hidden=32, bottleneck=16))
        config.train.update(dict(steps=20, batch_size=8, log_every=1, val_every=10))
        config.probe.every = 10
        config.checkpoint.every = 10
    elif arg:
        from vitmed.config import variant

        name, patch, size = variant(arg)
        config.model.update(dict(variant=name, patch_size=patch))
        config.data.size = size
        config.objective.update(dict(locals=8, prototypes=65536, hidden=2048, bottleneck=256))
        # Oquab et al. 2023, as its code: 4e-3 at a batch of 1024, by the square root of the batch.
        config.train.update(dict(steps=100_000, batch_size=256))
        config.optim.lr = 2e-3
        config.probe.every = 5000
        config.checkpoint.every = 1000
    return config
