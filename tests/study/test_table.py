"""The table says what the predictions say."""

import csv
import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vitmed import durable
from vitmed.errors import InputError
from vitmed.evaluate import predictions
from vitmed.report import page
from vitmed.study import files, table
from vitmed.study.plan import plan
from vitmed.study.study import study

COUNTS = {(0.1, 0, 0): 20, (0.1, 1, 0): 18, (1.0, 0, 0): 200, (1.0, 1, 0): 200}
FACTS = {"validation": 40, "probed": {}, "notes": []}


@pytest.fixture
def evaluated(config, tmp_path):
    """The plan with every cell evaluated."""
    import made_up_work

    planned = plan(config, tmp_path / "study")
    for cell in planned.cells:
        made_up_work.train(cell.config, cell.run)
        made_up_work.evaluate(cell.run, "test", "last")
    return planned


def test_means_and_differences_are_of_the_predictions(evaluated):
    """Otherwise the table reports something that no cell found."""
    made = table.make(evaluated, COUNTS, FACTS, quiet=True)

    def mean(arm):
        found = [
            predictions.read(evaluated.cell(arm, 0.1, d).run / "evaluations" / "test" / "predictions.csv")
            for d in (0, 1)
        ]
        return np.mean([roc_auc_score(p.label[:, 0], p.score[:, 1]) for p in found])

    row = next(r for r in made["rows"] if (r["arm"], r["budget"]) == ("scratch", 0.1))
    assert row["metrics"]["auroc"]["value"] == pytest.approx(mean("scratch"))
    assert row["metrics"]["auroc"]["low"] < mean("scratch") < row["metrics"]["auroc"]["high"]
    assert np.mean(row["metrics"]["auroc"]["per_draw"]) == pytest.approx(mean("scratch"))
    lead = next(
        c for c in made["comparisons"] if (c["arm"], c["budget"], c["metric"]) == ("scratch", 0.1, "auroc")
    )
    assert lead["difference"] == pytest.approx(mean("pretrained") - mean("scratch"))
    assert lead["real"] and lead["favours"] == "pretrained" and lead["low"] > 0
    assert row["labels"] == 19 and row["labels_per_draw"] == [20, 18]


def test_files_agree(evaluated):
    """Otherwise the CSV, the page and the text are three tables."""
    made = table.write(evaluated, COUNTS, FACTS, quiet=True)
    whole = durable.read_json(evaluated.workdir / "table.json")
    assert (evaluated.workdir / "table.csv").read_text() == files.csv_text(made["rows"])
    cells = (evaluated.workdir / "cells.csv").read_text().splitlines()
    header = "run,arm,budget,draw,fold,pretraining,settings,guard,labels,opened,auroc,balanced_accuracy"
    assert cells[0] == header and len(cells) == 13
    text = (evaluated.workdir / "table.md").read_text()
    assert all(c["sentence"] in text for c in whole["comparisons"] if c["metric"] == "auroc")
    assert text.count("| reference |") == 2
    assert len(whole["cells"]) == 12 and whole["dataset"]["simulated"] is True


def test_a_lower_error_is_better(config, tmp_path, evaluated):
    """Otherwise the arm with the larger calibration error wins."""
    config.study.metrics = ("ece",)
    made = table.make(plan(config, tmp_path / "study"), COUNTS, FACTS, quiet=True)
    assert made["higher_is_better"] == {"ece": False}
    for c in made["comparisons"]:
        assert c["favours"] in (None, "pretrained" if c["difference"] < 0 else c["arm"])


def test_labels_that_decided_nothing_are_not_said_to_be_unused(config, tmp_path, evaluated):
    """Otherwise the table denies the labels that a probe looked with while the pretraining went on."""
    config.study.threshold = "half"
    half = plan(config, tmp_path / "study")
    for probed, used in (({}, "used"), ({"config.pretrain": 500}, "decided anything by")):
        notes = table.make(half, COUNTS, FACTS | {"probed": probed}, quiet=True)["notes"]
        assert f"No cell {used} a label beyond its budget: thresholds are 0.5." in notes


def test_a_split_opened_twice_is_told(evaluated):
    """Otherwise a number that was chosen on the test split looks like one that was not."""
    assert any(
        "opened once in every cell" in n for n in table.make(evaluated, COUNTS, FACTS, quiet=True)["notes"]
    )
    file = evaluated.cells[3].run / "evaluations" / "test" / "metrics.json"
    durable.write_json(file, durable.read_json(file) | {"opened": 2})
    made = table.make(evaluated, COUNTS, FACTS, quiet=True)
    assert made["opened"] == 2 and any(evaluated.cells[3].name in n for n in made["notes"])


def test_a_note_of_one_cell_is_not_told_of_all(config, tmp_path):
    """Otherwise what the first arm missed in its first draw is read as what every arm missed."""
    from made_up_work import run

    config.data = {"path": str(tmp_path / "data-{fold}"), "folds": 3}
    with config.study.ignore_type():
        config.study.update({"folds": 2, "draws": 1, "arms": ("pretrained", "scratch")})
    planned = plan(config, tmp_path / "study")
    run(planned)
    for cell in planned.cells:
        file = cell.run / "evaluations" / "test" / "metrics.json"
        said = [
            f"guard: of fold {cell.fold}",
            "of every cell",
            f"{2 + cell.fold} scans have no label",
            f"{cell.arm} missed 3 scans",
        ]
        durable.write_json(file, durable.read_json(file) | {"notes": said})
    counts = dict.fromkeys([(budget, 0, fold) for budget in (0.1, 1.0) for fold in (1, 2)], 20)
    notes = table.make(planned, counts, FACTS, quiet=True)["notes"]
    assert notes[-3:] == [
        "Of every cell.",
        "Fold 1: 3 scans have no label.",
        "Fold 2: 4 scans have no label.",
    ]
    assert not any("missed" in note for note in notes)


@pytest.mark.parametrize("patients", [1, 3])
def test_a_table_of_few_patients_says_so(evaluated, patients):
    """Otherwise a study of one patient finds what holds for all, or ends in a traceback where there is no interval."""
    for cell in evaluated.cells:
        folder = cell.run / "evaluations" / "test"
        read = predictions.read(folder / "predictions.csv")
        names = [f"p{i % patients}" for i in range(len(read.ids))]
        predictions.write(folder / "predictions.csv", dataclasses.replace(read, patients=names))
        told = {"patients": patients, "notes": [f"only {patients} patients: of this cell"]}
        durable.write_json(folder / "metrics.json", durable.read_json(folder / "metrics.json") | told)
    made = table.write(evaluated, COUNTS, FACTS, quiet=True)
    whole = durable.read_json(evaluated.workdir / "table.json")
    few = (
        "Only one patient: there are no intervals."
        if patients == 1
        else "Only 3 patients: intervals may be too narrow."
    )
    assert [note for note in whole["notes"] if note.startswith("Only")] == [few]
    if patients == 1:
        assert {c["verdict"] for c in made["comparisons"]} == {"open"}
        assert {c["chance"] for c in made["comparisons"]} == {None}
        assert all(row["auroc"] is not None and row["auroc_low"] is None for row in made["rows"])
        page.write(evaluated.workdir / "report.html", studies=[evaluated.workdir])
        assert "one patient does not tell" in (evaluated.workdir / "report.html").read_text()


def test_what_guards_chose_is_counted_in_every_arm(config, evaluated):
    """Otherwise an arm is called semi-supervised whose cells were trained without its second stream."""
    evaluated.config.arms["resnet"].config["objective"] = {"name": "semi_teacher"}
    for budget, draw, chosen in ((0.1, 0, "supervised"), (0.1, 1, "semi_teacher"), (1.0, 0, "semi_teacher")):
        file = evaluated.cell("resnet", budget, draw).run / "evaluations" / "test" / "metrics.json"
        told = {"guard": {"asked": "semi_teacher", "chosen": chosen}, "notes": ["guard: of this cell alone"]}
        durable.write_json(file, durable.read_json(file) | told)
    made = table.make(evaluated, COUNTS, FACTS, quiet=True)
    chosen = {(c["arm"], c["budget"], c["draw"]): c["guard"] for c in made["cells"]}
    assert chosen["resnet", 0.1, 0] == "supervised" and chosen["scratch", 0.1, 0] == ""
    said = [note for note in made["notes"] if "guard" in note.lower()]
    assert said == [
        "ResNet: the guard trained supervised instead in 1 of 2 cells with 10% of the labels, where semi_teacher was not "
        "better in cross-validation within the label budget."
    ]


def test_what_a_guard_chose_is_told_of_evaluations_that_are_older(evaluated):
    """Otherwise a study that goes on says nothing of its guards, since each note of a cell is dropped for the count."""
    evaluated.config.arms["resnet"].config["objective"] = {"name": "semi_teacher"}
    run = evaluated.cell("resnet", 0.1, 0).run
    file = run / "evaluations" / "test" / "metrics.json"
    durable.write_json(file, {k: v for k, v in durable.read_json(file).items() if k != "guard"})
    durable.write_json(run / "guard.json", {"asked": "semi_teacher", "chosen": "supervised"})
    made = table.make(evaluated, COUNTS, FACTS, quiet=True)
    assert [cell["guard"] for cell in made["cells"] if cell["guard"]] == ["supervised"]
    assert any("the guard trained supervised instead in 1 of 1 cells" in note for note in made["notes"])


def test_other_examples_are_refused(evaluated):
    """Otherwise arms are compared on different patients."""
    file = evaluated.cells[5].run / "evaluations" / "test" / "predictions.csv"
    header, _, *rest = file.read_text().splitlines()
    file.write_text("\n".join([header, *rest]) + "\n")
    with pytest.raises(InputError, match="other examples"):
        table.make(evaluated, COUNTS, FACTS, quiet=True)


def test_a_budget_may_be_drawn_more_often_than_another(config, tmp_path):
    """Otherwise the small budgets, which vary most, cost as many runs of the large ones."""
    from made_up_work import WORK

    with config.study.ignore_type():
        config.study.draws = (3, 1)
    result = study(config, tmp_path / "study", jobs=2, work=WORK, quiet=True)
    assert [row["draws"] for row in result["rows"]] == [3] * 3 + [1] * 3
    made = durable.read_json(tmp_path / "study" / "table.json")
    assert made["draws"] == [3, 1] and len(made["cells"]) == 3 * (3 + 1)
    assert "(3 draws, " in made["comparisons"][0]["sentence"]
    assert "(1 draw, " in made["comparisons"][-1]["sentence"]
    assert not any(c["real"] for c in made["comparisons"] if c["budget"] == 1.0), (
        "one draw shows nothing of draws"
    )
    assert "what another would give" in made["comparisons"][-1]["sentence"]
    assert any("one draw with all labels" in note for note in made["notes"])


def test_the_baseline_to_beat_is_chosen_on_validation(config, tmp_path):
    """Otherwise the best baseline is the one that the test split likes best, or the weaker one is beaten."""
    from made_up_work import run

    config.study.update({"reference": "", "baselines": ("scratch", "resnet"), "margin": 0.02})
    config.study.compare = (("pretrained@0.1", "best@1.0"),)
    result = run(plan(config, tmp_path / "study"))
    made = durable.read_json(tmp_path / "study" / "table.json")
    assert {b["arm"] for b in made["baselines"].values()} == {"scratch"}
    test = {r["arm"]: r["metrics"]["auroc"]["value"] for r in made["rows"] if r["budget"] == 1.0}
    assert test["scratch"] < test["resnet"], "the made-up test split disagrees, and is not asked"
    assert [(c["first"], c["first_budget"], c["second"], c["second_budget"]) for c in made["comparisons"]][
        :3
    ] == [
        ("pretrained", 0.1, "scratch", 0.1),
        ("pretrained", 1.0, "scratch", 1.0),
        ("pretrained", 0.1, "scratch", 1.0),
    ]
    assert all(c["comparisons"] == 3 for c in made["comparisons"])
    across = made["comparisons"][2]
    assert (
        "Pretrained ViT with 10% of the labels (20 scans) is better than ViT from scratch with all labels"
        in (across["sentence"])
    )
    own = {(r["arm"], r["budget"]): r["metrics"]["auroc"]["value"] for r in made["rows"]}
    assert across["difference"] == pytest.approx(own["pretrained", 0.1] - own["scratch", 1.0])
    row = next(r for r in result["rows"] if (r["arm"], r["budget"]) == ("pretrained", 0.1))
    assert row["against"] == "scratch" and row["auroc_difference"] == made["comparisons"][0]["difference"]
    text = (tmp_path / "study" / "table.md").read_text()
    assert "minus the best baseline, AUROC" in text and text.count("| best baseline |") == 2
    assert "The best baseline, chosen by its mean AUROC on validation: ViT from scratch" in text
    assert "There are 3 comparisons: each interval is 95% by itself, not adjusted" in text
    with open(tmp_path / "study" / "comparisons.csv") as file:
        assert [r["verdict"] for r in csv.DictReader(file)] == [c["verdict"] for c in made["comparisons"]]


def test_labels_beside_the_budget_are_those_of_a_fold_that_is_run(config, tmp_path):
    """Otherwise a study of one fold of three says that a third of its validation labels were used."""
    from made_up_work import run

    config.data = {"path": str(tmp_path / "data-{fold}"), "folds": 3}
    config.study.arms = ("pretrained", "scratch")
    for folds in (1, 2):
        with config.study.ignore_type():
            config.study.folds = folds
        result = run(plan(config, tmp_path / f"study{folds}"))
        assert {row["labels_validation"] for row in result["rows"]} == {40}


def test_folds_are_judged_each_by_itself_and_averaged(config, tmp_path):
    """Otherwise scores of five models are ranked together, or one fold's patients are all there are."""
    from made_up_work import EXAMPLES, run

    config.data = {"path": str(tmp_path / "data-{fold}"), "folds": 3}
    with config.study.ignore_type():
        config.study.update({"folds": (1, 3), "draws": (2, 1), "arms": ("pretrained", "scratch")})
    planned = plan(config, tmp_path / "study")
    run(planned)
    made = durable.read_json(tmp_path / "study" / "table.json")
    assert (made["examples"], made["patients"]) == (3 * EXAMPLES, 3 * EXAMPLES // 2)
    areas = []
    for fold in planned.of("scratch", 1.0):
        p = predictions.read(fold[0].run / "evaluations" / "test" / "predictions.csv")
        areas.append(roc_auc_score(p.label[:, 0], p.score[:, 1]))
    row = next(r for r in made["rows"] if (r["arm"], r["budget"]) == ("scratch", 1.0))
    assert row["metrics"]["auroc"]["value"] == pytest.approx(np.mean(areas))
    assert row["metrics"]["auroc"]["per_draw"] == pytest.approx(areas)
    few, all_ = (c for c in made["comparisons"] if c["metric"] == "auroc")
    assert "(2 draws, 60 images of 30 patients" in few["sentence"] and few["folds"] == 1
    assert "1 draw in each of 3 folds, 180 images of 90 patients" in all_["sentence"]
    assert "not settled" not in all_["sentence"], "three folds are three trainings"
    assert not any("There is one draw" in note for note in made["notes"])
    assert any("computed in each fold and averaged" in note for note in made["notes"])


def test_the_luck_of_the_pretraining_is_told(config, tmp_path, evaluated):
    """Otherwise nobody knows whether another seed of the pretraining would give another table."""
    made = table.make(evaluated, COUNTS, FACTS, quiet=True)
    assert any("one pretraining (seed 7): intervals do not hold its own luck" in n for n in made["notes"])
    config.study.pretrain_seeds = 2
    made = table.make(plan(config, tmp_path / "study"), COUNTS, FACTS, quiet=True)
    assert any("made twice" in n and "intervals hold its luck" in n for n in made["notes"])
