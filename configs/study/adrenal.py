"""AdrenalMNIST3D (shapes of adrenal glands, 28^3) at 10% and 100% of its labels: pretrained (MAE), from scratch, a 3D ResNet.

  python -m vitmed ingest adrenalmnist3d.npz --out data/adrenal
  python -m vitmed study --config configs/study/adrenal.py --workdir studies/adrenal --jobs 2

25 runs: one pretraining and 3 arms x (5 draws of 10%, 3 of all labels). The scans are binary: most patches are all gland or
all background, and a patch without any contrast cannot be normalised, so MAE's targets are the voxels themselves; and what
is no gland is looked at by no ViT. How thick the gland is tells most, so no scan is made larger or smaller. Patches, steps
and augmentation were chosen within the training split. The test split is MedMNIST's own. `--config.study.split=val` makes
the table on validation. Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
STEPS = (500, 1500)  # one a budget, the same for every arm
PATCH = (4, 4, 4)
GLAND = 64  # patches of 343; a gland touches 57 at most
AUGMENT = dict(flip=(0, 1, 2), rotate=15.0, scale=(1.0, 1.0), brightness=0.0, contrast=0.0)


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="data/adrenal"))
    config.study = ConfigDict(
        dict(
            name="AdrenalMNIST3D",
            budgets=(0.1, 1.0),
            draws=(5, 3),
            metrics=("auroc", "accuracy"),
            baselines=("scratch", "resnet"),
            arms=("pretrained", "scratch", "resnet"),
            split="test",
        )
    )
    config.pretrain = load(f"{CONFIGS / 'pretrain_mae.py'}{':tiny' if tiny else ''}")
    config.pretrain.data.apart = ("val", "test")
    config.pretrain.model.update(dict(patch_size=PATCH, brightest_patches=2 if tiny else GLAND))
    config.pretrain.objective.update(dict(target="raw", foreground=0.01))
    config.pretrain.augment.update(dict(flip=(0, 1, 2), rotate=15.0, crop=(1.0, 1.0)))
    config.arms = ConfigDict(
        dict(
            pretrained=dict(config=_finetune(tiny), init="pretrain", steps=STEPS, label="Pretrained ViT"),
            scratch=dict(config=_finetune(tiny, "scratch"), steps=STEPS, label="ViT from scratch"),
            resnet=dict(config=_resnet(tiny), steps=STEPS, label="3D ResNet"),
        )
    )
    if tiny:
        config.study.update(dict(budgets=(0.1, 1.0), draws=(1, 1)))
        config.pretrain.train.steps = 2
        for arm in config.arms.values():
            arm.steps = (2, 2)
    else:
        config.pretrain.train.update(dict(batch_size=64, steps=2000, val_every=0))
    return config


def _finetune(tiny, arg=None):
    arg = "tiny" if tiny else arg
    config = load(f"{CONFIGS / 'finetune_classify.py'}{f':{arg}' if arg else ''}")
    if "patch_size" in config.model:
        config.model.update(dict(patch_size=PATCH, brightest_patches=2 if tiny else GLAND))
    config.augment.update(AUGMENT)
    config.train.val_every = 0
    if not tiny:
        config.train.batch_size = 32
    return config


def _resnet(tiny):
    config = _finetune(False, "resnet10")
    if tiny:
        config.model.width = 8
        config.train.update(dict(batch_size=8, log_every=1))
    else:
        # At full resolution and twice the width a step takes 5 s on two cores.
        config.model.update(dict(width=16, stem="half"))
    return config
