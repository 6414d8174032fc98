"""Classification (or regression) of scans from labels: fine-tuned from a pretrained run, or from scratch.

  python -m vitmed train --config configs/finetune_classify.py --workdir runs/chest \\
      --config.data.path=DATASET --config.init_from=runs/mae
  python -m vitmed evaluate runs/chest

Arguments: `:VARIANT+PATCH,SIZE` as for configs/pretrain_mae.py, `:scratch` (the same ViT without pretraining, at
the rate that it wants), `:resnet18` or `:resnet10` (the CNN baseline), or `:tiny` (seconds, for tests); from a run also
`:probe` (its encoder stays as it is, and a linear head is trained), `:attentive` (the same on a learned query that
attends over all patches) and `:lora` (a low-rank change of its queries and values). A label budget:
`--config.data.labels=0.1` (a fraction) or `=40` (a count). Rare classes: `--config.data.sampling=balanced`, or
`--config.objective.class_weights=balanced`. Grades: `--config.objective.task=ordinal
--config.objective.order="('none', 'mild', 'severe')"`. Numbers are learned, and the loss is given, in standard
deviations from the mean of the budget's labels; `mae` and `val/mae` are in their unit, as are evaluations and predictions.

The head starts as a linear probe of the pretrained features, and the rate is low, so that few labels do not spoil
what the encoder knows. On PneumoniaMNIST's validation split with 1% of the labels (3 draws): AUROC .981 at a rate of
5e-5, .974 at 2e-4, .969 at 1e-3, and .968 at 1e-3 from a head at zero.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", workers=2))
    config.model = ConfigDict(dict(variant="nano", patch_size=(4, 4), pool="mean", drop_path=0.1))
    config.objective = ConfigDict(dict(name="supervised", head="probe", label_smoothing=0.1))
    config.train = ConfigDict(dict(steps=600, batch_size=128, seed=0, log_every=20, val_every=200))
    config.optim = ConfigDict(
        dict(name="adamw", lr=1e-4, weight_decay=0.05, layer_decay=0.75, warmup=0.1, clip=1.0, ema=0.99)
    )
    config.augment = ConfigDict(dict(shift=0.05, scale=(0.9, 1.1), rotate=5.0, brightness=0.1, contrast=0.2))
    config.checkpoint = ConfigDict(dict(every=200, keep=2))
    config.parallel = ConfigDict(dict(engine="jit", remat="none"))
    config.finetune = ConfigDict(
        dict(method="full", lora=ConfigDict(dict(rank=8, alpha=16.0, products="query|value")))
    )
    config.init_from = ""
    if arg == "tiny":
        config.model.scan = True
        config.train.update(dict(steps=20, batch_size=8, log_every=1, val_every=10))
        config.checkpoint.every = 10
    elif arg in ("probe", "attentive", "lora"):
        config.finetune.method = "lora" if arg == "lora" else "probe"
        # What is trained here starts at nothing, and can take a higher rate than what was pretrained.
        config.optim.update(dict(lr=1e-3, layer_decay=1.0))
        if arg == "attentive":
            config.model.pool = "attentive"
    elif arg == "scratch" or (arg and arg.startswith("resnet")):
        if arg != "scratch":
            config.model = ConfigDict(dict(variant=arg, width=32))
        # Nothing is layered below the top that was not pretrained: all layers learn at one rate.
        config.optim.update(dict(lr=1e-3, layer_decay=1.0))
    elif arg:
        from vitmed.config import variant

        name, patch, size = variant(arg)
        config.model.update(dict(variant=name, patch_size=patch))
        config.data.size = size
    return config
