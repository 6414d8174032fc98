"""The keys of a training, and which of them fit together."""

import dataclasses
import math

from ml_collections import ConfigDict

from vitmed import config as configs
from vitmed.data.augment import AugmentConfig
from vitmed.data.loader import DataConfig
from vitmed.errors import InputError
from vitmed.evaluate.guard import GuardConfig
from vitmed.evaluate.health import ProbeConfig
from vitmed.models.build import ModelConfig
from vitmed.objectives import registry, supervised
from vitmed.optim.optimiser import OptimConfig
from vitmed.parallel.engine import ParallelConfig
from vitmed.runs.checkpoint import CheckpointConfig
from vitmed.runs.finetune import FinetuneConfig
from vitmed.runs.transfer import adaptations

# Keys of ``config.model`` that nothing of a ResNet or a U-Net reads, beside those that ``ModelConfig`` refuses.
_OF_VITS = (
    "brightest_patches",
    "decoder_depth",
    "decoder_dim",
    "decoder_heads",
    "drop_path",
    "epsilon",
    "pool",
    "scan",
    "shape",
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Keys of ``config.train``.

    Attributes:
        steps: number of updates; give this or ``epochs``.
        epochs: passes over the training examples (after any label budget).
        batch_size: the global batch, over all devices and processes.
        seed: of weights, order, masks and augmentation.
        log_every: steps between rows of metrics.
        val_every: steps between passes over the validation split; 0 is never.
        skip_nonfinite: so many steps in a row whose loss or gradient is not finite are left out (they count, and teach
            nothing), and the next one ends the training; 0 ends it at the first. It costs up to a twentieth of a step.
    """

    batch_size: int
    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    log_every: int = 20
    val_every: int = 0
    skip_nonfinite: int = 0

    def __post_init__(self):
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps and config.train.epochs: give one of the two")
        for name, least in (("batch_size", 1), ("log_every", 1), ("val_every", 0), ("skip_nonfinite", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; at least {least} was expected")
        if (self.steps if self.epochs is None else self.epochs) <= 0:
            raise ValueError("steps or config.train.epochs is not positive; there is nothing to train")

    def total(self, examples: int) -> int:
        """Number of updates for this many training examples."""
        return self.steps or max(1, math.ceil(self.epochs * examples / self.batch_size))


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole training config, checked: what every file in ``configs/`` returns.

    ``init_from`` is a run whose encoder and recipe to start from, ``init_adapt`` how its weights may be changed to fit
    (``vitmed.runs.transfer``): "inflate", "channels", "patch", "millimetres", joined by +.
    """

    data: DataConfig
    model: ModelConfig
    objective: dict
    train: TrainConfig
    optim: OptimConfig = OptimConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    augment: AugmentConfig = AugmentConfig()
    probe: ProbeConfig = ProbeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()
    guard: GuardConfig = GuardConfig()
    init_from: str = ""
    init_adapt: str = ""


def resolve(values: ConfigDict) -> ConfigDict:
    """The config with every key that it leaves out, as a run keeps it; raises as ``check`` does."""
    return configs.tree(dataclasses.asdict(check(values)))


def check(values: ConfigDict) -> Config:
    """The config as dataclasses.

    Raises:
        InputError: an unknown, missing or mistyped key, by name, two slow averages of one run, a best checkpoint by what
            is not measured where one is saved, a way of fine-tuning where there is nothing to fine-tune, rare classes
            lifted twice, a pool that nothing would learn, or what the model or the objective does not have, such as
            blocks of a ResNet or a drop path of a masked autoencoder. Another pool than the mean is every ViT's to
            have: the features of a run are asked for whatever its objective, by ``config.probe`` while it trains and of
            whoever opens it.
    """
    if "study" in values and "arms" in values:
        raise InputError("this is the config of a study, of many runs; `vitmed study` runs it")
    config = configs.build(Config, values)
    config = dataclasses.replace(config, objective=registry.section(config.objective))
    if config.optim.ema and config.objective.averages:
        raise InputError(
            f"config.optim.ema is {config.optim.ema}, but {config.objective.name!r} keeps a slow average of its own "
            "(config.objective.momentum), which is what the run gives; set it to 0"
        )
    if adaptations(config.init_adapt) and not config.init_from:
        raise InputError(
            f"config.init_adapt is {config.init_adapt!r}, but there is no config.init_from to adapt"
        )
    config.finetune.check(config.objective, config.init_from)
    best, val_every = config.checkpoint.best or "", config.train.val_every
    every = config.checkpoint.every
    if best.startswith("val/") and (not val_every or (every % val_every and val_every % every)):
        often = f"steps between validations are {val_every}" if val_every else "config.train.val_every is 0"
        raise InputError(
            f"config.checkpoint.best is {best!r}, which is known where a run validates, but {often} and "
            f"config.checkpoint.every is {every}; let one of the two be a multiple of the other"
        )
    if config.data.sampling == "balanced" and config.objective.class_weights == "balanced":
        raise InputError(
            "config.data.sampling and config.objective.class_weights are both 'balanced', which lifts rare classes "
            "twice: each evens out what the label budget shows; leave one out"
        )
    if config.model.pool == "attentive" and not isinstance(config.objective, supervised.Config):
        raise InputError(
            f"config.model.pool is 'attentive', which is learned with labels and which {config.objective.name!r} does "
            "not learn; take another"
        )
    if config.model.drop_path and not config.objective.drops_paths:
        raise InputError(
            f"config.model.drop_path is {config.model.drop_path}, but {config.objective.name!r} trains without it, as "
            "in its paper; leave it out"
        )
    if config.model.brightest_patches and config.objective.of_masks:
        raise InputError(
            f"config.model.brightest_patches is {config.model.brightest_patches}, but masks are made of all patches; "
            "leave it out"
        )
    if not config.model.patch_size:
        # Of a training that is begun, not of the model: runs that kept such a key while nothing read it can be opened.
        for name in _OF_VITS:
            if (given := getattr(config.model, name)) != getattr(ModelConfig, name):
                raise InputError(
                    f"config.model.{name} is {given!r}, which variant {config.model.variant!r} does not have; leave it "
                    "out"
                )
        if config.optim.layer_decay != 1:
            raise InputError(
                f"config.optim.layer_decay is {config.optim.layer_decay}, but variant {config.model.variant!r} has no "
                "blocks for a rate to fall with; set it to 1"
            )
    return config
