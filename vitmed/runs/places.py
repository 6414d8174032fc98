"""What becomes of another run's positions: where its patches lay, and where they lie here.

Positions go by the grid: sine-cosine ones count patches, learned and rotary ones span the image, whatever either
measures. With "millimetres" among ``config.init_adapt`` a patch lies where one of the former run lay that was as many
millimetres away: from the first edge where patches are counted, else from the middle of the image. A learned table is
then read off there (and beyond its ends stays as it is at them), and what coordinates are multiplied by is a key of
the model, ``config.model.position_scale``, so that whoever opens the run builds the same one.
"""

from pathlib import Path

import numpy as np

from vitmed.errors import InputError
from vitmed.models import adapt
from vitmed.models.build import ModelConfig
from vitmed.models.positions import sincos
from vitmed.scans.recipe import Recipe

_SAME = 1e-3  # lengths that differ by less, relatively, are one, as in a datasheet
_BY_GRID = {"sincos": "count patches", "learned": "span the image", "rotary": "span the image"}


def check(
    run: Path,
    recipe: Recipe,
    wanted: Recipe,
    former: ModelConfig | None,
    model: ModelConfig,
    millimetres: bool,
) -> None:
    """InputError where ``model`` would place patches otherwise than the former one, in what no parameter tells.

    Args:
        run: folder of the former run.
        recipe, wanted: what it was fed, and what the new one is.
        former: its model, None where its recipe does not say.
        millimetres: whether places in millimetres are kept, rather than those on the grid.
    """
    inflates = len(recipe.size) < len(wanted.size)
    if inflates and model.positions != "learned" and not model.learned_slices:
        raise InputError(
            f"config.init_adapt=inflate: the {model.positions} positions of {run} place a patch within a slice; set "
            "config.model.learned_slices=True, by which a learned table that starts at zero tells slices apart"
        )
    if millimetres:
        for whose, spacing in ((run, recipe.spacing), ("this dataset", wanted.spacing)):
            if spacing is None:
                raise InputError(
                    f"config.init_adapt has 'millimetres', but the spacing of {whose} is not known; leave it out"
                )
    # A recipe that names no model is older than slices and scales, so it has neither.
    sliced, scale = (former.learned_slices, former.position_scale) if former else (False, ())
    _same(run, "learned_slices", model.learned_slices, sliced or model.learned_slices * inflates)
    if model.positions == "learned":
        return
    axes = len(recipe.size) - sliced
    scale = np.asarray(scale or (1.0,) * axes)
    if millimetres:
        scale = scale * longer(recipe, wanted, model.positions)[-axes:]
    ours = model.position_scale or (1.0,) * axes
    if not np.allclose(ours, scale, rtol=_SAME, atol=0):
        _same(run, "position_scale", ours, tuple(float(f"{x:.6g}") for x in scale))


def longer(recipe: Recipe, wanted: Recipe, positions: str) -> tuple[float, ...]:
    """How many times as many millimetres a patch (of "sincos") or else the image measures here as there, by axis."""
    axes = len(recipe.size)
    there, here = (
        np.multiply((one.patch_size if positions == "sincos" else one.size)[-axes:], one.spacing[-axes:])
        for one in (recipe, wanted)
    )
    return tuple(1.0 if abs(ratio - 1) < _SAME else float(ratio) for ratio in here / there)


def told(recipe: Recipe, wanted: Recipe, positions: str, millimetres: bool) -> tuple[str, ...]:
    """What to say of positions where size, patch or spacing are not the former run's."""
    axes, changed, unit = len(recipe.size), [], {"spacing": " mm"}
    for name in ("size", "patch_size", "spacing"):
        there, here = (getattr(one, name) and getattr(one, name)[-axes:] for one in (recipe, wanted))
        if there != here and not (there and here and np.allclose(there, here, rtol=_SAME, atol=0)):
            shown = [f"{by(side)}{unit.get(name, '')}" if side else "not known" for side in (there, here)]
            changed.append(f"{name} is {shown[1]} here and {shown[0]} there")
    if not changed:
        return ()
    if millimetres:
        how = f"{positions} positions keep their millimetres"
    else:
        how = f"{positions} positions {_BY_GRID[positions]}, whatever that measures"
        if recipe.spacing and wanted.spacing:
            how += " (config.init_adapt=millimetres keeps their millimetres)"
    return (f"{', '.join(changed)}: {how}",)


def placed(
    former: dict, fresh: dict, cells: tuple[int, ...], scale: tuple[float, ...], extent: tuple[float, ...]
) -> tuple[dict, list[str]]:
    """``former`` parameters of an encoder with the tables of positions that ``fresh`` has, and what was done to them.

    Args:
        cells: the grid that it was trained on.
        scale: that of its sine-cosine table, where it has that.
        extent: how many times as long the image is here, by axis of ``cells``, in what places are kept in.
    """
    said = []
    if "slices" in fresh:
        shape = np.shape(fresh["slices"])
        if "slices" in former:
            table = adapt.resized(former["slices"], shape[:1], extent[:1])
        else:
            table = np.zeros(shape, np.float32)
            said.append(
                "a learned table that starts at zero, and that a probe leaves there, tells slices apart; within one, "
                "positions are as in 2D"
            )
        former = {**former, "slices": table}
    if "positions" not in fresh:
        return former, said
    *grid, dim = np.shape(fresh["positions"])
    table = former.get("positions")
    if table is None:
        table = sincos(cells, dim, cls=False, scale=scale).reshape(*cells, dim)
        said.append("learned positions start as the sine-cosine table")
    if len(grid) == table.ndim:  # one axis more, the first
        table, extent = np.repeat(table[None], grid[0], axis=0), (1.0, *extent)
        said.append(
            "all slices start with the same positions, and keep them where the embedding is not trained"
        )
    if len(grid) == table.ndim - 1:
        if table.shape[:-1] != tuple(grid):
            said.append(f"positions resampled from {by(table.shape[:-1])} to {by(grid)} patches")
        table = adapt.resized(table, tuple(grid), extent)
    return {**former, "positions": table}, said


def by(sizes) -> str:
    """Numbers, one an axis, as they are read: 16x16."""
    return "x".join(f"{size:g}" for size in sizes)


def _same(run: Path, name: str, ours, theirs) -> None:
    if ours != theirs:
        raise InputError(
            f"config.model.{name} is {ours!r}, but the encoder of config.init_from {run} needs {theirs!r} here; "
            "set it to that"
        )
