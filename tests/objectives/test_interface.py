"""What an objective is told of its data: values that mean the same in the image that it is given."""

from pathlib import Path

import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.objectives import registry
from vitmed.objectives.interface import Spec
from vitmed.scans.recipe import Recipe, normalise


def test_the_window_is_in_the_normalised_images_own_values():
    """Else air is sought at another value than it has."""
    recipe = Recipe("ct", 2, (1, 2), None, "HU", (-1000.0, 1000.0), (-300.0, 40.0), (500.0, 250.0))
    sheet = {"task": "multilabel", "classes": ["a", "b"], "structures": {"face": [3, 4]}}
    spec = Spec.of(recipe, sheet, steps=7)
    image = np.array([[[-2000, -1000], [3000, 1000]]], np.int16)[None]  # beyond the window too
    made = normalise(image, np.ones((1, 2)), np.zeros((1, 2)), recipe)[0, 0]
    np.testing.assert_allclose(np.array(spec.window).T, made, rtol=1e-6)
    assert (spec.size, spec.channels, spec.task, spec.outputs, spec.steps) == ((1, 2), 2, "multilabel", 2, 7)
    assert spec.structures == (("face", (3, 4)),)
    assert Spec.of(recipe, {"task": None, "classes": None}).structures == ()


@pytest.mark.parametrize(
    "values,message",
    [
        (
            {"task": "segmentation", "head": "probe"},
            "objective.head is of learning labels.*finetune_segment.py",
        ),
        (
            {"task": "multiclass", "dice_weight": 1.0},
            "objective.dice_weight is of learning masks.*finetune_classify.py",
        ),
    ],
)
def test_a_key_of_the_other_task_leads_to_its_config(values, message):
    """Else a person who wants masks from a classifier's config is told of a key that nobody meant."""
    with pytest.raises(InputError, match=message):
        registry.section({"name": "supervised", **values})


def test_each_config_that_a_task_leads_to_is_shipped():
    assert all((Path(__file__).parents[2] / file).is_file() for file in registry.CONFIGS.values())
