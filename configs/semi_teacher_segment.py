"""Semi-supervised segmentation: a slow teacher's confident voxels are masks for a strongly changed view, 2D or 3D.

  python -m vitmed train --config configs/semi_teacher_segment.py --workdir runs/semi \\
      --config.data.path=DATASET --config.data.labels=10 --config.init_from=runs/mae
  python -m vitmed evaluate runs/semi

Arguments: `:VARIANT+PATCH,SIZE` as for configs/pretrain_mae.py, or `:tiny` (seconds, for tests). The label budget counts
scans with masks; what is not in it makes the second stream (`--config.data.unlabelled` names another). The teacher sees
what `config.augment` makes of a scan, the student that changed by `config.objective.strong` too, which may change
intensities but move nothing; the run gives the teacher. `kept` in the metrics is the share of voxels above
`--config.objective.threshold`: near 0, nothing is learned from them. All else is as in configs/finetune_segment.py, so
that the two compare; as in the paper, start from a run that was fine-tuned, or from a pretrained one.
"""

from ml_collections import ConfigDict


def get_config(arg=None):
    config = ConfigDict()
    config.data = ConfigDict(dict(path="", split="train", val_split="val", unlabelled="", workers=2))
    config.model = ConfigDict(dict(variant="nano", patch_size=(8, 8, 8), drop_path=0.1, width=16))
    config.objective = ConfigDict(
        dict(
            name="semi_teacher",
            task="segmentation",
            class_weights="root",
            threshold=0.8,
            unlabelled_weight=1.0,
            momentum=0.99,
        )
    )
    config.objective.strong = ConfigDict(dict(brightness=0.3, contrast=0.4, blur=0.7, cutout=0.1))
    config.train = ConfigDict(dict(steps=400, batch_size=8, seed=0, log_every=20, val_every=200))
    config.optim = ConfigDict(
        dict(name="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75, warmup=0.1, clip=1.0)
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
    elif arg:
        from vitmed.config import variant

        name, patch, size = variant(arg)
        config.model.update(dict(variant=name, patch_size=patch))
        config.data.size = size
    return config
