"""Two distant findings that decide a class together (simulated CT): a ViT, pretrained or not, and a ResNet, with all labels.

  python docs/distant_findings.py data/distant        makes the scans, and prints what a bag of patches makes of them
  python -m vitmed study --config configs/study/distant_findings.py --workdir studies/distant --jobs 2

10 runs: one pretraining and 3 arms of three seeds each. Nets, pretraining, augmentation and rates are those of the demo's
study, five times as many steps of fine-tuning. Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from vitmed.config import load

STEPS = (1500,)  # the same for every arm


def get_config(arg=None):
    tiny = arg == "tiny"
    config = load(f"{Path(__file__).parent / 'demo.py'}{':tiny' if tiny else ''}")
    config.data.path = "data/distant/dataset"
    config.study.update(
        dict(
            name="Two distant findings",
            budgets=(1.0,),
            draws=(1,) if tiny else (3,),
            metrics=("auroc",),
            compare=(("scratch", "resnet"),),
        )
    )
    for arm in config.arms.values():
        arm.steps = (2,) if tiny else STEPS
    return config
