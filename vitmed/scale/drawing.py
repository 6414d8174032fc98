"""A training on paper: the very step of a config, for scans of which only the size is known.

No dataset is opened. Scans are taken to be stored as 16-bit integers, as CT and MR are, and to be of two classes where
labels are learned from (of masks: one structure and the background; of numbers: one) unless there are weights for more, or
an order; none of it weighs much in time or memory.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vitmed.errors import InputError
from vitmed.job.config import Config
from vitmed.job.job import Job
from vitmed.objectives.interface import ObjectiveConfig, Spec
from vitmed.parallel.engine import engine
from vitmed.scans.recipe import Recipe

CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A job without data, and the shapes that its update takes.

    Attributes:
        job: whose ``update`` can be lowered for the engine's devices.
        state: shapes of the train state, with their shardings.
        batch: shapes of a global batch, with theirs.
    """

    job: Job
    state: Any
    batch: Any


def draw(config: Config, devices: Sequence[jax.Device] | None = None) -> Drawing:
    """The step of ``config`` for ``devices``, which need not be here.

    Raises:
        InputError: a config that does not say the size of its scans; pmap; a batch or mesh that does not fit the devices.
    """
    size = config.data.crop or config.data.size
    if size is None:
        raise InputError(
            "config.data.size is missing: a plan opens no dataset and must be told the size of its scans; give "
            "--config.data.size=224,224 or a config's argument such as :l16,224"
        )
    if config.parallel.engine != "jit":
        raise InputError(
            f"config.parallel.engine is {config.parallel.engine!r}, which compiles for the devices that are here; plan "
            "with 'jit', whose result is the same"
        )
    channels = config.data.channels or 1
    recipe = Recipe(
        modality="unknown",
        channels=channels,
        size=size,
        spacing=None,
        unit="relative",
        window=(0.0, 1.0),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        patch_size=config.model.patch_size or None,
        model=dataclasses.asdict(config.model),
    )
    sheet, classes, columns = _learned(config.objective)
    spec = Spec.of(recipe, sheet, config.train.steps or 1)
    spec = dataclasses.replace(spec, counts=((1, classes - 1),) * classes)
    job = Job.on_paper(config, recipe, spec, engine(config.parallel, config.train.batch_size, devices))
    state = jax.eval_shape(job.fresh_state, job.seed)
    return Drawing(job, *job.engine.on_paper(state, _batch(config, size, channels, columns)))


def steps_of(config: Config, examples: int | None) -> int:
    """Updates of the whole training, of so many scans where the config counts epochs.

    Raises:
        InputError: it does, and their number is not given.
    """
    if config.train.steps is None and examples is None:
        raise InputError(
            f"config.train.epochs is {config.train.epochs}: give --examples, the number of scans that an epoch has"
        )
    return config.train.total(examples or 0)


def _learned(objective: ObjectiveConfig) -> tuple[dict, int, int]:
    """What a datasheet would say of the truth that is learned from, of how many classes it is, and columns of labels."""
    weights = objective.class_weights
    classes = len(objective.order) or (CLASSES if isinstance(weights, str) else len(weights) or CLASSES)
    if objective.of_masks or not objective.labelled:
        structures = {str(n): [n] for n in range(1, classes)} if objective.of_masks else {}
        return {"task": None, "classes": None, "structures": structures}, classes, 0
    if objective.task == "regression":
        return {"task": "regression", "classes": ["0"]}, classes, 1
    names = list(objective.order) or [str(n) for n in range(classes)]
    if objective.task == "multilabel":
        return {"task": "multilabel", "classes": names}, classes, classes
    return {"task": "multiclass", "classes": names}, classes, 1


def _batch(config: Config, size: tuple[int, ...], channels: int, columns: int) -> dict:
    sizes = {name: config.train.batch_size for name in config.objective.streams}
    if "unlabelled" in sizes and config.data.unlabelled_batch:
        sizes["unlabelled"] = config.data.unlabelled_batch
    main, masks = "main", config.objective.of_masks
    return {
        name: _stream(count, size, channels, columns * (name == main), masks and name == main)
        for name, count in sizes.items()
    }


def _stream(count: int, size: tuple[int, ...], channels: int, labels: int, masks: bool) -> dict:
    """The shapes that ``Dataset.read`` gives."""
    shapes = {
        "image": ((*size, channels), jnp.int16),
        "scale": ((channels,), jnp.float32),
        "offset": ((channels,), jnp.float32),
        "spacing": ((len(size),), jnp.float32),
        "label": ((labels,), jnp.float32),
        "label_weight": ((labels,), jnp.float32),
        "weight": ((), jnp.float32),
        "example": ((3,), jnp.uint32),
    }
    if masks:
        shapes["mask"] = (size, jnp.uint8)
    return {name: jax.ShapeDtypeStruct((count, *shape), dtype) for name, (shape, dtype) in shapes.items()}
