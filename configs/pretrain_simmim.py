"""SimMIM pretraining of a Vision Transformer on unlabelled scans, 2D or 3D: the simplest masked image modelling.

  python -m vitmed train --config configs/pretrain_simmim.py --workdir runs/simmim --config.data.path=DATASET

Arguments: `:VARIANT+PATCH,SIZE` (`:b16,224`, `:b8,96x96x96`) or `:tiny` (seconds, for tests). Without one: small scans
such as MedMNIST's 28x28, patch 4. The encoder computes hidden patches too, so a step costs more than that of
configs/pretrain_mae.py. Fine-tune what it learned with configs/finetune_classify.py. For segmentation give
`--config.objective.head=segmenter --config.model.width=16` too: the decoder of configs/finetune_segment.py, of the same
width, is then pretrained with the encoder (in 3D also `--config.model.patch_size=8,8,8` and a batch that fits).
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", workers=2))
    config.model = ConfigDict(dict(variant="nano", patch_size=(4, 4), scan=False))
    config.objective = ConfigDict(
        dict(name="simmim", mask_ratio=0.6, mask="block", mask_block=2, target="raw")
    )
    config.train = ConfigDict(dict(steps=3000, batch_size=256, seed=0, log_every=20, val_every=500))
    config.optim = ConfigDict(
        dict(name="adamw", lr=8e-4, weight_decay=0.05, warmup=0.1, beta1=0.9, beta2=0.999, clip=5.0)
    )
    config.augment = ConfigDict(dict(crop=(0.67, 1.0), flip=()))
    config.probe = ConfigDict(dict(every=0))
    config.checkpoint = ConfigDict(dict(every=500, keep=2))
    config.parallel = ConfigDict(dict(engine="jit", remat="none"))
    config.init_from = ""
    if arg == "tiny":
        config.model.scan = True
        config.train.update(dict(steps=20, batch_size=8, log_every=1, val_every=10))
        config.checkpoint.every = 10
    elif arg:
        from vitmed.config import variant

        name, patch, size = variant(arg)
        config.model.update(dict(variant=name, patch_size=patch))
        config.data.size = size
        # Xie et al. 2022, section 4.1: 8e-4 at a batch of 2048.
        config.train.update(dict(steps=100_000, batch_size=1024))
        config.optim.lr = 4e-4
        config.checkpoint.every = 1000
    return config
