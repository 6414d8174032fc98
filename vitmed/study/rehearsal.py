"""What each run of a study would refuse at its start, found before the first of them: its model, held against its scans
and against the run that it starts from.

Nothing is computed. Models are traced for their shapes alone, which takes no memory and no accelerator; so is the
encoder that a run starts from, be it of a pretraining of the study that has not begun.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vitmed.config import build
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import guard
from vitmed.job.config import Config, check
from vitmed.models.build import ModelConfig, encoder
from vitmed.objectives import registry
from vitmed.objectives.interface import Spec
from vitmed.runs import folder
from vitmed.runs.transfer import adaptations, begun
from vitmed.scans.recipe import Recipe
from vitmed.study.plan import Cell


def rehearse(pretrains: Sequence[Cell], cells: Sequence[Cell]) -> None:
    """Holds the models of these cells, and of all that they choose among, against data and start.

    Args:
        pretrains: those that ``cells`` start from.

    Raises:
        InputError: a model that does not fit the scans, or another one than that of the run it starts from.
    """
    recipes: dict[str, Recipe] = {}
    for cell in (*pretrains, *cells):
        seen = []
        for values in [trial.config for trial in cell.trials] or [cell.config]:
            config = check(values)
            shaping = (config.data, config.model, config.objective, config.finetune)
            if shaping in seen:  # most settings are of the optimiser
                continue
            seen.append(shaping)
            try:
                recipes[str(cell.run)] = _rehearsed(config, recipes)
            except InputError as fault:
                raise InputError(f"{cell.name}: {fault}") from None


def _rehearsed(config: Config, recipes: dict[str, Recipe]) -> Recipe:
    """The recipe that a run of ``config`` will have; ``recipes`` are of runs of the study, by their folders."""
    guard.check(config)
    dataset, model = config.data.open(), config.model
    own = config.data.recipe(dataset)
    # As the job of the run has it (vitmed.job.job.Job), which would need its devices.
    described = dataclasses.replace(own, patch_size=model.patch_size or None, model=dataclasses.asdict(model))
    spec = _spec(config, described, dataset)

    def fresh():
        key = jax.random.key(0)
        objective = registry.build(config.objective, model, spec, config.parallel.remat)
        return config.finetune.begun(objective.init(key, spec)[0], key)

    params = jax.eval_shape(fresh)
    config.finetune.stages(params, spec.steps)
    if not config.init_from:
        return described
    former = recipes.get(config.init_from) or folder.recipe_of(config.init_from)
    if not former.model:  # of a run that is older than what recipes say of models
        return described
    run = Path(config.init_from)
    learned = {"encoder": _on_paper(run, former, model.scan)}
    start = begun(run, former, learned, own, model, adaptations(config.init_adapt))
    start.fitted(params["encoder"])
    return dataclasses.replace(
        start.recipe,
        size=own.size,
        spacing=own.spacing,
        patch_size=described.patch_size,
        model=described.model,
    )


def _spec(config: Config, recipe: Recipe, dataset: Dataset) -> Spec:
    """Of a run's job, but for what labels and masks would have to be counted for: each class shows once."""
    steps = config.train.total(dataset.size(config.data.split))
    spec = Spec.of(recipe, dataset.datasheet, steps)
    classes = len(spec.structures) + 1 if config.objective.of_masks else spec.outputs
    return dataclasses.replace(spec, counts=((1, classes - 1),) * classes)


def _on_paper(run: Path, recipe: Recipe, scan: bool) -> dict:
    """The encoder's parameters of a run with this recipe, which take no memory; layers are stacked as ``scan`` says."""
    model = build(ModelConfig, recipe.model, f"{run / 'recipe.json'}: model")
    model = dataclasses.replace(model, scan=scan)
    image = jax.ShapeDtypeStruct((1, *recipe.size, recipe.channels), jnp.float32)
    shapes = jax.eval_shape(
        lambda image: encoder(model, recipe.size).init(jax.random.key(0), image)["params"], image
    )
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)
