"""What is tried, by which labels, and that no other is read."""

import json

import numpy as np
import pytest

from vitmed import durable
from vitmed.errors import InputError
from vitmed.runs.direction import lower_is_better
from vitmed.study import tune
from vitmed.study.plan import plan
from vitmed.study.study import do
from vitmed.study.tune import LeftOut


@pytest.fixture
def work():
    from made_up_work import WORK

    return WORK


@pytest.fixture
def tuned(config):
    """Two rates for every arm, of which 0.1 is the worse."""

    def make(by, **changes):
        config.tune = {"by": by, "folds": 2}
        for arm in config.arms.values():
            arm.grid = {"optim": {"lr": (0.1, 0.5)}}
        config.study.update({"budgets": (0.1,), "draws": 2, **changes})
        with config.arms.scratch.ignore_type():
            config.arms.scratch.steps = None
        return config

    return make


@pytest.mark.parametrize("by", ["val", "budget"])
def test_nothing_is_chosen_by_nothing(by, tuned, work, tmp_path, monkeypatch):
    """Otherwise labels of a single class choose the first setting without a word."""
    planned = plan(tuned(by), tmp_path / "study")
    cell = planned.cell("pretrained", 0.1, 1)
    judge = "_within_budget" if cell.parts else "_on_validation"
    monkeypatch.setattr(tune, judge, lambda *_: ([None, None], [0.5, 0.5]))
    with pytest.raises(InputError, match="pretrained-0.1-1: no setting has a value of auroc"):
        do(cell, "auroc", "last", work)
    assert not cell.tuning.exists()


def test_the_best_on_validation_is_the_run(tuned, work, tmp_path):
    """Otherwise the trial that was chosen is not what is tested, or is trained once more for nothing."""
    planned = plan(tuned("val"), tmp_path / "study")
    cell = planned.cell("pretrained", 0.1, 1)
    do(cell, "auroc", "last", work)
    told = tune.told(cell)
    assert told["chosen"] == 1 and [t["changes"] for t in told["trials"]] == [
        {"optim.lr": 0.1},
        {"optim.lr": 0.5},
    ]
    assert told["trials"][0]["value"] < told["trials"][1]["value"] and told["threshold"] is None
    assert json.loads((cell.run / "config.used").read_text())["optim"]["lr"] == 0.5
    calls = (cell.run / "calls").read_text()
    assert calls.count("evaluate val") == 1 and calls.count("evaluate test") == 1
    other = (cell.trying / "0" / "calls").read_text()
    assert "evaluate val" in other and "evaluate test" not in other, (
        "a trial that lost has seen the test split"
    )
    do(cell, "auroc", "last", work)
    assert (cell.run / "calls").read_text().count("evaluate") == 2, "what was evaluated is opened again"


def test_within_the_budget_only_left_out_parts_are_judged(tuned, work, tmp_path):
    """Otherwise tuning reads labels that the budget did not pay for."""
    planned = plan(tuned("budget"), tmp_path / "study")
    cell = planned.cell("scratch", 0.1, 0)
    do(cell, "auroc", "last", work)
    used = {f.parent.name: json.loads(f.read_text()) for f in cell.trying.glob("*/config.used")}
    assert {name: (c["optim"]["lr"], c["data"]["fold"]) for name, c in used.items()} == {
        f"{t}-{k}": (lr, [k, 2]) for t, lr in enumerate((0.1, 0.5)) for k in (0, 1)
    }
    calls = "".join(f.read_text() for f in cell.trying.glob("*/calls"))
    assert "evaluate" not in calls, "no split is opened to choose within the budget"
    assert (
        tune.told(cell)["chosen"] == 1
        and "fold" not in json.loads((cell.run / "config.used").read_text())["data"]
    )


def test_an_interrupted_choice_goes_on(tuned, work, tmp_path):
    """Otherwise a study that was stopped tries all anew, or chooses among the half of it."""
    planned = plan(tuned("budget"), tmp_path / "study")
    cell = planned.cell("resnet", 0.1, 0)
    do(cell, "auroc", "last", work)
    before = {f: f.read_text() for f in cell.trying.glob("*/calls")}
    assert tune.choose(cell, "auroc", "last", work) == cell.trials[1].config
    assert before == {f: f.read_text() for f in cell.trying.glob("*/calls")}


def test_thresholds_come_from_the_left_out_scans():
    """Otherwise balanced accuracy is judged at a threshold that validation labels paid for."""
    label = np.array([[0.0], [0.0], [1.0], [1.0]])
    parts = [
        LeftOut("multiclass", ["a", "b"], np.stack([1 - yes, yes], 1), label, np.ones_like(label))
        for yes in (np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.22, 0.26, 0.4]))
    ]
    assert tune.threshold_of(parts) == {"b": pytest.approx(0.24)}
    assert tune.value_of("auroc", parts[0]) == 1.0
    one = parts[0]._replace(label=np.ones_like(label))
    assert tune.threshold_of([one]) == {"b": 0.5} and tune.value_of("auroc", one) is None


def test_trials_are_judged_in_ranks():
    """Otherwise a study of grades cannot be tuned by errors in ranks, or takes the worst setting for the best."""
    label, score = np.array([[0], [1], [2]]), np.eye(3)[[0, 2, 1]]  # ranks 1, 0, 2 and said 1, 2, 0
    found = LeftOut("multiclass", list("abc"), score, label, np.ones_like(label), (1, 0, 2))
    assert tune.value_of("rank_mae", found) == pytest.approx(4 / 3)
    assert tune.value_of("rank_mae", found._replace(order=())) is None
    assert lower_is_better("rank_mae") and not lower_is_better("quadratic_kappa")


@pytest.mark.parametrize(
    ("by", "threshold", "labels", "said"),
    [
        (
            "budget",
            "budget",
            0,
            "No cell used a label beyond its budget: thresholds were cross-validated within it.",
        ),
        (
            "budget",
            "val",
            40,
            "40 labels of the validation split, which count: for the threshold of balanced accuracy.",
        ),
        ("val", "half", 40, "40 labels of the validation split, which count: for the choice of settings."),
    ],
)
def test_what_validation_decided_counts(tuned, tmp_path, by, threshold, labels, said):
    """Otherwise ten labels are ten labels and the hundreds that chose the rate and the threshold."""
    config = tuned(by, threshold=threshold, arms=("pretrained", "scratch"))
    from made_up_work import run

    planned = plan(config, tmp_path / "study")
    result = run(planned)
    assert {row["labels_validation"] for row in result["rows"]} == {labels}
    assert {row["tried"] for row in result["rows"]} == {2}
    text = (tmp_path / "study" / "table.md").read_text()
    assert said in text and "Every arm tried 2 settings in every cell" in text
    made = durable.read_json(tmp_path / "study" / "table.json")
    assert all(cell["settings"] == "optim.lr=0.5" for cell in made["cells"])
    if threshold == "budget":
        cell = planned.cell("pretrained", 0.1, 0)
        assert tune.told(cell)["threshold"]["yes"] == pytest.approx(0.25, abs=0.03)
        scored = next(c for c in made["cells"] if c["run"].endswith("pretrained-0.1-0"))["metrics"]
        given = durable.read_json(cell.run / "evaluations" / "test" / "metrics.json")["metrics"]
        assert scored["balanced_accuracy"] < given["balanced_accuracy"]["value"], "it was chosen elsewhere"


def test_a_real_cell_takes_its_threshold_from_within_its_labels(tiny_dataset, tmp_path):
    """Otherwise all of this holds for made-up runs alone."""
    from vitmed import config as configs
    from vitmed.data import budget
    from vitmed.data.dataset import Dataset
    from vitmed.study.study import Work

    spec = "configs/study/label_efficiency.py:tiny"
    keys = {"data.path": str(tiny_dataset), "study.arms": "('scratch', 'resnet')", "study.compare": "()"}
    config = configs.load(spec, keys)
    for arm in config.arms.values():
        arm.grid.optim.lr = (1e-3,)
    cell = plan(config, tmp_path / "study").cell("scratch", 1.0, 0)
    result = do(cell, "auroc", "last", Work())
    told = tune.told(cell)
    assert 0 < told["threshold"]["lesion"] < 1 and 0 <= told["trials"][0]["value"] <= 1
    assert result["split"] == "test" and (cell.run / "evaluations" / "val" / "metrics.json").exists()
    dataset = Dataset.open(tiny_dataset)
    everything = budget.labelled(dataset, "train", 1.0, 0)
    judged = [tune.left_out(cell.trying / f"0-{k}", "last") for k in (0, 1)]
    assert sum(len(one.score) for one in judged) == len(everything), "each labelled scan is left out once"
