"""The benchmarks run, and say what they say in the agreed keys."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pydicom
import pytest
from PIL import Image

from vitmed import config
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError, MachineError
from vitmed.models.build import ModelConfig
from vitmed.objectives import registry
from vitmed.objectives.interface import Spec
from vitmed.scale import bench, ingesting, load, peers

TINY = bench.Setting(
    model=ModelConfig("nano", (8, 8), decoder_dim=16, decoder_depth=1, decoder_heads=2, scan=True),
    spec=Spec((16, 16), 3),
)


def test_step_answers_in_the_agreed_keys():
    result = bench.step(TINY, batch=jax.device_count(), repeats=2, quiet=True)
    assert result["images_per_second"] > 0 and 0 < result["mfu"] < 1.5
    assert result["peers"] == {} and result["ratio"] == {}
    assert len(result["seconds"]["ours"]) == 2


def test_a_missing_peer_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs torch and transformers.*vitmed\[bench\]"):
        bench.step(TINY, peers=("transformers",), quiet=True)


def test_an_unknown_peer_is_refused():
    with pytest.raises(InputError, match="choose one of transformers"):
        bench.step(TINY, peers=("timm",), quiet=True)


@pytest.mark.parametrize("size", [(16, 24), (16, 16, 16)])
def test_a_model_that_the_peer_cannot_be_is_refused(size):
    setting = bench.Setting(model=ModelConfig("nano", (8,) * len(size)), spec=Spec(size, 1))
    with pytest.raises(InputError, match="square 2D"):
        bench.step(setting, peers=("transformers",), quiet=True)


def test_a_peer_that_dies_is_reported(monkeypatch):
    """Without this the benchmark would wait for ever for an answer."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    with pytest.raises(MachineError, match="ended with code"):
        peers.Peer("transformers", {"no_such_field_and_no_images": 0}, 1, 1)


def test_the_peer_is_the_same_model():
    """The comparison is fair only if both have the same number of parameters."""
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install 'vitmed[bench]'")
    program = (
        "import sys, json; from transformers import ViTMAEConfig, ViTMAEForPreTraining as M;"
        "m = M(ViTMAEConfig(**json.loads(sys.argv[1])));"
        "print(sum(p.numel() for p in m.parameters() if p.requires_grad))"
    )

    shape = bench.peer_shape(TINY)
    run = subprocess.run(
        [sys.executable, "-c", program, json.dumps(shape)], capture_output=True, text=True, check=True
    )
    objective = registry.build(TINY.objective, TINY.model, TINY.spec)
    ours = jax.eval_shape(lambda: objective.init(jax.random.key(0), TINY.spec)[0])
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == int(run.stdout)


def test_loop_measures_what_training_adds(tiny_dataset):
    file = Path(__file__).parents[2] / "configs" / "pretrain_mae.py"
    values = config.load(f"{file}:tiny", {"data.path": str(tiny_dataset)})
    result = bench.loop(values, steps=4, repeats=1, quiet=True)
    assert result["images_per_second"] > 0 and result["bare_images_per_second"] > 0
    assert 0 <= result["data_wait"] <= 1


LOADERS_HERE = [name for name, needs in peers.LOADERS.items() if all(map(importlib.util.find_spec, needs))]


def test_load_answers_in_the_agreed_keys_beside_every_peer_that_is_here():
    result = load.load(batch=4, workers=1, repeats=2, scans=8, size=(16, 24), quiet=True)
    assert result["images_per_second"] > 0 and result["cached_images_per_second"] > 0
    assert list(result["peers"]) == list(result["ratio"]) == LOADERS_HERE
    assert all(speed > 0 for speed in result["peers"].values())
    assert {*LOADERS_HERE, *result["left_out"]} == {*peers.LOADERS}
    for name, ratio in result["ratio"].items():
        assert ratio == pytest.approx(result["images_per_second"] / result["peers"][name], rel=0.02, abs=0.01)


def test_every_loader_reads_the_same_pixels(tmp_path):
    """A peer that read other scans, or larger ones, would be another measurement."""
    load.write(tmp_path, 5, (16, 24))
    ingest(tmp_path / "dcm", tmp_path / "set", workers=1, progress=False, key=tmp_path / "key")
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.image_dtype == np.uint8 and dataset.size("train") == 5
    ours = dataset.read("train", np.arange(5))["image"][..., 0]
    theirs = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "png").iterdir())]
    stored = [pydicom.dcmread(file).pixel_array for file in sorted((tmp_path / "dcm").iterdir())]
    assert {image.tobytes() for image in ours} == {image.tobytes() for image in theirs}
    assert all(map(np.array_equal, theirs, stored)) and theirs[0].shape == (16, 24)


def test_load_leaves_out_what_is_not_installed_and_refuses_it_when_asked(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = load.load(batch=4, workers=1, repeats=1, scans=4, size=(16, 16), quiet=True)
    assert result["left_out"] == ["torch", "monai"] and result["peers"] == result["ratio"] == {}
    with pytest.raises(InputError, match=r"'monai' needs torch and monai.*vitmed\[bench\]"):
        load.load(peers=("monai",), quiet=True)
    with pytest.raises(InputError, match="choose one of torch, monai"):
        load.load(peers=("dali",), quiet=True)


def test_a_dataset_opened_without_a_cache_reads_from_disk(tmp_path):
    """Otherwise the benchmark would time copies of memory and call it loading."""
    load.write(tmp_path, 3, (16, 16))
    ingest(tmp_path / "dcm", tmp_path / "set", workers=1, progress=False, key=tmp_path / "key")
    for cache, kept in ((0, False), (None, True)):
        dataset = Dataset.open(tmp_path / "set", cache)
        dataset.read("train", np.arange(3))
        assert (dataset._cached["train"] is not None) == kept


def test_ingest_answers_in_the_agreed_keys_over_all_the_files():
    """A ratio over fewer files than were counted would flatter."""
    result = ingesting.ingesting(6, 2, repeats=2, size=(16, 24), volume=(8, 12, 12), slices=4, quiet=True)
    assert result["files"] == {"images": 6, "series": 8, "series to 2 mm": 8, "volumes": 2}
    for kind, count in result["files"].items():
        ours, theirs = (sum(times) / 2 for times in zip(*result["seconds"][kind], strict=True))
        assert result["files_per_second"][kind] == pytest.approx(count / ours, rel=0.02, abs=0.1)
        assert result["peers"][kind] == pytest.approx(count / theirs, rel=0.02, abs=0.1)
        assert result["ratio"][kind] == pytest.approx(theirs / ours, rel=0.02, abs=0.01)
    assert list(result["cpu_ratio"]) == list(result["files"])
