"""The table of `vitmed demo`: few labels, on simulated scans, against training from scratch and a ResNet.

  python -m vitmed demo --out demo          makes the scans, runs this study and draws the report
  python -m vitmed study --config configs/study/demo.py --workdir demo/study --config.data.path=demo/data/ct

One pretraining and 3 arms x (3 draws of a twentieth of the labels, 1 of a tenth). Argument: `:tiny` (a minute, for tests).
"""

from pathlib import Path

from ml_collections import ConfigDict

from vitmed.config import load

CONFIGS = Path(__file__).parent.parent
STEPS = (300, 300)  # one a budget, the same for every arm: what ten minutes allow


def get_config(arg=None):
    tiny = arg == "tiny"
    config = ConfigDict()
    config.data = ConfigDict(dict(path="demo/data/ct"))
    config.study = ConfigDict(
        dict(
            name="demo",
            budgets=(0.05, 0.1),
            draws=(3, 1),  # few labels vary most
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
    config.pretrain.data.apart = ("val", "test")  # of `demo --data` there may be copies
    # Sized for two cores without AVX-512: 64 tokens a scan, and every scan seen about sixty times.
    config.pretrain.train.update(dict(steps=2500, batch_size=32, val_every=1000))
    config.pretrain.checkpoint.every = 1000
    config.pretrain.objective.update(dict(mask_ratio=0.5, target="raw"))
    config.pretrain.optim.lr = 1e-3
    # A mirrored slice has the same findings: four scans to learn from for one. Fine-tuning does better without, in
    # its few steps, and so do the other arms.
    config.pretrain.augment.update(dict(crop=(), flip=(0, 1)))
    for arm in config.arms.values():
        arm.config.train.update(dict(batch_size=32, val_every=0))
        arm.config.augment = ConfigDict(dict(crop=(0.7, 1.0)))
        # In some hundred steps there is no time to be careful: what slows learning down is off.
        arm.config.objective.update(dict(head="zero", label_smoothing=0.0))
        arm.config.optim.update(dict(layer_decay=1.0, beta2=0.95, clip=5.0, ema=0.0))
    for part in (config.arms.pretrained.config, config.arms.scratch.config):
        part.model.update(dict(pool="grid", drop_path=0.0))
    # The rates were chosen on other simulated patients (seed 1), for each arm among two or three.
    for name, lr in (("pretrained", 2e-3), ("scratch", 2e-3), ("resnet", 3e-3)):
        config.arms[name].config.optim.lr = lr
    config.arms.resnet.config.model.width = 16
    for part in (config.pretrain, config.arms.pretrained.config, config.arms.scratch.config):
        part.model.update(dict(variant="pico", patch_size=(8, 8)))
    if tiny:
        config.study.update(dict(budgets=(0.5, 1.0), draws=(1, 1)))
        for arm in config.arms.values():
            arm.steps = (2, 2)
            arm.config.train.batch_size = 8
        config.pretrain.train.update(dict(steps=2, batch_size=8))
        for part in (config.pretrain, config.arms.pretrained.config, config.arms.scratch.config):
            part.model.patch_size = (4, 4)
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
