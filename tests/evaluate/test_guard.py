"""The guard: who is kept, what it may see, and what it says."""

from pathlib import Path

import numpy as np
import pytest

from vitmed import config as configs
from vitmed.data import budget, loader
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.evaluate import guard
from vitmed.infer import truth
from vitmed.job.config import check
from vitmed.job.feeds import feeds_of, held_out
from vitmed.parallel.engine import engine

PROJECT = Path(__file__).resolve().parents[2]


def asked(dataset, name="semi_teacher", **keys):
    keys = {"data.path": dataset, "data.labels": 16, "guard.folds": 2, "train.batch_size": 8, **keys}
    spec = str(PROJECT / "configs" / f"{name}.py:tiny")
    return configs.load(spec, {key: str(value) for key, value in keys.items()})


def budgeted(dataset):
    """How many scans a budget of 16 labels: whole patients, so perhaps a scan less."""
    return len(budget.labelled(Dataset.open(dataset), "train", 16, 0))


@pytest.fixture
def judged(monkeypatch):
    """Makes ``choose`` with runs that are not trained: each arm's scores are right so often as given."""

    def make(values, run, right):
        trained = []

        class Fake:
            gives_masks = values.objective.get("task") == "segmentation"
            structures = ["1", "2"]

            def __init__(self, arm):
                self.arm = arm

            def segment(self, dataset, split, part):
                """Of ten voxels so many are told rightly."""
                for index in part.tolist():
                    true = truth(dataset, split, index)
                    miss = np.arange(true.size).reshape(true.shape) % 10 >= 10 * right[self.arm]
                    yield index, np.where(miss, 0, true)

            def logits(self, dataset, split, part):
                label = dataset.labels(split)[0][part, 0]
                miss = np.arange(len(part)) % 10 >= 10 * right[self.arm]
                return np.stack([np.zeros(len(part)), np.where(miss, 1 - label, label) - 0.5], 1)

        def train(own, folder):
            folder.mkdir(parents=True, exist_ok=True)
            trained.append((folder.name, own))
            return {"step": check(own).train.total(1)}

        monkeypatch.setattr(guard.Model, "open", lambda folder: Fake(folder.name.rsplit("-", 1)[0]))
        chosen = guard.choose(values, check(values), run, train, quiet=True)
        return chosen, trained

    return make


@pytest.mark.parametrize(
    "right, kept",
    [((0.9, 0.5), "semi_teacher"), ((0.5, 0.9), "supervised"), ((0.7, 0.7), "supervised")],
)
def test_the_better_is_kept_and_a_tie_is_for_the_supervised(tiny_dataset, tmp_path, judged, right, kept):
    # What is left out judges the arms, whatever the run itself keeps its best by.
    values = asked(tiny_dataset, **{"train.val_every": 1, "checkpoint.best": "val/loss"})
    chosen, trained = judged(values, tmp_path / "run", dict(zip(("semi_teacher", "supervised"), right)))
    assert chosen.objective.name == kept and chosen.guard.folds == 0
    assert check(chosen).data.fold == (), "the run itself learns from the whole budget"
    told = guard.told(tmp_path / "run")
    assert (told["asked"], told["chosen"], told["labels"]) == ("semi_teacher", kept, budgeted(tiny_dataset))
    assert told["extra_steps"] == 4 * values.train.steps and len(trained) == 4
    said = guard.sentence(told)
    assert ("was not better" in said) == (kept == "supervised") and "labelled scans" in said
    assert f"within the {budgeted(tiny_dataset)} labelled" in said


def test_a_fold_has_as_many_steps_as_the_run_whatever_it_holds(tiny_dataset, tmp_path, judged):
    """Else both are judged by shorter trainings than the one that is chosen for, and the cost told is not the cost."""
    values = asked(tiny_dataset, **{"train.epochs": 6.0, "train.steps": None})
    steps = check(values).train.total(budgeted(tiny_dataset))
    assert steps > check(values).train.total(budgeted(tiny_dataset) // 2), "the case tests nothing"
    right = {"semi_teacher": 0.9, "supervised": 0.5}
    chosen, trained = judged(values, tmp_path / "run", right)
    assert [check(own).train.total(1) for _, own in trained] == [steps] * 4
    assert guard.told(tmp_path / "run")["extra_steps"] == 4 * steps
    assert chosen.train.epochs == 6 and chosen.train.steps is None

    # A fold that an older guard began by epochs goes on by them.
    old = tmp_path / "old" / "guard" / "supervised-1"
    old.mkdir(parents=True)
    (old / "config.json").write_text(configs.to_json(values))
    _, trained = judged(values, tmp_path / "old", right)
    assert {name: check(own).train.epochs for name, own in trained if check(own).train.epochs} == {
        "supervised-1": 6
    }


@pytest.mark.parametrize("unlabelled", ["", "split"])
def test_no_stream_of_a_fold_has_what_it_is_judged_by(tiny_dataset, tmp_path, judged, unlabelled):
    """Nor does any other label reach either arm: whatever they are, the batches are the same."""
    values = asked(tiny_dataset, **{"data.unlabelled": unlabelled})
    right = {"semi_teacher": 0.9, "supervised": 0.5}
    _, trained = judged(values, tmp_path / "run", right)
    judged_by = set()
    for _, own in trained:
        config = check(own)
        dataset = Dataset.open(config.data.path)
        held = set(held_out(dataset, config, np.array([])).tolist())
        feeds = feeds_of(dataset, config, engine(config.parallel, config.train.batch_size))
        main = set(feeds["main"].parts[0].members.tolist())
        assert held and len(main | held) == budgeted(tiny_dataset) and not main & held
        assert ("unlabelled" in feeds) == (config.objective.name == "semi_teacher")
        for part in feeds["unlabelled"].parts if "unlabelled" in feeds else ():
            assert not held & set(part.members.tolist())
            (batch,) = loader.streams(feeds, 0, 1)
            assert batch["unlabelled"]["label"].shape[1] == 0
        judged_by |= held
    assert len(judged_by) == budgeted(tiny_dataset)


def test_the_supervised_arm_is_the_same_run_without_the_second_stream(tiny_dataset):
    values = asked(tiny_dataset, **{"data.unlabelled_batch": 16, "objective.label_smoothing": 0.2})
    plain = check(guard.plain(values, check(values)))
    semi = check(values)
    assert plain.objective.name == "supervised" and plain.objective.label_smoothing == 0.2
    assert plain.data.unlabelled_batch is None and plain.optim.ema == semi.objective.momentum
    assert (plain.train, plain.augment, plain.model) == (semi.train, semi.augment, semi.model)


def test_of_masks_the_better_dice_is_kept(marked_dataset, tmp_path, judged):
    """Otherwise semi_teacher has a guard for classes alone, or it reads masks beyond the budget."""
    keys = {"objective.name": "semi_teacher", "optim.ema": 0, "data.labels": 8, "guard": {"folds": 2}}
    values = configs.load(str(PROJECT / "configs" / "finetune_segment.py:tiny"))
    with values.ignore_type(), values.unlocked():
        values.update_from_flattened_dict({"data.path": str(marked_dataset), "model.patch_size": (4, 4)})
        for key, value in keys.items():
            section, _, name = key.partition(".")
            values[section] = {**values.get(section, {}), **({name: value} if name else value)}
    for right, kept in (((0.9, 0.5), "semi_teacher"), ((0.7, 0.7), "supervised")):
        run = tmp_path / kept
        chosen, trained = judged(values, run, dict(zip(("semi_teacher", "supervised"), right)))
        told = guard.told(run)
        assert (chosen.objective.name, chosen.objective.task) == (kept, "segmentation")
        assert told["metric"] == "dice" and told["labels"] == 8 and "Dice" in guard.sentence(told)
        assert len(trained) == 4
        for _, own in trained:
            config, dataset = check(own), Dataset.open(marked_dataset)
            assert len(held_out(dataset, config, np.array([]))) in (3, 4, 5), (
                "a fold leaves out its part of the masks"
            )
    assert told["mean"]["supervised"] == told["mean"]["semi_teacher"] < 1


def test_quality_of_each_task():
    label = np.array([[0.0], [1.0], [2.0], [1.0]])
    logits = np.eye(3)[[0, 1, 2, 1]]
    assert guard.quality("multiclass", logits, label, np.ones((4, 1))) == 1
    assert guard.quality("multiclass", logits[:, [1, 0, 2]], label, np.ones((4, 1))) < 0.5
    yes = np.array([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    known = np.ones((4, 2))
    assert guard.quality("multilabel", yes - 0.5, yes, known) == 1
    known[:, 1] = 0
    assert guard.quality("multilabel", (yes - 0.5) * [1, -1], yes, known) == 1, (
        "a label that is missing counts"
    )
    assert guard.quality("regression", yes + 3, yes, np.ones((4, 2))) == pytest.approx(-3)


def test_what_cannot_be_guarded_is_refused(tiny_dataset, tmp_path, judged):
    right = {"semi_teacher": 0.9, "supervised": 0.5}
    for keys, message in (
        (
            {"objective": {"name": "supervised"}},
            "config.guard.folds is 2, but 'supervised' is not semi-super",
        ),
        ({"guard.folds": 9}, f"9 folds of the {budgeted(tiny_dataset)} labelled scans"),
        ({"guard.folds": 1}, "config.guard.folds is 1; 2 or more"),
        ({"data.fold": (0, 2)}, "config.guard.folds is 2 and config.data.fold is set"),
        (
            {"data.mix": {"SAME": 1.0}, "data.labels": None},
            "config.guard.folds is 2 and config.data.mix is set",
        ),
        ({"data.labels": 1}, "too few to show 2 classes"),
    ):
        with pytest.raises(InputError, match=message):
            judged(asked(tiny_dataset, **keys), tmp_path / "run", right)
    assert not (tmp_path / "run").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="old is a run without a guard"):
        judged(asked(tiny_dataset), tmp_path / "old", right)
