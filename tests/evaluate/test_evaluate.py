"""``evaluate`` on real run folders: files, ledger, refusals, and what a person sees."""

import argparse
import json
import re
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from vitmed.cli import evaluate as verb
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.evaluate.evaluate import evaluate
from vitmed.evaluate.predictions import read
from vitmed.infer import Model, truth
from vitmed.runs import folder, ledger
from vitmed.runs.checkpoint import CheckpointConfig, Checkpoints
from vitmed.train import train


def config(dataset, objective):
    model = dict(variant="nano", patch_size=(8, 8), scan=True)
    return ConfigDict(
        {
            "data": {"path": str(dataset)},
            "model": model,
            "objective": {"name": objective},
            "train": {"steps": 2, "batch_size": 8},
            "optim": {"ema": 0.0},
            "checkpoint": {"every": 1, "best": "loss"},
        }
    )


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    """A classifier after two steps."""
    run = tmp_path_factory.mktemp("runs") / "classifier"
    train(config(tiny_dataset, "supervised"), run, quiet=True)
    return run


def test_numbers_and_predictions_are_written(trained, tiny_dataset):
    """Otherwise nothing is left of an evaluation but what scrolled by."""
    found = evaluate(trained)
    data = Dataset.open(tiny_dataset)
    assert (found["run"], found["dataset"], found["split"]) == (str(trained), str(tiny_dataset), "test")
    assert found["examples"] == data.size("test") and found["patients"] == len(set(data.patients("test")))
    assert found["checkpoint"] == 2 and found["threshold_from"] == "val"
    out = trained / "evaluations" / "test"
    assert json.loads((out / "metrics.json").read_text()) == {"format": 1, **found}
    table = read(out / "predictions.csv")
    assert table.ids == data.ids("test") and table.patients == data.patients("test")
    assert np.array_equal(table.label, data.labels("test")[0])
    assert table.score.sum(axis=1) == pytest.approx(1)
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "predictions.csv"]


def test_every_look_at_a_split_is_counted(trained):
    """Otherwise a test split that was tuned on looks as fresh as on the first day."""
    before = {split: evaluate(trained, split=split)["opened"] for split in ("test", "val")}
    found = evaluate(trained)
    assert found["opened"] == before["test"] + 1
    assert evaluate(trained, split="val")["opened"] == before["val"] + 1
    assert [e["split"] for e in ledger.entries(trained)].count("test") == found["opened"]


def test_evaluating_validation_says_that_it_chose_the_thresholds(trained):
    """Otherwise numbers at a threshold tuned on the same scans pass for honest ones."""
    assert any("same split" in note for note in evaluate(trained, split="val")["notes"])
    assert not any("same split" in note for note in evaluate(trained)["notes"])


def test_the_best_checkpoint_is_named(trained):
    """Otherwise the number cannot be traced to its weights."""
    assert evaluate(trained, which="best")["checkpoint"] in (1, 2)


def test_another_dataset_does_not_overwrite_the_own_test(trained, tiny_pngs, tmp_path):
    """Otherwise an external test replaces the internal one in the run folder."""
    own = evaluate(trained)
    ingest(
        tiny_pngs,
        tmp_path / "d",
        labels=tiny_pngs / "labels.csv",
        modality="xray",
        seed=1,
        workers=1,
        size=(16, 16),
    )
    same = evaluate(trained, tmp_path / "d")
    assert same["folder"] == own["folder"] and same["opened"] == own["opened"] + 1  # the same content, moved
    sheet = json.loads((tmp_path / "d" / "datasheet.json").read_text())
    (tmp_path / "d" / "datasheet.json").write_text(json.dumps(sheet | {"content_hash": "ab" * 32}))
    other = evaluate(trained, tmp_path / "d")
    assert other["folder"] == str(trained / "evaluations" / "test@abababababab") and other["opened"] == 1
    assert any("predict says yes at those of the run's own" in note for note in other["notes"])
    assert (
        json.loads((trained / "evaluations" / "test" / "metrics.json").read_text())["opened"]
        == same["opened"]
    )


def test_scans_that_were_learned_from_are_told_of(trained, tiny_pngs, tiny_dataset, tmp_path, monkeypatch):
    """Otherwise a set that was split anew is tested on what was trained on, and the number looks well."""
    again = dict(labels=tiny_pngs / "labels.csv", modality="xray", progress=False)
    ingest(tiny_pngs, tmp_path / "again", split="60/20/20", seed=5, **again)
    data, own = Dataset.open(tmp_path / "again"), Dataset.open(tiny_dataset)
    held = {record["image"].tobytes() for record in own.records("train")}
    seen = sum(record["image"].tobytes() in held for record in data.records("test"))
    notes = evaluate(trained, tmp_path / "again")["notes"]
    assert seen and any(
        note.startswith(f"{seen} of {data.size('test')} scans of the test split") for note in notes
    )
    assert not any("learned from" in note for note in evaluate(trained)["notes"])
    monkeypatch.setattr("vitmed.infer.Model.dataset_path", property(lambda self: str(tmp_path / "gone")))
    notes = evaluate(trained, tmp_path / "again")["notes"]
    assert any("whether it learned from scans of the test split is not known" in note for note in notes)


def test_refusals_name_what_is_wrong(trained, tiny_dataset, tiny_volumes, tmp_path):
    """Otherwise a wrong folder or split ends in a traceback, or in numbers of something else."""
    looked = len(ledger.entries(trained))
    with pytest.raises(InputError, match=str(tmp_path)):
        evaluate(tmp_path)
    with pytest.raises(InputError, match="no split 'holdout'.*train"):
        evaluate(trained, split="holdout")
    with pytest.raises(InputError, match="modality is xray here and mr there"):
        evaluate(trained, tiny_volumes)
    with pytest.raises(InputError, match="--seed is -1; a whole number from 0 on"):
        evaluate(trained, seed=-1)
    with pytest.raises(InputError, match=str(tmp_path / "none")):
        evaluate(trained, tmp_path / "none")
    assert len(ledger.entries(trained)) == looked


def test_a_dataset_that_moved_can_be_named(trained, tiny_dataset, tmp_path, monkeypatch):
    """Otherwise a person is told to make it again."""
    monkeypatch.setattr(Model, "dataset_path", str(tmp_path / "gone"))
    with pytest.raises(
        InputError, match="was trained on .*gone, which does not exist; if the dataset has moved, give"
    ):
        evaluate(trained)
    assert evaluate(trained, dataset=tiny_dataset)["examples"] == Dataset.open(tiny_dataset).size("test")


def test_other_labels_are_refused(trained, tiny_pngs, tmp_path):
    """Otherwise probabilities of one finding are scored against another's labels."""

    text = (tiny_pngs / "labels.csv").read_text().replace("lesion", "fracture")
    (tmp_path / "labels.csv").write_text(text)
    ingest(tiny_pngs, tmp_path / "d", labels=tmp_path / "labels.csv", modality="xray", workers=1)
    with pytest.raises(InputError, match="clear, fracture.*clear, lesion"):
        evaluate(trained, tmp_path / "d")


def test_a_split_without_labels_is_refused(trained, tiny_dataset, monkeypatch):
    """Otherwise an unlabelled split is scored as if every scan were of class 0."""
    labels = Dataset.labels
    monkeypatch.setattr(
        Dataset, "labels", lambda self, split: (labels(self, split)[0], 0 * labels(self, split)[1])
    )
    with pytest.raises(InputError, match="'test'.*no labels"):
        evaluate(trained)


def test_a_run_without_labels_is_refused(tiny_dataset, tmp_path):
    """Otherwise evaluating a pretrained run fails somewhere in its parameters."""
    data = Dataset.open(tiny_dataset)
    run = folder.create(tmp_path / "mae", config(tiny_dataset, "mae"), data.recipe(), data.datasheet)
    with Checkpoints(run, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, {"params": {"encoder": {"w": np.ones(2)}, "decoder": {"w": np.ones(2)}}})
    with pytest.raises(InputError, match="'mae'.*finetune_classify"):
        evaluate(run)


@pytest.fixture
def sites(monkeypatch):
    """Gives every dataset a site: what ``Dataset.groups`` reads from a set that has it."""
    monkeypatch.setattr(
        Dataset, "groups", lambda self, split, by: ["north, <b>"] * (self.size(split) - 3) + ["south"] * 3
    )


def test_numbers_by_site(trained, sites):
    """Otherwise a site where the model fails is hidden in the mean over all."""
    found = evaluate(trained, by=["site"])
    assert set(found["subgroups"]) == {"site"}
    assert [g["group"] for g in found["subgroups"]["site"]] == ["north, <b>", "south"]
    assert sum(g["examples"] for g in found["subgroups"]["site"]) == found["examples"]
    written = json.loads((trained / "evaluations" / "test" / "metrics.json").read_text())
    assert written["subgroups"] == found["subgroups"]
    assert evaluate(trained)["subgroups"] == {}


def test_a_column_that_is_not_there_is_refused_before_the_split_is_opened(trained):
    """Otherwise a misspelt column costs a look at the test split."""
    looked = len(ledger.entries(trained))
    with pytest.raises(InputError, match="'hospital' to group by; it has .*site"):
        evaluate(trained, by=["hospital"])
    assert len(ledger.entries(trained)) == looked


def test_what_a_person_sees_of_groups():
    """Otherwise a small group shows numbers, or the groups cannot be told apart."""
    number = {"value": 0.81, "low": 0.7, "high": 0.9, "interval": "score"}
    nothing = {"value": None, "low": None, "high": None, "interval": None}
    shown = {"examples": 40, "patients": 20, "too_small": None, "notes": []}
    groups = [
        {"group": "north", "metrics": {"auroc": number, "auroc/x": number, "r2": nothing}, **shown},
        {
            "group": "",
            "metrics": {},
            **shown,
            "patients": None,
            "too_small": "4 scans; at least 10 are needed",
        },
    ]
    console = Console(record=True, width=110)
    groups[0]["notes"] = ["said above", "too few patients: 2 with mass"]
    verb._show_groups("site", groups, ["said above"], console)
    text = console.export_text()
    assert "too small: 4 scans; at least 10 are needed" in text and "unknown" in text
    assert "0.700 to 0.900" in text and "not computable" in text and "auroc/x" not in text
    assert "2 with mass" in text and "said above" not in text


def test_what_a_person_sees(trained):
    """Otherwise the count, the interval or the caveat is missing beside the number."""
    parser = argparse.ArgumentParser()
    verb.arguments(parser)
    parser.add_argument("--json", action="store_true")
    result = verb.run(parser.parse_args([str(trained), "--json"]))
    console = Console(record=True, width=110)
    verb.show(result, console)
    text = console.export_text()
    assert f"test split opened {result['opened']} times" in text
    assert f"{result['patients']} patients" in text and "seed 0" in text
    auroc = result["metrics"]["auroc"]
    assert f"{auroc['value']:.3f}" in text and f"{auroc['low']:.3f} to {auroc['high']:.3f}" in text
    assert "MOVER" in text and "Zou & Donner 2008" in text
    assert "is lesion" in text and "said clear" in text
    assert all(note in " ".join(text.split()) for note in result["notes"])


def test_names_with_brackets_are_shown_as_they_are(trained):
    """Otherwise a class named `volume [ml]` loses its unit, and one with `[/b]` ends the verb after the split was opened."""
    result = evaluate(trained, by=["site"])
    names = json.loads(json.dumps(result).replace("lesion", "oedema [/b]").replace("clear", "volume [ml]"))
    names["metrics"]["auroc/oedema [/b]"] = names["metrics"]["auroc"]
    names["metrics"]["f1/volume [ml]"] = {"value": None, "low": None, "high": None, "interval": None}
    groups = [group | {"metrics": {"f1": names["metrics"]["f1"]}} for group in names["subgroups"]["site"]]
    names["subgroups"] = {"ward [/b]": groups}
    console = Console(record=True, width=200)
    verb.show(names, console)
    text = console.export_text()
    for shown in ("said oedema [/b]", "is oedema [/b]", "said volume [ml]", "is volume [ml]"):
        assert shown in text
    assert "auroc/oedema [/b]" in text and "f1/volume [ml]" in text and text.count("ward [/b]") == 2
    verb.show(names | {"confusion": {"columns": {"oedema [/b]": [[1, 2], [3, 4]]}}}, console)
    assert re.search(r"oedema \[/b\] +┃ said no", console.export_text())


def test_masks_are_evaluated(segmenter, marked_dataset, monkeypatch):
    """Otherwise a segmentation has no numbers, or those of another run of the test split, or none by patient."""
    data = Dataset.open(marked_dataset)
    true = [truth(data, "test", i) for i in range(data.size("test"))]
    monkeypatch.setattr(
        Model, "segment", lambda self, *given: ((i, np.roll(m, 1, 0)) for i, m in enumerate(true))
    )
    before = len(ledger.entries(segmenter))
    found = evaluate(segmenter, tolerance=1.5)
    assert len(ledger.entries(segmenter)) == before + 1
    assert (found["task"], found["classes"], found["threshold"]) == ("segmentation", ["1", "2"], None)
    assert found["examples"] == 4 and found["patients"] == 4 and found["tolerance"]["value"] == 1.5
    assert found["tolerance"]["unit"] == "pixels" and any("in pixels" in note for note in found["notes"])
    assert found["failures"]["1"] == {"scans": 2, "neither": 2, "missed": 0, "invented": 0}
    # The box of 5 x 5, one row down: 20 of 25 shared. The slab is of full height, so that rolling leaves it.
    assert found["metrics"]["dice/1"]["value"] == pytest.approx(0.8)
    assert found["metrics"]["dice/2"]["value"] == 1 and found["metrics"]["dice"]["value"] == pytest.approx(
        0.9
    )
    assert found["metrics"]["hd95/1"]["value"] == 1 and found["metrics"]["nsd/1"]["value"] == 1
    out = segmenter / "evaluations" / "test"
    assert json.loads((out / "metrics.json").read_text()) == {"format": 1, **found}
    table = read(out / "predictions.csv")
    assert table.ids == data.ids("test") and table.patients == data.patients("test")
    assert np.nanmean(table.score[:, 0]) == pytest.approx(0.8)
    console = Console(record=True, width=110)
    verb.show(found, console)
    text = console.export_text()
    assert "NSD at 1.5 px" in text and "HD95, px" in text and "0.800" in text and "mean" in text
    assert evaluate(segmenter, by=["site"])["subgroups"]["site"][0]["too_small"].startswith("4 patients")


def test_masks_that_are_not_the_runs_are_refused(segmenter, trained, tiny_dataset, marked_dataset, tmp_path):
    """Otherwise one structure is scored as another, or a tolerance is given to what has no surface."""
    with pytest.raises(InputError, match="size is|no masks"):
        evaluate(segmenter, tiny_dataset)
    with pytest.raises(InputError, match="--tolerance.*gives none"):
        evaluate(trained, tolerance=1.0)
    with pytest.raises(InputError, match="--tolerance.*-1 was given"):
        evaluate(segmenter, tolerance=-1.0)
    other = tmp_path / "other"
    shutil.copytree(marked_dataset, other)
    sheet = json.loads((other / "datasheet.json").read_text())
    sheet["structures"] = {"tumour": [1], "organ": [2]}
    del sheet["marked"]
    (other / "datasheet.json").write_text(json.dumps(sheet))
    with pytest.raises(InputError, match="hold tumour, organ, but the run .* learned 1, 2"):
        evaluate(segmenter, other)
