import json
import shlex
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

import vitmed.runs
from vitmed.errors import InputError
from vitmed.runs import folder
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
from vitmed.scans.recipe import Recipe

RECIPE = Recipe(
    "ct", 1, (8, 8), (1.0, 1.0), "HU", (-1000.0, 1000.0), (0.0,), (1.0,), (4, 4), {"variant": "nano"}
)
SHEET = {"format": 1, "name": "small", "content_hash": "abc", "vitmed": "0.1.0"}


def config(**train):
    return ConfigDict(
        {
            "data": {"path": "d", "workers": 2, "boxes": ((1, 2), (3, 4))},
            "train": {"steps": 400, "lr": 1e-3} | train,
            "optim": {"ema": 0.0},
            "checkpoint": {"best": "val/loss"},
        }
    )


def test_a_run_can_be_read_by_itself(tmp_path):
    """Else a later stage does not know how its model was made and fed."""
    run = folder.create(tmp_path / "deep" / "run", config(), RECIPE, SHEET)
    assert folder.config_of(run).train.steps == 400
    assert folder.recipe_of(run) == RECIPE
    assert folder.datasheet_of(run) == SHEET
    assert {json.loads((run / f"{name}.json").read_text())["format"] for name in ("config", "recipe")} == {1}


def test_the_same_config_goes_on_and_every_start_is_noted(tmp_path):
    """Else a resumed run is refused, or nobody sees that half of it ran with other versions."""
    for _ in range(2):
        run = folder.create(tmp_path, config(), RECIPE, SHEET | {"vitmed": "9"})
    starts = json.loads((run / "environment.json").read_text())["starts"]
    assert len(starts) == 2
    assert starts[0]["packages"]["jax"] and starts[0]["devices"]["count"] >= 1
    assert starts[0]["command"] == shlex.join(sys.orig_argv)


def test_another_config_is_refused_key_by_key(tmp_path):
    """Else two experiments are mixed in one folder, or one must guess which key it was."""
    folder.create(tmp_path, config(), RECIPE, SHEET)
    with pytest.raises(InputError) as caught:
        folder.create(tmp_path, config(steps=500, seed=1), RECIPE, SHEET)
    assert "config.train.steps is 400 there and 500 here" in str(caught.value)
    assert "config.train.seed is absent there and 1 here" in str(caught.value)
    assert "train.lr" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_keys_that_cannot_change_the_result_may_change(tmp_path):
    """Else a run cannot move to a machine with fewer cores."""
    folder.create(tmp_path, config(), RECIPE, SHEET)
    other = config()
    other.data.workers = 8
    folder.create(tmp_path, other, RECIPE, SHEET)


def test_other_data_under_the_same_path_is_refused(tmp_path):
    """Else a run goes on with scans that it did not begin with."""
    folder.create(tmp_path, config(), RECIPE, SHEET)
    with pytest.raises(InputError, match="dataset's content_hash is 'abc' there and 'new' here"):
        folder.create(tmp_path, config(), RECIPE, SHEET | {"content_hash": "new"})


def test_other_examples_of_the_same_data_are_refused(tmp_path):
    """Else a second stream goes on with all of a split that began as the rest of it; an older run has no count yet."""

    def beside(count):
        counts = ({"stream": "main", "examples": 8}, {"stream": "unlabelled", "examples": count})
        return SHEET | {"beside": [{**stream, "content_hash": "abc", "weight": 1.0} for stream in counts]}

    folder.create(tmp_path / "new", config(), RECIPE, beside(30))
    folder.create(tmp_path / "new", config(), RECIPE, beside(30))
    with pytest.raises(
        InputError, match="other streams is .*'examples': 30.* there and .*'examples': 38.* here"
    ):
        folder.create(tmp_path / "new", config(), RECIPE, beside(38))
    older = beside(30)
    for stream in older["beside"]:
        del stream["examples"]
    folder.create(tmp_path / "old", config(), RECIPE, older)
    folder.create(tmp_path / "old", config(), RECIPE, beside(38))
    older["beside"][1]["content_hash"] = "another"
    with pytest.raises(InputError, match="other streams"):
        folder.create(tmp_path / "old", config(), RECIPE, older)


def test_places_that_are_no_run(tmp_path):
    """Else a run is written over a file or into a dataset, or the message does not say what is there."""
    (tmp_path / "file").write_text("")
    (tmp_path / "datasheet.json").write_text("{}")
    with pytest.raises(InputError, match="is a file"):
        folder.create(tmp_path / "file", config(), RECIPE, SHEET)
    with pytest.raises(InputError, match="is a dataset"):
        folder.create(tmp_path, config(), RECIPE, SHEET)
    with pytest.raises(InputError, match="is a dataset"):
        folder.locate(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        vitmed.runs.load(tmp_path / "nowhere")


def test_load_gives_numpy(tmp_path):
    """Else parameters need the training code, or a device, to be looked at."""
    run = folder.create(tmp_path, config(), RECIPE, SHEET)
    with pytest.raises(InputError, match="has no checkpoint yet"):
        vitmed.runs.load(run)
    with Checkpoints(run, CheckpointConfig()) as checkpoints:
        for step, loss in ((1, 0.5), (2, 0.7)):
            params = {"encoder": {"kernel": np.full((2, 3), step, np.float32)}}
            checkpoints.save(
                step, {"params": params, "opt_state": (params,), "step": step}, {"val/loss": loss}
            )
    last, best = vitmed.runs.load(str(run)), vitmed.runs.load(run, which="best")
    assert type(last["encoder"]["kernel"]) is np.ndarray and list(last) == ["encoder"]
    assert (last["encoder"]["kernel"] == 2).all() and (best["encoder"]["kernel"] == 1).all()


def test_the_source_commit_is_only_that_of_vitmed(tmp_path):
    """Else an installed vitmed is recorded under the commit of whatever repository lies around it."""
    assert folder._commit(tmp_path) is None
