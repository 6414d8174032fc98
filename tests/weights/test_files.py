"""Files of weights: what is read is what was written, and what might run code is not opened."""

import importlib.util
import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.weights import files, ours

WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}


def test_arrays_come_back_as_float32(tmp_path):
    """Also from bfloat16, in which some weights are published."""
    files.write(tmp_path / "w.safetensors", {"a": WEIGHTS["a.weight"].astype(ml_dtypes.bfloat16)}, {"k": "v"})
    arrays, metadata = files.read(tmp_path / "w.safetensors")
    assert arrays["a"].dtype == np.float32 and np.array_equal(arrays["a"], WEIGHTS["a.weight"])
    assert metadata == {"k": "v"}
    np.savez(tmp_path / "w.npz", **{name: value.astype(np.float16) for name, value in WEIGHTS.items()})
    arrays, _ = files.read(tmp_path / "w.npz")
    assert all(
        np.array_equal(arrays[name], WEIGHTS[name]) and arrays[name].dtype == np.float32 for name in WEIGHTS
    )


def test_our_own_go_out_and_come_in(tmp_path, rng):
    params = {
        "encoder": {"norm": {"scale": rng.random(3, np.float32)}},
        "head": {"bias": np.zeros(2, np.float32)},
    }
    ours.write(tmp_path / "w.safetensors", params, {"format": 1, "recipe": "text"})
    back, about = ours.read(tmp_path / "w.safetensors", *files.read(tmp_path / "w.safetensors"))
    assert about == {"format": 1, "recipe": "text"} and set(back) == {"encoder", "head"}
    assert np.array_equal(back["encoder"]["norm"]["scale"], params["encoder"]["norm"]["scale"])


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refused(name, content, says):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=says):
            files.read(tmp_path / name)

    with pytest.raises(InputError, match="none.npz is not a file"):
        files.read(tmp_path / "none.npz")
    refused("w.safetensors", b"broken", "cannot be read as safetensors")
    refused("w.npz", b"broken", "cannot be read as arrays of NumPy")
    refused("w.onnx", b"broken", "ends in .onnx; give a .safetensors")
    np.savez(tmp_path / "object.npz", a=np.array([{}], object))
    with pytest.raises(InputError, match="cannot be read as arrays of NumPy"):
        files.read(tmp_path / "object.npz")
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as file:
        file.writestr("a.npy", b"junk")
    with pytest.raises(InputError, match="bytes.npz cannot be read as arrays of NumPy .*its member a does not begin"):
        files.read(tmp_path / "bytes.npz")
    np.savez(tmp_path / "nan.npz", a=np.array([np.nan]))
    with pytest.raises(InputError, match="nan.npz: a is not finite"):
        files.read(tmp_path / "nan.npz")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    refused("w.pth", b"broken", r"takes PyTorch to read: pip install 'vitmed\[torch\]'")


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
def test_a_pickle_gives_its_tensors_and_runs_nothing(tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed; pip install 'vitmed[torch]'")
    import argparse

    import torch

    tensors = {name: torch.tensor(value) for name, value in WEIGHTS.items()}
    torch.save({"model": tensors, "args": argparse.Namespace(lr=1.0), "epoch": 3}, tmp_path / "w.pth")
    arrays, _ = files.read(tmp_path / "w.pth")
    assert set(arrays) == set(WEIGHTS) and np.array_equal(arrays["a.weight"], WEIGHTS["a.weight"])

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(InputError, match="what may run code is not opened"):
        files.read(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_only_transformers_own_configs_are_heeded(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "config": {}}))
    assert files.beside(tmp_path / "w.npz") == {}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": 2}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5], "image_std": [0.25]}))
    assert files.beside(tmp_path / "w.npz")["num_attention_heads"] == 2
    assert files.beside(tmp_path / "w.npz")["image_std"] == [0.25]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json is not JSON"):
        files.beside(tmp_path / "w.npz")
