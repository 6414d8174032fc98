"""The demo, in small: real files from simulated patients through every verb to a page, and again from where it stands."""

import json

import pytest
from short_runs import flags_of

from vitmed.cli import demo
from vitmed.cli.main import main

BANNER = "Simulated scans: this shows that the software works, not that pretraining helps yours."


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "PATIENTS", {"ct": 24, "mr": 12})
    monkeypatch.setattr(demo, "SCANS", {"ct": 2, "mr": 1})
    monkeypatch.setattr(demo, "SIZES", {"ct": (32, 32), "mr": (16, 16, 16)})
    monkeypatch.setattr(demo, "SHORT_STEPS", 3)
    monkeypatch.setattr(demo, "STUDY", "demo.py:tiny")


def test_simulated_scans_to_a_page_and_again(small, tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo"
    # The study's own processes train on one device.
    monkeypatch.setenv("XLA_FLAGS", flags_of(devices=1))
    assert main(["demo", "--out", str(out), "--jobs", "1", "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out.strip().splitlines()[-1])
    assert result["simulated"] and "[5/5]" in told.err
    page = (out / "report.html").read_text()
    assert BANNER in page and "http://" not in page.replace("http://www.w3.org", "")
    assert any((out / "scans" / "ct").rglob("*.dcm")) or any((out / "scans" / "ct").rglob("IM*"))
    patients = json.loads((out / "data" / "ct" / "datasheet.json").read_text())["patients"]
    assert patients == {"train": 16, "val": 1, "test": 7}, "most that are not trained on are tested on"
    table = (out / "study" / "table.csv").read_text()
    assert all(arm in table for arm in ("pretrained", "scratch", "resnet"))

    cells = sorted((p, p.stat().st_mtime) for p in (out / "study" / "cells").rglob("manifest.json"))
    assert main(["demo", "--out", str(out), "--jobs", "1"]) == 0
    assert cells == sorted((p, p.stat().st_mtime) for p in (out / "study" / "cells").rglob("manifest.json"))


def test_a_dataset_of_ones_own_is_what_the_study_and_the_page_get(tiny_dataset, tmp_path, monkeypatch):
    """Nothing is simulated then, and the data is not ingested a second time."""
    got = {}

    def study(dataset, workdir, jobs, own):
        got["study"], got["own"] = dataset, own
        return workdir

    def write(out, runs, datasets, studies, title):
        got["page"] = datasets
        return {"report": str(out), "simulated": False}

    monkeypatch.setattr(demo, "_study", study)
    monkeypatch.setattr("vitmed.report.page.write", write)
    assert main(["demo", "--data", str(tiny_dataset), "--out", str(tmp_path / "demo")]) == 0
    assert got == {"study": tiny_dataset, "own": True, "page": [tiny_dataset]}
    assert not (tmp_path / "demo" / "scans").exists()


@pytest.mark.parametrize("own", [False, True])
def test_what_suits_the_phantoms_is_not_assumed_of_other_scans(tiny_dataset, tmp_path, monkeypatch, own):
    """Otherwise scans whose mirror image means something else are mirrored."""
    got = {}
    monkeypatch.setattr("vitmed.study.study.study", lambda config, workdir, jobs: got.update(config=config))
    demo._study(tiny_dataset, tmp_path, 1, own)
    pretrain = got["config"].pretrain
    assert (pretrain.augment.flip, pretrain.objective.target) == (((), "patch") if own else ((0, 1), "raw"))
    assert all(not arm.config.augment.get("flip") for arm in got["config"].arms.values())


def test_data_that_is_not_there(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "demo")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
