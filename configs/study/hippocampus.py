"""Hippocampus (MR, two structures) at 5%, 20% and 100% of its masks: a pretrained ViT, the same from scratch, a U-Net.

  (echo path,mask; for f in hippocampus/images/*.nii.gz; do echo $f,${f/images/labels}; done) > hippocampus.csv
  for k in 1 2 3 4 5; do
    python -m vitmed ingest hippocampus.csv --out data/hippocampus-$k --modality mr --size 40,56,40 --split fold:$k/5
  done
  python -m vitmed study --config configs/study/hippocampus.py --workdir studies/hippocampus --jobs 2

The size is what nnU-Net takes for this set, at 1 mm a voxel: of the largest volumes it cuts off a margin, of the structures
nothing. The ViT learns by SimMIM with the decoder of masks as its head: both halves of the network are pretrained. All
masks are learned from on five folds, once each; 5% and 20% on the first fold with five draws. Each fold has a pretraining
of its own, which sees its training volumes alone. Folds are by volume, and both sides of one person may be in two of them:
nobody knows whose they are. Structure 1 is the anterior part, 2 the posterior. Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
STEPS = (600, 1000, 2500)  # one a budget, the same for every arm
PATCH = (8, 8, 8)
# At full width and batch a step of the U-Net is 437 GFLOP, and the study takes days of two cores.
WIDTH, TINY_WIDTH = 8, 4


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="data/hippocampus-{fold}", folds=5))
    config.study = ConfigDict(
        dict(
            name="Hippocampus",
            budgets=(0.05, 0.2, 1.0),
            draws=(5, 5, 1),
            folds=(1, 1, 5),
            metrics=("dice", "dice/1", "dice/2"),
            baselines=("scratch", "unet"),
            compare=(("pretrained", "scratch"),),
            arms=("pretrained", "scratch", "unet"),
            split="test",
        )
    )
    config.pretrain = load(f"{CONFIGS / 'pretrain_simmim.py'}{':tiny' if tiny else ''}")
    config.pretrain.data.apart = ("val", "test")
    config.pretrain.model.update(dict(patch_size=PATCH, width=TINY_WIDTH if tiny else WIDTH))
    config.pretrain.objective.update(dict(head="segmenter", mask="uniform"))
    config.pretrain.augment.crop = (0.8, 1.0)
    config.arms = ConfigDict(
        dict(
            pretrained=dict(config=_segment(tiny), init="pretrain", steps=STEPS, label="Pretrained ViT"),
            scratch=dict(config=_segment(tiny, "scratch"), steps=STEPS, label="ViT from scratch"),
            unet=dict(config=_segment(tiny, "unet"), steps=STEPS, label="3D U-Net"),
        )
    )
    if tiny:
        config.study.update(dict(budgets=(0.5, 1.0), draws=(1, 1), folds=(1, 1)))
        config.pretrain.train.steps = 2
        for arm in config.arms.values():
            arm.steps = (2, 2)
    else:
        config.pretrain.train.update(dict(batch_size=4, steps=1500, val_every=0))
        config.pretrain.optim.lr = 1e-3
    return config


def _segment(tiny, arg=None):
    config = load(f"{CONFIGS / 'finetune_segment.py'}{f':{arg}' if arg else ''}")
    config.train.val_every = 0
    config.model.width = TINY_WIDTH if tiny else WIDTH
    config.train.batch_size = 2
    config.optim.lr = 3e-3
    del config.objective.class_weights  # the README's table is of the loss without
    if tiny:
        config.train.log_every = 1
    return config
