"""BUSI (breast ultrasound, 3 classes): does pretraining on other modalities' scans beside help, or on its own, or at all?

  for k in 1 2 3 4 5; do
    python -m vitmed ingest busi/ --out data/busi-$k --label-from folder --size 64,64 --split fold:$k/5 --dedupe
  done
  python -m vitmed ingest mednist/ --out data/mednist --size 64,64 --split train
  python -m vitmed ingest pneumoniamnist.npz --out data/pneumoniamnist-64 --modality unknown --size 64,64
  python -m vitmed study --config configs/study/busi.py --workdir studies/busi --jobs 2

70 runs: in each of five folds two pretrainings of as many steps (one of ultrasound alone, one of ultrasound, CT, MR and
X-ray), and 4 arms of three draws of the seed with all labels. No modality is named at ingest, so that all may share one model: each scan is
normalised by the range that it is stored in. Near-duplicates stay in one fold (`--dedupe`); patients are not known, so
folds are by image.

Sonographers measure what worries them, and their marks stay in the pictures. What marks alone tell is a study of 15 runs:

  python docs/busi_overlay.py busi/ data/busi-1 busi-overlay/
  for k in 1 2 3 4 5; do
    python -m vitmed ingest busi-overlay/overlay.csv --out data/busi-overlay-$k --size 64,64 --split fold:$k/5 --dedupe
  done
  python -m vitmed study --config configs/study/busi.py:overlay --workdir studies/busi-overlay --jobs 2

Arguments: `:overlay`, or `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
STEPS = (400,)  # the same for every arm
PATCH = (8, 8)
VARIANT = "pico"  # of 780 scans: with it 70 runs take two hours of a core, with `nano` a day
# What a batch is drawn from, by weight: a third of it ultrasound, a third CT and MR (and some X-rays), a third chests.
MIX = {"data/busi-{fold}": 1.0, "data/mednist": 1.0, "data/pneumoniamnist-64": 1.0}


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="data/busi-{fold}", folds=5))
    config.study = ConfigDict(
        dict(
            name="BUSI",
            budgets=(1.0,),
            draws=3,
            metrics=("auroc", "balanced_accuracy"),
            baselines=("scratch", "resnet"),
            compare=(("mixed", "own"), ("mixed", "scratch"), ("own", "scratch")),
            arms=("mixed", "own", "scratch", "resnet"),
            split="test",
        )
    )
    config.pretrains = ConfigDict(dict(mixed=_pretrain(tiny, MIX), own=_pretrain(tiny)))
    config.arms = ConfigDict(
        dict(
            mixed=dict(config=_finetune(tiny), init="mixed", label="Pretrained on all modalities"),
            own=dict(config=_finetune(tiny), init="own", label="Pretrained on BUSI"),
            scratch=dict(config=_finetune(tiny, "scratch"), label="ViT from scratch"),
            resnet=dict(config=_resnet(tiny), label="ResNet"),
        )
    )
    for arm in config.arms.values():
        arm.steps = (2,) if tiny else STEPS
    if tiny:
        config.study.update(dict(draws=1, folds=1))
    if arg == "overlay":
        config.data.path = "data/busi-overlay-{fold}"
        config.study.update(
            dict(name="BUSI, marks alone", arms=("resnet",), reference="resnet", baselines=(), compare=())
        )
        config.pretrains = ConfigDict()
        config.arms = ConfigDict(dict(resnet=config.arms.resnet.to_dict()))
    return config


def _pretrain(tiny, mix=None):
    config = load(f"{CONFIGS / 'pretrain_mae.py'}{':tiny' if tiny else ''}")
    config.data.apart = ("val", "test")
    config.model.update(dict(variant=VARIANT, patch_size=PATCH))
    config.augment.flip = (1,)
    if tiny:
        config.train.steps = 2
        return config
    config.train.update(dict(batch_size=128, steps=1000, val_every=0))
    if mix:
        config.data.mix = ConfigDict(mix, allow_dotted_keys=True)
    return config


def _finetune(tiny, arg=None):
    arg = "tiny" if tiny else arg
    config = load(f"{CONFIGS / 'finetune_classify.py'}{f':{arg}' if arg else ''}")
    if "patch_size" in config.model:
        config.model.update(dict(variant=VARIANT, patch_size=PATCH))
    config.augment.flip = (1,)
    config.train.val_every = 0
    if not tiny:
        config.train.batch_size = 32
    return config


def _resnet(tiny):
    config = _finetune(False, "resnet10")
    config.model.width = 16
    if tiny:
        config.model.width = 8
        config.train.update(dict(batch_size=8, log_every=1))
    return config
