"""PneumoniaMNIST at 1%, 10% and 100% of its labels: pretrained (MAE), from scratch, and a ResNet.

  python -m vitmed ingest pneumoniamnist.npz --out data/pneumoniamnist
  python -m vitmed study --config configs/study/pneumoniamnist.py --workdir studies/pneumoniamnist --jobs 2

28 runs: one pretraining and 3 arms x 3 budgets x 3 draws of the labels. `--config.study.split=val` makes
the same table on validation, for choosing. Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
STEPS = (100, 250, 500)  # one a budget, the same for every arm


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="data/pneumoniamnist"))
    config.study = ConfigDict(
        dict(
            name="PneumoniaMNIST",
            budgets=(0.01, 0.1, 1.0),
            draws=3,
            metrics=("auroc", "balanced_accuracy"),
            reference="pretrained",
            arms=("pretrained", "scratch", "resnet"),
            split="test",
            checkpoint="last",
        )
    )
    config.pretrain = load(f"{CONFIGS / 'pretrain_mae.py'}{':tiny' if tiny else ''}")
    config.arms = ConfigDict(
        dict(
            pretrained=dict(config=_finetune(tiny), init="pretrain", steps=STEPS, label="Pretrained ViT"),
            scratch=dict(config=_finetune(tiny, "scratch"), steps=STEPS, label="ViT from scratch"),
            resnet=dict(config=_resnet(tiny), steps=STEPS, label="ResNet"),
        )
    )
    config.pretrain.data.apart = ("val", "test")  # ten scans of the training split are copies of such
    for arm in config.arms.values():
        arm.config.train.val_every = 0
    if tiny:
        config.study.update(dict(budgets=(0.1, 1.0), draws=1))
        for arm in config.arms.values():
            arm.steps = (2, 2)
        config.pretrain.train.steps = 2
    return config


def _finetune(tiny, arg=None):
    arg = "tiny" if tiny else arg
    return load(f"{CONFIGS / 'finetune_classify.py'}{f':{arg}' if arg else ''}")


def _resnet(tiny):
    config = _finetune(False, "resnet10")
    if tiny:
        config.model.update(dict(width=8))
        config.train.update(dict(batch_size=8, log_every=1, val_every=10))
    return config
