"""Segmentation of scans from masks: fine-tuned from a pretrained run, or from scratch.

  python -m vitmed train --config configs/finetune_segment.py --workdir runs/hippocampus \\
      --config.data.path=DATASET --config.init_from=runs/mae
  python -m vitmed evaluate runs/hippocampus

Arguments: `:VARIANT+PATCH,SIZE` as for configs/pretrain_mae.py, `:scratch` (the same ViT without pretraining), `:unet`
(the U-Net), or `:tiny` (seconds, for tests). From a run also `--config.finetune.method=probe` (its encoder stays as it
is) or `=lora`. Large scans: `--config.data.crop=64,64,64`, and where structures are small
`--config.data.crop_foreground=0.33`. Without class weights a short training may give up a structure for another one that
looks like it (the two halves of the hippocampus); `--config.objective.class_weights=0.5,1,2` weighs the background and
each structure in the cross-entropy by numbers of your own.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", workers=2))
    config.model = ConfigDict(dict(variant="nano", patch_size=(8, 8, 8), drop_path=0.1, width=16))
    config.objective = ConfigDict(dict(name="supervised", task="segmentation", class_weights="root"))
    config.train = ConfigDict(dict(steps=400, batch_size=8, seed=0, log_every=20, val_every=200))
    config.optim = ConfigDict(
        dict(name="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75, warmup=0.1, clip=1.0, ema=0.99)
    )
    config.augment = ConfigDict(dict(shift=0.05, scale=(0.9, 1.1), rotate=10.0, brightness=0.1, contrast=0.2))
    config.checkpoint = ConfigDict(dict(every=200, keep=2))
    config.parallel = ConfigDict(dict(engine="jit", remat="none"))
    config.init_from = ""
    if arg == "tiny":
        config.model.scan = True
        config.model.width = 4
        config.train.update(dict(steps=20, log_every=1, val_every=10))
        config.checkpoint.every = 10
    elif arg in ("scratch", "unet"):
        if arg == "unet":
            config.model = ConfigDict(dict(variant="unet", width=16))
        # Nothing is layered below the top that was not pretrained: all layers learn at one rate.
        config.optim.layer_decay = 1.0
    elif arg:
        from vitmed.config import variant

        name, patch, size = variant(arg)
        config.model.update(dict(variant=name, patch_size=patch))
        config.data.size = size
    return config
