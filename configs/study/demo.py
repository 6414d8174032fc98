"""The table of `vitmed demo`: few labels, on simulated scans, against training from scratch and a ResNet.

  python -m vitmed demo --out demo          makes the scans, runs this study and draws the report
  python -m vitmed study --config configs/study/demo.py --workdir demo/study --config.data.path=demo/data

One pretraining and 3 arms x 2 budgets x 3 draws of the labels. Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="demo/data"))
    config.study = ConfigDict(
        dict(
            name="demo",
            budgets=(0.1, 1.0),
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
            pretrained=dict(
                config=_finetune(tiny), init="pretrain", steps=(150, 400), label="Pretrained ViT"
            ),
            scratch=dict(config=_finetune(tiny), steps=(150, 400), label="ViT from scratch"),
            resnet=dict(config=_resnet(tiny), steps=(150, 400), label="ResNet"),
        )
    )
    # Nothing is layered below the top that was not pretrained: from scratch all layers learn at one rate.
    config.arms.scratch.config.optim.layer_decay = 1.0
    if tiny:
        config.study.update(dict(budgets=(0.5, 1.0), draws=1))
        for arm in config.arms.values():
            arm.steps = (2, 2)
        config.pretrain.train.steps = 2
    return config


def _finetune(tiny):
    return load(f"{CONFIGS / 'finetune_classify.py'}{':tiny' if tiny else ''}")


def _resnet(tiny):
    config = load(f"{CONFIGS / 'finetune_classify.py'}:resnet18")
    if tiny:
        config.model.update(dict(variant="resnet10", width=8))
        config.train.update(dict(batch_size=8, log_every=1, val_every=10))
    return config
