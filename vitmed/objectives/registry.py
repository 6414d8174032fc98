"""From ``config.objective`` to the three functions, by name."""

import dataclasses
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

# A shipped config of each that has two forms, and whether it learns masks.
CONFIGS = {
    ("supervised", False): "configs/finetune_classify.py",
    ("supervised", True): "configs/finetune_segment.py",
    ("semi_teacher", False): "configs/semi_teacher.py",
    ("semi_teacher", True): "configs/semi_teacher_segment.py",
}


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
    task = values.get("task")
    _of_this_task(name, task, values)
    return build_section(_module(name, task).Config, values, "config.objective")


def _of_this_task(name: str, task: str | None, values: dict) -> None:
    """Refuses what an objective of masks alone knows where labels are learned, and the other way round, by that name."""
    if name not in OF_MASKS:
        return
    masks = task == "segmentation"
    for key in values.keys() & (
        _keys((OBJECTIVES if masks else OF_MASKS)[name]) - _keys(_module(name, task))
    ):
        raise InputError(
            f"config.objective.{key} is of learning {'labels' if masks else 'masks'}, but config.objective.task is {task!r}; "
            f"start from a config of that task, as {CONFIGS[name, masks]} is"
        )


def _keys(module: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(module.Config)}


def build(config: Any, model: ModelConfig, spec: Spec, remat: Remat = "none") -> Objective:
    """The objective of a checked section, for images of ``spec``."""
    return _module(config.name, config.task).build(config, model, spec, remat)


def _module(name: str, task: str | None) -> Any:
    """The file that holds the objective of this name for this task."""
    return (OF_MASKS if task == "segmentation" and name in OF_MASKS else OBJECTIVES)[name]
