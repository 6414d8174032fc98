"""Numbers are learned: in which scale, and that whoever asks a run gets them in their own unit."""

import contextlib
import csv

import numpy as np
import pytest
from short_runs import CLASSIFY, MAE, cut_after, same, settings, state_of, train

import vitmed.runs
from vitmed import train as training
from vitmed.cli.main import main
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.evaluate.evaluate import evaluate
from vitmed.evaluate.predictions import read
from vitmed.infer import Model
from vitmed.job import truth
from vitmed.job.config import check
from vitmed.job.job import Job
from vitmed.runs import folder, units
from vitmed.runs import metrics as run_metrics

pytestmark = pytest.mark.usefixtures("small_nano")


@pytest.fixture(scope="module")
def former(small_nano, tiny_dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("former") / "mae"
    train(MAE, tiny_dataset, run, **{"train.steps": 2})
    return run


@pytest.fixture(scope="module")
def heights(tiny_pngs, tmp_path_factory):
    """``tiny_pngs`` with a height of 170 +- 10 cm that the bright square tells, unknown of one scan in seven.

    A second number is the same of all scans.
    """
    folder, draw = tmp_path_factory.mktemp("heights"), np.random.default_rng(0)
    with open(tiny_pngs / "labels.csv") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "patient", "split", "height", "dose"))
        for i, row in enumerate(rows):
            height = 170 + (10 if row["finding"] == "lesion" else -10) + draw.normal()
            known = "" if i % 7 == 0 else f"{height:.2f}"
            table.writerow((row["path"], row["patient"], row["split"], known, "0.5"))
    ingest(tiny_pngs, folder / "set", labels=folder / "labels.csv", modality="xray", workers=1)
    return folder / "set"


def heights_of(dataset, split, members=slice(None)):
    """The known heights, and which scans they are of."""
    label, weight = (x[members, 0] for x in Dataset.open(dataset).labels(split))
    return label.astype(np.float64), weight > 0


def test_from_scratch_the_mean_is_reached_at_once_and_values_are_in_the_labels_unit(heights, tmp_path):
    """Otherwise an arm from scratch spends its steps on the way to the mean, which a probed head has for nothing."""
    run = tmp_path / "run"
    values = settings(CLASSIFY, heights, data__labels=20, train__val_every=2)
    job = Job(check(values))
    label, known = heights_of(heights, "train", job.feeds["main"].parts[0].members)
    assert len(label) == 20 and not known.all(), "the case tests nothing"
    mean, deviation = label[known].mean(), label[known].std()
    assert job.spec.label_scale == ((pytest.approx(mean), pytest.approx(deviation)), (0.5, 1.0))
    training.train(values, run, quiet=True)
    truth, known = heights_of(heights, "test")
    said = Model.open(run).logits(Dataset.open(heights), "test")[known, 0]
    truth = truth[known]
    assert np.sqrt(np.mean((said - truth) ** 2)) < 1.3 * truth.std()
    found = evaluate(run)["metrics"]
    assert found["rmse/height"]["value"] == pytest.approx(np.sqrt(np.mean((said - truth) ** 2)))
    table = read(run / "evaluations" / "test" / "predictions.csv")
    assert np.abs(table.score[:, 0] - 170).max() < 30 and np.abs(table.score[:, 1] - 0.5).max() < 1

    truth, known = heights_of(heights, "val")
    said = Model.open(run).logits(Dataset.open(heights), "val")
    off = np.concatenate([np.abs(said[known, 0] - truth[known]), np.abs(said[:, 1] - 0.5)])
    steps, told = run_metrics.read(run)["val/mae"]
    assert steps.tolist() == [2, 4] and told[-1] == pytest.approx(off.mean(), rel=1e-4)


@pytest.mark.parametrize(
    "way",
    [
        {"finetune.method": "probe"},
        {"finetune.method": "lora", "finetune.lora.rank": 2, "finetune.lora.products": "query|value|mlp1"},
        {"optim.ema": 0.9},
    ],
    ids=["probe", "lora", "ema"],
)
def test_a_head_is_probed_in_the_same_scale_and_gives_units_however_it_is_tuned(
    heights, former, tmp_path, capsys, way
):
    """And out of a file of weights, once: scaled twice, heights would lie at 1870 cm."""
    run, file, back = (tmp_path / name for name in ("run", "w.safetensors", "back"))
    keys = {"train.steps": 2, "optim.lr": 1e-6, "optim.ema": 0.0, **way}
    train(CLASSIFY, heights, run, init_from=former, **keys)
    dataset = Dataset.open(heights)
    said = Model.open(run).logits(dataset, "train")
    label, known = heights_of(heights, "train")
    assert np.corrcoef(said[known, 0], label[known])[0, 1] > 0.5
    assert said[known, 0].mean() == pytest.approx(label[known].mean(), abs=0.1)
    assert np.abs(said[:, 1] - 0.5).max() < 1e-3
    assert main(["convert", str(run), "--to", "safetensors", "--out", str(file)]) == 0
    assert main(["convert", str(file), "--out", str(back)]) == 0
    assert same(vitmed.runs.load(back), vitmed.runs.load(run))
    np.testing.assert_array_equal(Model.open(back).logits(dataset, "train"), said)


def test_a_run_goes_on_in_the_scale_that_it_began_in(heights, tmp_path, monkeypatch):
    """One that began with numbers as they are too: its head would say 170 deviations where it means 170 cm."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for run in (whole, cut):
        with monkeypatch.context() as patch:
            patch.setattr(truth, "scale", lambda config, task, parts: ())
            with cut_after(3, monkeypatch) if run == cut else contextlib.nullcontext():
                train(CLASSIFY, heights, run)
    assert units.KEY not in folder.datasheet_of(cut)
    train(CLASSIFY, heights, cut)
    assert same(state_of(cut), state_of(whole)) and same(vitmed.runs.load(cut), vitmed.runs.load(whole))
    assert np.abs(Model.open(cut).logits(Dataset.open(heights), "val")).max() < 100, "it learns cm from 0"
