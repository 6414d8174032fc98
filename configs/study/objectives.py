"""Which pretraining helps: MAE, SimMIM, I-JEPA and self-distillation at equal compute, beside training from scratch and a ResNet.

  python -m vitmed ingest pneumoniamnist.npz --out data/pneumoniamnist
  python -m vitmed study --config configs/study/objectives.py --workdir studies/objectives --jobs 2

4 pretrainings and 78 cells: 6 arms x (5 draws of 1%, 5 of 10%, 3 of all labels). About 4 hours on two cores. Another
dataset: --config.data.path=DATASET; of other sizes the equality has to be made anew.

Equal compute: the four pretrainings take as many floating-point operations, by XLA's count of their compiled update step
(forward, backward and optimiser, augmentation included) at 28 x 28 and patches of 4. SimMIM's encoder computes hidden
patches too, I-JEPA has a teacher and several targets, self-distillation six views of every scan, so that they take fewer
steps than MAE: STEPS below, which tests/study/test_objectives.py holds to 3%. Batch sizes are those of each config.

Every pretrained arm is compared with the best of the two baselines, chosen on validation: with as many labels, and a tenth
of them with all. All are fine-tuned alike.
`--config.study.published=RUN` (made by `vitmed convert`) adds a published encoder to the baselines, frozen and fine-tuned.
Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
OBJECTIVES = {"mae": "MAE", "simmim": "SimMIM", "ijepa": "I-JEPA", "self_distil": "Self-distillation"}
BASELINES = ("scratch", "resnet", "frozen", "finetuned")
STEPS = {"mae": 3000, "simmim": 1020, "ijepa": 1130, "self_distil": 505}  # of pretraining: 1.0e14 operations
TUNING = (100, 250, 500)  # steps of fine-tuning, one a budget, the same for every arm


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="data/pneumoniamnist", folds=0))
    config.study = ConfigDict(
        dict(
            name="Pretraining objectives",
            budgets=(0.01, 0.1, 1.0),
            draws=(5, 5, 3),
            metrics=("auroc", "balanced_accuracy", "accuracy"),
            baselines=BASELINES,
            compare=_compared(0.1),
            margin=0.01,
            pretrain_seeds=1,
            split="test",
        )
    )
    config.pretrains = ConfigDict()
    config.arms = ConfigDict()
    for name, label in OBJECTIVES.items():
        own = load(f"{CONFIGS / f'pretrain_{name}.py'}{':tiny' if tiny else ''}")
        own.data.apart = ("val", "test")
        own.train.update(dict(steps=2 if tiny else STEPS[name], val_every=0))
        own.probe.every = 0  # looking at the features takes compute, and labels
        config.pretrains[name] = own
        config.arms[name] = ConfigDict(dict(config=_finetune(tiny), init=name, label=label))
    config.arms.frozen = ConfigDict(
        dict(config=_published(tiny, "probe"), init="published", label="Published, frozen")
    )
    config.arms.finetuned = ConfigDict(
        dict(config=_published(tiny), init="published", label="Published, fine-tuned")
    )
    config.arms.scratch = ConfigDict(dict(config=_finetune(tiny, "scratch"), label="ViT from scratch"))
    config.arms.resnet = ConfigDict(dict(config=_resnet(tiny), label="ResNet"))
    config.study.arms = (*OBJECTIVES, *BASELINES)
    for arm in config.arms.values():
        arm.steps = (2, 2) if tiny else TUNING
        arm.config.train.val_every = 0
    if tiny:
        config.study.update(dict(budgets=(0.5, 1.0), draws=(1, 1), compare=_compared(0.5)))
    return config


def _compared(few):
    """Each pretraining with few labels beside the best baseline with all."""
    return tuple((f"{name}@{few}", "best@1.0") for name in OBJECTIVES)


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
