"""A small study whose runs take no time."""

from pathlib import Path

import pytest
from made_up_sets import write
from ml_collections import ConfigDict


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """The study's processes import made_up_work by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def config(tmp_path):
    """Three arms, two budgets, two draws: 1 pretraining and 12 cells."""

    def train(**more):  # one each: a ConfigDict keeps two uses of one dict as one
        return {
            "data": {"path": "", "split": "train"},
            "train": {"steps": 10, "batch_size": 4, **more},
            "init_from": "",
        }

    return ConfigDict(
        {
            "data": {"path": str(tmp_path / "data")},
            "study": {
                "name": "made up",
                "budgets": (0.1, 1.0),
                "draws": 2,
                "metrics": ("auroc", "balanced_accuracy"),
                "reference": "pretrained",
            },
            "pretrain": train(seed=7),
            "arms": {
                "pretrained": {"config": train(), "init": "pretrain", "label": "Pretrained ViT"},
                "scratch": {"config": train(), "steps": (10, 30), "label": "ViT from scratch"},
                "resnet": {"config": train(), "label": "ResNet"},
            },
        }
    )


@pytest.fixture(scope="module")
def torn(tmp_path_factory):
    """Two scans of val are copies of scans of train."""
    numbers = [*range(12), 0, 1, 14, 15, *range(16, 24)]
    splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
    rows = [(f"s{i}", n, s) for i, (n, s) in enumerate(zip(numbers, splits))]
    return write(tmp_path_factory.mktemp("torn") / "x", rows)
