"""Folders such as vitmed makes, small and made up, for pages to be drawn from."""

import json
from pathlib import Path

import numpy as np
import pytest

HASH = "0123456789abcdef" * 4
ARMS = {"pretrained": "Pretrained ViT", "scratch": "ViT from scratch", "resnet": "ResNet"}
BUDGETS = {0.01: 47, 0.1: 471, 1.0: 4708}


def datasheet(**changes) -> dict:
    """A datasheet of 40 labelled X-rays of 16 x 16."""
    return {
        "format": 1,
        "name": "made-up chests",
        "vitmed": "0.1.0",
        "modality": "xray",
        "unit": "relative",
        "window": [0.0, 1.0],
        "channels": 1,
        "size": [16, 16],
        "spacing": [0.5, 0.5],
        "dtype": "uint8",
        "task": "multiclass",
        "classes": ["normal", "<b>pneumonia</b>"],
        "class_counts": {
            "train": {"normal": 14, "<b>pneumonia</b>": 10},
            "val": {"normal": 4, "<b>pneumonia</b>": 4},
            "test": {"normal": 4, "<b>pneumonia</b>": 4},
        },
        "examples": {"train": 24, "val": 8, "test": 8},
        "patients": {"train": 12, "val": 4, "test": 4},
        "refused": {"NaN pixels": 2, "not an image": 1},
        "refused_files": [
            {"file": "a.png", "reason": "NaN pixels"},
            {"file": "b.png", "reason": "NaN pixels"},
            {"file": "notes.txt", "reason": "not an image"},
        ],
        "intensity": {
            "mean": [0.4],
            "std": [0.2],
            "histogram": {"edges": list(np.linspace(0, 1, 33)), "counts": list(range(1, 33))},
        },
        "duplicates": {"train": 18, "train/val": 8, "val": 0},
        "notes": ["two scans were 12 bit"],
        "splits": {"how": "80/10/10", "by": "patient", "seed": 0},
        "simulated": False,
        "content_hash": HASH,
    } | changes


class MadeUpDataset:
    """Answers as ``vitmed.data.dataset.Dataset`` does, from a datasheet and noise."""

    def __init__(self, sheet: dict):
        self.datasheet, self.splits = sheet, tuple(sheet["examples"])

    def has_split(self, split):
        return split in self.splits

    def size(self, split):
        return self.datasheet["examples"][split]

    def ids(self, split):
        return [f"{split}/{i}" for i in range(self.size(split))]

    def sites(self, split):
        return None

    def labels(self, split):
        n = self.size(split)
        return (np.arange(n) % 2).astype(np.float32)[:, None], np.ones((n, 1), np.float32)

    def read(self, split, indices, crop=None):
        draw = np.random.Generator(np.random.Philox(key=1))
        size = self.datasheet["size"] if crop is None else crop.size
        shape = (len(indices), *size, self.datasheet["channels"])
        ones = np.ones((len(indices), self.datasheet["channels"]), np.float32)
        return {
            "image": draw.integers(0, 256, shape).astype(np.uint8),
            "scale": ones / 255,
            "offset": 0 * ones,
        }


def make_run(folder: Path, data: Path, sheet: dict, objective: str) -> Path:
    """A run folder with losses, and for a supervised one an evaluation."""
    folder.mkdir(parents=True)
    config = {
        "data": {"path": str(data), "split": "train", "val_split": "val"},
        "model": {"variant": "nano", "patch_size": [4, 4]},
        "objective": {"name": objective}
        | ({"mask_ratio": 0.75, "target": "patch"} if objective == "mae" else {}),
        "train": {"steps": 100, "batch_size": 8, "seed": 3},
    }
    _write(folder / "config.json", {"format": 1, "config": config})
    _write(folder / "dataset.json", sheet)
    _write(
        folder / "recipe.json",
        {
            "format": 1,
            "modality": "xray",
            "channels": 1,
            "size": sheet["size"],
            "spacing": sheet["spacing"],
            "unit": "relative",
            "window": [0.0, 1.0],
            "mean": [0.4],
            "std": [0.2],
            "patch_size": [4, 4],
            "model": None,
        },
    )
    _write(
        folder / "environment.json",
        {
            "format": 1,
            "starts": [
                {
                    "started": "2026-01-01T10:00:00+00:00",
                    "command": "/opt/python/bin/python -m vitmed train --workdir x",
                    "vitmed": "0.1.0",
                    "source": {"commit": "c0ffee" * 6, "dirty": True},
                    "python": "3.12.1",
                    "packages": {"jax": "0.10.2", "flax": "0.12.0"},
                    "devices": {"kind": "cpu", "platform": "cpu", "count": 1},
                }
            ],
        },
    )
    lines = ["step,name,value"]
    for step in range(10, 101, 10):
        lines += [f"{step},loss,{0.4 + 5 / step}", f"{step},val/loss,{0.45 + 5 / step}"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if objective == "supervised":
        out = folder / "evaluations" / "test"
        out.mkdir(parents=True)
        _write(
            out / "metrics.json",
            {
                "format": 1,
                "run": str(folder),
                "dataset": str(data),
                "split": "test",
                "checkpoint": 1100,
                "examples": 8,
                "patients": 4,
                "metrics": {"auroc": {"value": 0.8125, "low": 0.61, "high": 0.95, "interval": "score"}},
                "intervals": {"score": "score-type interval"},
                "subgroups": {
                    "site": [
                        {
                            "group": "north <b>",
                            "examples": 30,
                            "patients": 15,
                            "too_small": None,
                            "notes": ["intervals are by patient", "too few patients: 2 with mass"],
                            "metrics": {
                                "auroc": {"value": 0.777, "low": 0.55, "high": 0.91, "interval": "score"},
                                "auroc/x": {"value": 0.111, "low": 0.1, "high": 0.12, "interval": "score"},
                            },
                        },
                        {
                            "group": "",
                            "examples": 4,
                            "patients": None,
                            "too_small": "4 scans; at least 10 are needed",
                            "notes": [],
                            "metrics": {},
                        },
                    ]
                },
                "confusion": {"classes": sheet["classes"], "counts": [[3, 1], [1, 3]]},
                "threshold": {"<b>pneumonia</b>": 0.62},
                "threshold_from": "val",
                "notes": ["intervals are by patient"],
                "opened": 2,
            },
        )
    return folder


def make_study(folder: Path, data: Path, sheet: dict) -> Path:
    """A study folder with its table and its pretraining."""
    make_run(folder / "pretrain", data, sheet, "mae")
    draw = np.random.Generator(np.random.Philox(key=2))
    base = {
        "pretrained": (0.912, 0.959, 0.967),
        "scratch": (0.852, 0.936, 0.965),
        "resnet": (0.871, 0.948, 0.969),
    }
    rows, compared, cells = [], [], []
    for at, (budget, labels) in enumerate(BUDGETS.items()):
        half = 0.03 / (at + 1)
        for arm, label in ARMS.items():
            metrics = {}
            for name, drop in (("auroc", 0.0), ("balanced_accuracy", 0.08)):
                value = base[arm][at] - drop + float(draw.uniform(-0.002, 0.002))
                metrics[name] = {
                    "value": value,
                    "low": value - half,
                    "high": min(value + half, 0.999),
                    "per_draw": [value] * 3,
                }
                if arm != "pretrained":
                    gain = rows[-1 if arm == "scratch" else -2]["metrics"][name]["value"] - value
                    low, high = gain - half, gain + half
                    favours = "pretrained" if low > 0 else arm if high < 0 else None
                    compared.append(
                        {
                            "budget": budget,
                            "arm": arm,
                            "label": label,
                            "metric": name,
                            "difference": gain,
                            "low": low,
                            "high": high,
                            "favours": favours,
                            "sentence": f"Pretrained ViT minus {label} is {gain:+.3f}.",
                        }
                    )
            rows.append({"budget": budget, "labels": labels, "arm": arm, "label": label, "metrics": metrics})
            cells += [
                {
                    "run": f"cells/{arm}-{budget}-{d}",
                    "arm": arm,
                    "budget": budget,
                    "draw": d,
                    "opened": 1,
                    "metrics": {n: m["value"] for n, m in metrics.items()},
                }
                for d in range(3)
            ]
    _write(
        folder / "table.json",
        {
            "format": 1,
            "study": "labels",
            "split": "test",
            "checkpoint": "last",
            "command": "python -m vitmed study",
            "budgets": list(BUDGETS),
            "draws": [3] * len(BUDGETS),
            "metrics": ["auroc", "balanced_accuracy"],
            "reference": "pretrained",
            "higher_is_better": {"auroc": True, "balanced_accuracy": True},
            "examples": 8,
            "patients": 4,
            "opened": 1,
            "dataset": {
                "path": str(data),
                "name": sheet["name"],
                "content_hash": HASH,
                "simulated": sheet["simulated"],
            },
            "rows": rows,
            "comparisons": compared,
            "cells": cells,
            "notes": ["One pretraining, by one seed."],
        },
    )
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Makes a home with a dataset, two runs and a study: ``home(simulated=True)`` -> its folder."""
    from vitmed.data.dataset import Dataset
    from vitmed.report import pictures, reconstructions

    def make(**changes) -> Path:
        sheet = datasheet(**changes)
        data = tmp_path / "data"
        data.mkdir()
        _write(data / "datasheet.json", sheet)
        make_run(tmp_path / "mae", data, sheet, "mae")
        make_run(tmp_path / "tuned", data, sheet, "supervised")
        make_study(tmp_path / "study", data, sheet)
        return tmp_path

    def open_made_up(path):
        return MadeUpDataset(json.loads((Path(path) / "datasheet.json").read_text()))

    def made_up_triples(run, dataset, split, count=6):
        pixel = pictures.data_uri(pictures.picture(np.zeros((4, 4, 1))))
        return [{"id": f"{split}/0", "input": pixel, "masked": pixel, "made": pixel}]

    monkeypatch.setattr(Dataset, "open", staticmethod(open_made_up))
    monkeypatch.setattr(reconstructions, "triples", made_up_triples)
    return make


def _write(file: Path, value: dict) -> None:
    file.write_text(json.dumps(value))
