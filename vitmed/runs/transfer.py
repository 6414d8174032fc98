"""Starting from another run's encoder: its recipe must fit the data, its parameters the model.

What the encoder can do without a wish is to see another size or spacing: its positions go by the grid
(``vitmed.runs.places``). What changes how its input is embedded, or where it lies, needs one, ``config.init_adapt``
(``vitmed.models.adapt``). Each is said aloud.
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import get_args

import jax
import numpy as np

from vitmed.config import build, unknown_key
from vitmed.errors import InputError
from vitmed.models import adapt
from vitmed.models.build import ModelConfig
from vitmed.models.resnet import BLOCKS, SMALL, Stem, stem_resolution
from vitmed.models.transformer import stacked, unrolled
from vitmed.parallel.rules import leaves
from vitmed.runs import load, places
from vitmed.runs.places import by
from vitmed.scans.recipe import Recipe

# "inflate": 2D weights for 3D; "channels": for another number of them; "patch": for patches of another size;
# "millimetres": for another spacing, at which positions keep what they measure.
ADAPTATIONS = ("inflate", "channels", "patch", "millimetres")


@dataclasses.dataclass(frozen=True)
class Former:
    """A run to start from.

    Attributes:
        run: its folder.
        recipe: how its input was prepared; the new run prepares its own in the same way.
        params: its encoder's parameters, as NumPy, the embedding adapted.
        decoder: those of what makes masks, or voxels, of the encoder's features; {} where it has none.
        reconstruction: those of MAE's decoder, which makes hidden patches of tokens; {} where it has none.
        cells: the grid that it was trained on.
        said: what was adapted.
        scale: its ``config.model.position_scale``.
        extent: how many times as long as its own an image is here, by axis of ``cells``, in what places are kept in.
    """

    run: Path
    recipe: Recipe
    params: dict
    decoder: dict = dataclasses.field(default_factory=dict)
    reconstruction: dict = dataclasses.field(default_factory=dict)
    cells: tuple[int, ...] = ()
    said: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    extent: tuple[float, ...] = ()

    def segmenter(self, fresh: dict, same_structures: bool) -> dict:
        """``fresh`` as the former run left it; as it is where that has none of this shape, which is said.

        The scores are of a run's own structures: they stay fresh but for ``same_structures``.
        """
        if not self.decoder:
            return fresh
        if same_structures:
            return self._continued(fresh, self.decoder, "its decoder comes along, scores and all")
        expansion = {**self.decoder["expansion"], "scores": fresh["expansion"]["scores"]}
        former = {**self.decoder, "expansion": expansion}
        return self._continued(fresh, former, "its decoder comes along, but for the scores")

    def reconstructor(self, fresh: dict) -> dict:
        """The same of MAE's decoder: what is masked beside labels, or further on, goes on to be filled in."""
        if not self.reconstruction:
            return fresh
        return self._continued(fresh, self.reconstruction, "its decoder of hidden patches comes along")

    def _continued(self, fresh: dict, former: dict, said: str) -> dict:
        here, there = ({name: np.shape(x) for name, x in leaves(side).items()} for side in (fresh, former))
        differing = next((name for name in {**here, **there} if here.get(name) != there.get(name)), None)
        if differing:
            shapes = [side.get(differing, "absent") for side in (here, there)]
            said = (
                f"its decoder is of another shape ({differing} is {shapes[0]} here and {shapes[1]} there), so this run's "
                "starts fresh"
            )
        print(f"init_from {self.run}: {said}", file=sys.stderr, flush=True)
        return fresh if differing else jax.tree.map(np.asarray, former)

    def encoder(self, fresh: dict) -> dict:
        """The former encoder in the form of ``fresh``: layers stacked or not as there, positions of its grid.

        Says on standard error what was adapted.

        Raises:
            InputError: another architecture; the first parameter that differs is named.
        """
        former, said = self.fitted(fresh)
        if said:
            print(f"init_from {self.run}: {'; '.join(said)}", file=sys.stderr, flush=True)
        return jax.tree.map(np.asarray, former)

    def fitted(self, fresh: dict) -> tuple[dict, tuple[str, ...]]:
        """The same without a word, of ``fresh`` the shapes alone; and what there is to say of it.

        Raises:
            InputError: as ``encoder``.
        """
        former = stacked(self.params) if "blocks" in fresh.get("transformer", {}) else unrolled(self.params)
        former, said = places.placed(former, fresh, self.cells, self.scale, self.extent)
        here, there = leaves(fresh), leaves(former)
        for name in [*here, *(n for n in there if n not in here)]:
            mine, its = (np.shape(side[name]) if name in side else None for side in (here, there))
            if mine != its:
                shown = [f"shape {shape}" if shape is not None else "absent" for shape in (mine, its)]
                raise InputError(
                    f"config.init_from: the encoder of {self.run} is of another architecture; {name} is "
                    f"{shown[0]} in config.model and {shown[1]} there"
                )
        return former, (*self.said, *said)


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
    learned = load(path)
    return begun(path, Recipe.from_json(path / "recipe.json"), learned, data, model, allowed)


def begun(
    path: Path,
    recipe: Recipe,
    learned: dict,
    data: Recipe,
    model: ModelConfig,
    allowed: frozenset[str] = frozenset(),
) -> Former:
    """``start_from`` of a run that need not be there.

    Args:
        path: its folder.
        recipe: its own.
        learned: its parameters, as ``load`` gives them: nothing but the patches' embedding is computed with.

    Raises:
        InputError: as ``start_from``, but for the run itself.
    """
    params, decoder = learned["encoder"], learned.get("segmenter", {})
    pixels = learned.get("decoder", {})
    wanted = dataclasses.replace(data, patch_size=model.patch_size or None)
    differences = _allowing(recipe, wanted, allowed).differences(wanted)
    if differences:
        raise InputError(
            f"config.init_from {path} does not fit this dataset and model: {'; '.join(differences)} "
            f"(here: that run, there: what it would be fed){_hint(recipe, wanted, allowed, model)}"
        )
    if (former := _model_of(path, recipe)) is not None:
        _same_without_parameters(path, former, model)
        if former.variant in BLOCKS and model.variant in BLOCKS:
            _same_stem(path, stem_resolution(former.stem, recipe.size), model.stem, wanted.size)
    millimetres = "millimetres" in allowed
    if not (recipe.patch_size and wanted.patch_size):
        if millimetres:
            raise InputError(
                f"config.init_adapt has 'millimetres', but {path} and config.model.variant {model.variant!r} do not "
                "both have patches, whose places could be kept; leave it out"
            )
        return Former(path, recipe, params, decoder, pixels)
    places.check(path, recipe, wanted, former, model, millimetres)
    made = Former(
        path,
        recipe,
        params,
        decoder,
        pixels,
        cells=tuple(s // p for s, p in zip(recipe.size, recipe.patch_size)),
        said=places.told(recipe, wanted, model.positions, millimetres),
        scale=former.position_scale if former else (),
        extent=places.longer(recipe, wanted, "learned") if millimetres else (1.0,) * len(recipe.size),
    )
    if (recipe.channels, recipe.patch_size) == (wanted.channels, wanted.patch_size):
        return made
    recipe, embedding, said = _embedding(recipe, wanted, params["patches"])
    return dataclasses.replace(
        made, recipe=recipe, params={**params, "patches": embedding}, said=(*said, *made.said)
    )


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
        said.append(f"2D patches inflated to {by(old)}, which embed the mean of {new[0]} slices")
    if old != new:
        kernel = adapt.another_patch(kernel, new)
        said.append(
            f"patches of {by(old)} there, of {by(new)} here: each is seen as resampled to {by(old)}, the mean preserved"
        )
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


def _hint(recipe: Recipe, wanted: Recipe, allowed: frozenset[str], model: ModelConfig) -> str:
    """What to allow, or which window to take, where that is all there is to it."""
    window = ""
    if recipe.unit == wanted.unit and recipe.window != wanted.window:
        low, high = recipe.window
        window = f"; config.data.window=({low:g},{high:g}) is that run's"
        wanted = wanted.through(recipe.window)
    asked = allowed
    for word in ADAPTATIONS:
        fewer = len(_allowing(recipe, wanted, asked | {word}).differences(wanted))
        if fewer < len(_allowing(recipe, wanted, asked).differences(wanted)):
            asked = asked | {word}
    if _allowing(recipe, wanted, asked).differences(wanted):
        return ""
    if asked == allowed:
        return window
    words = "+".join(w for w in ADAPTATIONS if w in asked)
    sliced = "inflate" in asked and model.positions != "learned" and not model.learned_slices
    also = " with config.model.learned_slices=True" if sliced else ""
    patch = ""
    if "patch" in asked - allowed and len(recipe.patch_size) == len(wanted.patch_size):
        patch = f"config.model.patch_size={','.join(map(str, recipe.patch_size))} is that run's, or "
    return f"{window}; {patch}config.init_adapt={words}{also} adapts its weights"


def _model_of(run: Path, recipe: Recipe) -> ModelConfig | None:
    return recipe.model and build(ModelConfig, recipe.model, f"{run / 'recipe.json'}: model")


def _same_without_parameters(run: Path, former: ModelConfig, model: ModelConfig) -> None:
    """InputError where the models differ in what no parameter tells, beside places (``vitmed.runs.places``)."""
    starts = model.positions == "learned" and former.positions == "sincos" and not former.learned_slices
    for name in ("positions", "epsilon"):
        theirs, ours = getattr(former, name), getattr(model, name)
        if theirs != ours and not (name == "positions" and starts):
            raise InputError(
                f"config.model.{name} is {ours!r}, but the encoder of config.init_from {run} was trained with "
                f"{theirs!r}; set it to that"
            )


def _same_stem(run: Path, theirs: str, stem: Stem, size: tuple[int, ...]) -> None:
    """InputError where a ResNet's stem keeps another part of the resolution of images than that of the run, ``theirs``."""
    ours = stem_resolution(stem, size)
    if ours == theirs:
        return
    like = [repr(one) for one in get_args(Stem) if stem_resolution(one, size) == theirs]
    remedy = f"set it to {' or '.join(like)}" if like else f"give scans of at least {SMALL} a side"
    raise InputError(
        f"config.model.stem is {stem!r}, which keeps {ours} resolution at {by(size)}, but the encoder of config.init_from "
        f"{run} was trained with a stem that keeps {theirs} resolution; {remedy}"
    )
