"""Files of weights: arrays by name. ``.safetensors`` and ``.npz`` run no code; PyTorch's own only where asked for."""

import json
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  makes NumPy know bfloat16, in which some weights are published
import numpy as np

from vitmed.errors import InputError
from vitmed.scans.arrays import member

WRAPPERS = ("model", "state_dict", "teacher")  # under which training scripts of PyTorch put the weights


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file as float32, and its metadata (of ``.safetensors``; else empty).

    Raises:
        InputError: no such file, one that cannot be read, of another kind, or a pickle without the extra ``torch``.
    """
    if (path / "config.json").is_file():
        raise InputError(f"{path} is a run; to write its weights to a file give --to safetensors")
    if not path.is_file():
        raise InputError(f"{path} is not a file; give a .safetensors or .npz file of weights")
    kind = path.suffix.lower()
    if kind == ".safetensors":
        arrays, metadata = _safetensors(path)
    elif kind == ".npz":
        arrays, metadata = _npz(path), {}
    elif kind in (".pth", ".pt", ".bin"):
        arrays, metadata = _pickle(path), {}
    else:
        raise InputError(
            f"{path} ends in {kind or 'nothing'}; give a .safetensors, .npz or .pth file of weights"
        )
    for name, array in arrays.items():
        if not np.isfinite(array := array.astype(np.float32)).all():
            raise InputError(f"{path}: {name} is not finite; get the file again")
        arrays[name] = array
    return arrays, metadata


def write(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes a ``.safetensors`` file, whole or not at all."""
    from safetensors.numpy import save_file

    draft = path.with_name(f".{path.name}")
    try:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, draft, metadata)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def beside(path: Path) -> dict[str, Any]:
    """What transformers keeps beside its weights: ``config.json`` and ``preprocessor_config.json``, in one dict."""
    found: dict[str, Any] = {}
    for name, sign in (("config.json", "model_type"), ("preprocessor_config.json", "image_mean")):
        try:
            values = json.loads((path.parent / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise InputError(
                f"{path.parent / name} is not JSON ({error}); get it again, or move it"
            ) from None
        if isinstance(values, dict) and sign in values:
            found |= values
    return found


def _safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError, TypeError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}); get the file again") from None


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: member(file, name) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as arrays of NumPy ({error}); save it with numpy.savez"
        ) from None


def _pickle(path: Path) -> dict[str, np.ndarray]:
    """A PyTorch checkpoint, without running what it may hold (``weights_only``)."""
    import argparse

    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is a PyTorch pickle, which takes PyTorch to read: pip install 'vitmed[torch]', or give it as "
            ".safetensors"
        ) from None
    try:
        # The options of a training script, which MAE keeps beside its weights, are attributes and nothing more.
        with torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, whatever the file holds
        raise InputError(
            f"{path} is no PyTorch checkpoint of weights alone ({str(error).splitlines()[0]}); what may run code is not opened"
        ) from None
    for name in WRAPPERS:
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
            break
    if not isinstance(held, dict):
        raise InputError(f"{path} holds a {type(held).__name__}; names and tensors were expected")
    return {name: value.float().numpy() for name, value in held.items() if isinstance(value, torch.Tensor)}
