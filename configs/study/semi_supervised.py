"""10 and 40 labels: does learning from unlabelled scans beside them beat fine-tuning of the pretrained model alone?

  python -m vitmed ingest pneumoniamnist.npz --out data/pneumoniamnist
  python -m vitmed study --config configs/study/semi_supervised.py --workdir studies/semi --jobs 2

1 pretraining and 60 cells: 3 arms x 2 budgets x 10 draws, all from the same pretrained model and for as many steps.
About 3 hours on two cores (estimated: a step of `semi_masked` and `semi_teacher` costs two to four times that of fine-tuning). Another
dataset: --config.data.path=DATASET.

Each semi-supervised arm is compared with fine-tuning draw by draw: better, not worse by more than the margin of one
point of AUROC, or not settled. `--config.arms.semi_teacher.config.guard.folds=5` (likewise `semi_masked`) has each run
fall back to fine-tuning where that is better within its own labels, for ten more trainings a cell; the labels that decide
are those of the budget. Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
STEPS = (150, 200)  # one a budget, the same for every arm
BATCH, UNLABELLED = 32, 64  # a batch of 128 would show each of ten labels thirteen times


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="data/pneumoniamnist", folds=0))
    config.study = ConfigDict(
        dict(
            name="Semi-supervised",
            budgets=(10, 40),
            draws=10,
            metrics=("auroc", "average_precision"),  # neither needs a threshold, which would take labels
            baselines=("finetuned",),
            compare=(("semi_masked", "semi_teacher"),),
            margin=0.01,
            pretrain_seeds=1,
            split="test",
        )
    )
    config.pretrain = _load("pretrain_mae", tiny)
    config.pretrain.data.apart = ("val", "test")
    arms = dict(
        finetuned=("finetune_classify", "Fine-tuning alone"),
        semi_masked=("semi_masked", "Masked modelling beside"),
        semi_teacher=("semi_teacher", "Pseudo-labels beside"),
    )
    config.arms = ConfigDict(
        {
            name: dict(config=_load(file, tiny), init="pretrain", steps=STEPS, label=label)
            for name, (file, label) in arms.items()
        }
    )
    for arm in config.arms.values():
        arm.config.data.apart = ("val", "test")
        arm.config.train.val_every = 0
        if not tiny:
            arm.config.train.batch_size = BATCH
    if not tiny:
        for name in ("semi_masked", "semi_teacher"):
            config.arms[name].config.data.unlabelled_batch = UNLABELLED
    if tiny:
        config.study.update(dict(budgets=(6, 8), draws=1))
        for arm in config.arms.values():
            arm.steps = (2, 2)
        config.pretrain.train.steps = 2
    return config


def _load(name, tiny):
    return load(f"{CONFIGS / name}.py{':tiny' if tiny else ''}")
