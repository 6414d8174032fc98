"""From ``config.objective`` to the three functions, by name."""

import difflib
from typing import Any

from vitmed.config import build as build_section
from vitmed.errors import InputError
from vitmed.models.build import ModelConfig
from vitmed.models.transformer import Remat
from vitmed.objectives import (
    ijepa,
    mae,
    segmentation,
    self_distil,
    semi_masked,
    semi_teacher,
    semi_teacher_masks,
    simmim,
    supervised,
)
from vitmed.objectives.interface import Objective, Spec

OBJECTIVES = {
    "mae": mae,
    "simmim": simmim,
    "ijepa": ijepa,
    "self_distil": self_distil,
    "supervised": supervised,
    "semi_masked": semi_masked,
    "semi_teacher": semi_teacher,
}
# Objectives that are another one where a mask is learned, a class a voxel.
OF_MASKS = {"supervised": segmentation, "semi_teacher": semi_teacher_masks}


def section(values: dict) -> Any:
    """The checked ``config.objective`` section of the objective it names.

    Raises:
        InputError: no such objective, or a key that this objective does not have.
    """
    name = values.get("name")
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(str(name), OBJECTIVES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(OBJECTIVES)}"
        raise InputError(f"config.objective.name is {name!r}; {hint}")
    return build_section(_module(name, values.get("task")).Config, values, "config.objective")


def build(config: Any, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective of a checked section, for images of ``spec``."""
    return _module(config.name, config.task).build(config, model, spec, remat)


def _module(name: str, task: str | None) -> Any:
    """The file that holds the objective of this name for this task."""
    return (OF_MASKS if task == "segmentation" and name in OF_MASKS else OBJECTIVES)[name]
