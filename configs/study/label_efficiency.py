"""How far a few labels go: pretrained (MAE) against the best of training from scratch and ResNets, 1% to all labels.

  python -m vitmed ingest pneumoniamnist.npz --out data/pneumoniamnist
  python -m vitmed study --config configs/study/label_efficiency.py --workdir studies/labels --jobs 2

1 pretraining and 39 cells: 3 arms x (5 draws of 1%, 5 of 10%, 3 of all labels). About 75 minutes on two cores (estimated
from configs/study/pneumoniamnist.py, 27 cells of the same sizes in 50). Another dataset: --config.data.path=DATASET.

The question that it ends with: does the pretrained model with a tenth of the labels reach the best baseline with all?
Which baseline is the best at a budget is decided on validation. Rates are those of the training configs, one setting an
arm; `:tuned` tries three rates for each arm in every cell, cross-validated within its own labels, and takes the threshold
from there too, so that no validation label is used for it: ten times as many trainings (8 hours, estimated).
A published encoder, frozen and fine-tuned, is a baseline too where its weights are on disk:
`vitmed convert FILE --out runs/published --modality xray --channels 1`, then `--config.study.published=runs/published`.
`--config.study.pretrain_seeds=3 --config.study.draws="(6,6,3)"` lets the luck of the pretraining into the intervals.
Argument: `:tiny` (a minute, for tests) or `:tuned`.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
STEPS = (100, 250, 500)  # one a budget, the same for every arm


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="data/pneumoniamnist", folds=0))
    config.study = ConfigDict(
        dict(
            name="Label efficiency",
            budgets=(0.01, 0.1, 1.0),
            draws=(5, 5, 3),
            metrics=("auroc", "balanced_accuracy", "accuracy"),
            baselines=("scratch", "resnet", "frozen", "finetuned"),
            compare=(("pretrained@0.1", "best@1.0"),),
            margin=0.01,
            pretrain_seeds=1,
            split="test",
        )
    )
    config.pretrain = load(f"{CONFIGS / 'pretrain_mae.py'}{':tiny' if tiny else ''}")
    config.pretrain.data.apart = ("val", "test")
    config.arms = ConfigDict(
        dict(
            pretrained=dict(config=_finetune(tiny), init="pretrain", steps=STEPS, label="Pretrained ViT"),
            scratch=dict(config=_finetune(tiny, "scratch"), steps=STEPS, label="ViT from scratch"),
            resnet=dict(config=_resnet(tiny), steps=STEPS, label="ResNet"),
            frozen=dict(config=_published(tiny, "probe"), init="published", label="Published, frozen"),
            finetuned=dict(config=_published(tiny), init="published", label="Published, fine-tuned"),
        )
    )
    config.arms.frozen.steps = config.arms.finetuned.steps = STEPS
    for arm in config.arms.values():
        arm.config.train.val_every = 0
    if tiny or arg == "tuned":
        config.tune = ConfigDict(dict(by="budget", folds=2 if tiny else 3))
        config.study.threshold = "budget"
        low, high = (5e-5, 1e-4, 3e-4), (3e-4, 1e-3, 3e-3)
        rates = dict(pretrained=low, scratch=high, resnet=high, frozen=high, finetuned=low)
        for name, arm in config.arms.items():
            arm.grid = ConfigDict(dict(optim=dict(lr=rates[name][: 2 if tiny else 3])))
    if tiny:
        config.study.update(dict(budgets=(0.5, 1.0), draws=(1, 1), compare=(("pretrained@0.5", "best@1.0"),)))
        for arm in config.arms.values():
            arm.steps = (2, 2)
        config.pretrain.train.steps = 2
    return config


def _finetune(tiny, arg=None):
    arg = "tiny" if tiny else arg
    return load(f"{CONFIGS / 'finetune_classify.py'}{f':{arg}' if arg else ''}")


def _published(tiny, way=None):
    """With the study's own patches, to which the encoder's are resampled."""
    config = _finetune(tiny, way)
    if tiny and way:
        config.finetune.method = way
    config.init_adapt = "channels+patch"
    return config


def _resnet(tiny):
    config = _finetune(False, "resnet10")
    if tiny:
        config.model.update(dict(width=8))
        config.train.update(dict(batch_size=8, log_every=1, val_every=10))
    return config
