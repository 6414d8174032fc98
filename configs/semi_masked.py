"""Semi-supervised: masked modelling of all scans beside supervised learning of the labelled ones, 2D or 3D.

  python -m vitmed train --config configs/semi_masked.py --workdir runs/semi \\
      --config.data.path=DATASET --config.data.labels=40 --config.init_from=runs/mae
  python -m vitmed evaluate runs/semi

Arguments: `:VARIANT+PATCH,SIZE` as for configs/pretrain_mae.py, or `:tiny` (seconds, for tests). What is not in the
label budget makes the second stream (`--config.data.unlabelled` names another); `--config.objective.masked_weight`
weighs its loss. All else is as in configs/finetune_classify.py, so that the two compare.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", unlabelled="", workers=2))
    config.model = ConfigDict(
        dict(variant="nano", patch_size=(4, 4), pool="mean", drop_path=0.1, decoder_dim=64, decoder_depth=2)
    )
    config.model.decoder_heads = 4
    config.objective = ConfigDict(
        dict(name="semi_masked", head="probe", label_smoothing=0.1, supervised_weight=1.0, masked_weight=1.0)
    )
    config.objective.masked = ConfigDict(dict(mask_ratio=0.75, target="patch"))
    config.train = ConfigDict(dict(steps=600, batch_size=128, seed=0, log_every=20, val_every=200))
    config.optim = ConfigDict(
        dict(name="adamw", lr=1e-4, weight_decay=0.05, layer_decay=0.75, warmup=0.1, clip=1.0, ema=0.99)
    )
    config.augment = ConfigDict(dict(shift=0.05, scale=(0.9, 1.1), rotate=5.0, brightness=0.1, contrast=0.2))
    config.checkpoint = ConfigDict(dict(every=200, keep=2))
    config.parallel = ConfigDict(dict(engine="jit", remat="none"))
    config.guard = ConfigDict(dict(folds=0))
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
    return config
