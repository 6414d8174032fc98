"""Starting from another run's encoder: its recipe must fit the data, its parameters the model."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vitmed.errors import InputError
from vitmed.models.transformer import stacked, unrolled
from vitmed.runs import load
from vitmed.scans.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Former:
    """A run to start from.

    Attributes:
        run: its folder.
        recipe: how its input was prepared; the new run prepares its own in the same way.
        params: its encoder's parameters, as NumPy.
    """

    run: Path
    recipe: Recipe
    params: dict

    def encoder(self, fresh: dict) -> dict:
        """The former encoder in the form of ``fresh``, layers stacked or not as there.

        Raises:
            InputError: another architecture; the first parameter that differs is named.
        """
        former = stacked(self.params) if "blocks" in fresh.get("transformer", {}) else unrolled(self.params)
        here, there = _leaves(fresh), _leaves(former)
        for name in [*here, *(n for n in there if n not in here)]:
            mine, its = (np.shape(side[name]) if name in side else None for side in (here, there))
            if mine != its:
                shown = [f"shape {shape}" if shape is not None else "absent" for shape in (mine, its)]
                raise InputError(
                    f"config.init_from: the encoder of {self.run} is of another architecture; {name} is "
                    f"{shown[0]} in config.model and {shown[1]} there"
                )
        return jax.tree.map(np.asarray, former)


def start_from(run: str, data: Recipe, patch_size: tuple[int, ...] | None) -> Former:
    """Opens the run that ``config.init_from`` names and holds its recipe against the data.

    Args:
        run: folder of the former run.
        data: recipe of the dataset to train on.
        patch_size: the new model's, array order, or None.

    Raises:
        InputError: no such run, or what its encoder was fed differs from the data; both sides are named.
    """
    path = Path(run)
    params = load(path)
    recipe = Recipe.from_json(path / "recipe.json")
    wanted = dataclasses.replace(data, patch_size=patch_size)
    differences = recipe.differences(wanted)
    if differences:
        raise InputError(
            f"config.init_from {path} does not fit this dataset and model: {'; '.join(differences)} "
            "(here: that run, there: what it would be fed)"
        )
    return Former(path, recipe, params["encoder"])


def _leaves(tree: Any) -> dict[str, Any]:
    return {
        "/".join(str(entry.key) for entry in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
