"""Starting from another run's encoder: its recipe must fit the data, its parameters the model.

What the encoder can do without a wish is to see another size: learned positions are resampled to the other grid. What
changes how its input is embedded needs one, ``config.init_adapt`` (``vitmed.models.adapt``). Each is said aloud.
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vitmed.config import build, unknown_key
from vitmed.errors import InputError
from vitmed.models import adapt
from vitmed.models.build import ModelConfig
from vitmed.models.positions import sincos
from vitmed.models.transformer import stacked, unrolled
from vitmed.runs import load
from vitmed.scans.recipe import Recipe

# "inflate": 2D weights for 3D; "channels": for another number of them; "patch": for patches of another size.
ADAPTATIONS = ("inflate", "channels", "patch")


@dataclasses.dataclass(frozen=True)
class Former:
    """A run to start from.

    Attributes:
        run: its folder.
        recipe: how its input was prepared; the new run prepares its own in the same way.
        params: its encoder's parameters, as NumPy, the embedding adapted.
        cells: the grid that it was trained on.
        said: what was adapted.
    """

    run: Path
    recipe: Recipe
    params: dict
    cells: tuple[int, ...] = ()
    said: tuple[str, ...] = ()

    def encoder(self, fresh: dict) -> dict:
        """The former encoder in the form of ``fresh``: layers stacked or not as there, positions of its grid.

        Says on standard error what was adapted.

        Raises:
            InputError: another architecture; the first parameter that differs is named.
        """
        former = stacked(self.params) if "blocks" in fresh.get("transformer", {}) else unrolled(self.params)
        former, said = self._placed(former, fresh)
        here, there = _leaves(fresh), _leaves(former)
        for name in [*here, *(n for n in there if n not in here)]:
            mine, its = (np.shape(side[name]) if name in side else None for side in (here, there))
            if mine != its:
                shown = [f"shape {shape}" if shape is not None else "absent" for shape in (mine, its)]
                raise InputError(
                    f"config.init_from: the encoder of {self.run} is of another architecture; {name} is "
                    f"{shown[0]} in config.model and {shown[1]} there"
                )
        if self.said or said:
            print(f"init_from {self.run}: {'; '.join([*self.said, *said])}", file=sys.stderr, flush=True)
        return jax.tree.map(np.asarray, former)

    def _placed(self, former: dict, fresh: dict) -> tuple[dict, list[str]]:
        """``former`` with the table of positions that ``fresh`` has, and what was done to it."""
        if "positions" not in fresh:
            return former, []
        *cells, dim = np.shape(fresh["positions"])
        table, said = former.get("positions"), []
        if table is None:
            table = sincos(self.cells, dim, cls=False).reshape(*self.cells, dim)
            said.append("learned positions start as the sine-cosine table")
        if len(cells) == table.ndim:  # one axis more, the first
            table = np.repeat(table[None], cells[0], axis=0)
            said.append("all slices start with the same positions")
        if table.shape[:-1] != tuple(cells) and len(cells) == table.ndim - 1:
            said.append(f"positions resampled from {_by(table.shape[:-1])} to {_by(cells)} patches")
            table = adapt.resized(table, tuple(cells))
        return {**former, "positions": table}, said


def adaptations(text: str) -> frozenset[str]:
    """What ``config.init_adapt`` allows: words of ``ADAPTATIONS``, joined by +.

    Raises:
        InputError: another word.
    """
    words = frozenset(text.split("+")) if text else frozenset()
    for word in sorted(words - set(ADAPTATIONS)):
        raise InputError(
            unknown_key(word, list(ADAPTATIONS)).replace("a key of this config", "an init_adapt")
        )
    return words


def start_from(run: str, data: Recipe, model: ModelConfig, allowed: frozenset[str] = frozenset()) -> Former:
    """Opens the run that ``config.init_from`` names and holds its recipe against the data.

    Args:
        run: folder of the former run.
        data: recipe of the dataset to train on.
        model: the new model.
        allowed: as ``adaptations`` gives it.

    Raises:
        InputError: no such run, or what its encoder was fed differs from the data; both sides are named, and what
            ``config.init_adapt`` could do about it.
    """
    path = Path(run)
    params = load(path)["encoder"]
    recipe = Recipe.from_json(path / "recipe.json")
    wanted = dataclasses.replace(data, patch_size=model.patch_size or None)
    differences = _allowing(recipe, wanted, allowed).differences(wanted)
    if differences:
        raise InputError(
            f"config.init_from {path} does not fit this dataset and model: {'; '.join(differences)} "
            f"(here: that run, there: what it would be fed){_hint(recipe, wanted, allowed)}"
        )
    _same_without_parameters(path, recipe, model)
    cells = tuple(s // p for s, p in zip(recipe.size, recipe.patch_size)) if recipe.patch_size else ()
    if len(recipe.size) == len(wanted.size) and (recipe.channels, recipe.patch_size) == (
        wanted.channels,
        wanted.patch_size,
    ):
        return Former(path, recipe, params, cells)
    if "patches" not in params:
        raise InputError(
            f"config.init_adapt {'+'.join(sorted(allowed))!r}: the encoder of {path} has no patches to adapt"
        )
    recipe, embedding, said = _embedding(recipe, wanted, params["patches"])
    return Former(path, recipe, {**params, "patches": embedding}, cells, said)


def _embedding(recipe: Recipe, wanted: Recipe, patches: dict) -> tuple[Recipe, dict, tuple[str, ...]]:
    """The embedding of patches for what is ``wanted``, the recipe of its channels, and what was done."""
    old, new, said = recipe.patch_size, wanted.patch_size, []
    kernel, bias = (np.asarray(patches[name]) for name in ("kernel", "bias"))
    kernel = kernel.reshape(*old, recipe.channels, -1)
    if recipe.channels != wanted.channels:
        kernel, bias, mean, std = adapt.other_channels(kernel, bias, recipe.mean, recipe.std, wanted.channels)
        recipe = dataclasses.replace(recipe, channels=wanted.channels, mean=mean, std=std)
        said.append(
            f"each of its {len(patches['kernel']) // math.prod(old)} channels sees the mean of {wanted.channels}"
        )
    if len(old) < len(new):
        kernel, old = adapt.inflated(kernel, new[0]), (new[0], *old)
        said.append(f"2D patches inflated to {_by(old)}, which embed the mean of {new[0]} slices")
    if old != new:
        kernel = adapt.another_patch(kernel, new)
        said.append(f"patches of {_by(new)} resampled to {_by(old)}, the mean preserved")
    return recipe, {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": bias}, tuple(said)


def _allowing(recipe: Recipe, wanted: Recipe, allowed: frozenset[str]) -> Recipe:
    """``recipe`` without the differences from ``wanted`` that are allowed."""
    both = recipe.patch_size and wanted.patch_size
    if "inflate" in allowed and both and (len(recipe.size), len(wanted.size)) == (2, 3):
        patch = (wanted.patch_size[0], *recipe.patch_size)
        recipe = dataclasses.replace(recipe, size=(1, *recipe.size), patch_size=patch)
    if "channels" in allowed and both:
        recipe = dataclasses.replace(recipe, channels=wanted.channels)
    if "patch" in allowed and both and len(recipe.patch_size) == len(wanted.patch_size):
        recipe = dataclasses.replace(recipe, patch_size=wanted.patch_size)
    return recipe


def _hint(recipe: Recipe, wanted: Recipe, allowed: frozenset[str]) -> str:
    """What to allow, where that is all there is to it."""
    asked = allowed
    for word in ADAPTATIONS:
        fewer = len(_allowing(recipe, wanted, asked | {word}).differences(wanted))
        if fewer < len(_allowing(recipe, wanted, asked).differences(wanted)):
            asked = asked | {word}
    if _allowing(recipe, wanted, asked).differences(wanted):
        return ""
    return f"; config.init_adapt={'+'.join(w for w in ADAPTATIONS if w in asked)} adapts its weights"


def _same_without_parameters(run: Path, recipe: Recipe, model: ModelConfig) -> None:
    """InputError where the models differ in what no parameter tells."""
    if recipe.model is None:
        return
    former = build(ModelConfig, recipe.model, f"{run / 'recipe.json'}: model")
    for name in ("positions", "epsilon"):
        theirs, ours = getattr(former, name), getattr(model, name)
        if theirs != ours and (theirs, ours) != ("sincos", "learned"):
            raise InputError(
                f"config.model.{name} is {ours!r}, but the encoder of config.init_from {run} was trained with "
                f"{theirs!r}; set it to that"
            )


def _by(sizes) -> str:
    return "x".join(map(str, sizes))


def _leaves(tree: Any) -> dict[str, Any]:
    return {
        "/".join(str(entry.key) for entry in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
