"""Our own weights in one file: ``safetensors``, each array by its path, the recipe in the metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vitmed.errors import InputError
from vitmed.weights import files

KEY = "vitmed"  # of the metadata


def write(path: Path, params: dict, about: dict[str, Any]) -> None:
    """Writes all of a run's parameters, and ``about`` it what must be known to use them (JSON)."""
    flat = traverse_util.flatten_dict(params, sep=".")
    files.write(path, {name: np.asarray(a) for name, a in flat.items()}, {KEY: json.dumps(about)})


def read(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> tuple[dict, dict[str, Any]]:
    """Parameters and what is known about them, of a file that ``write`` made.

    Raises:
        InputError: metadata that were damaged.
    """
    try:
        return traverse_util.unflatten_dict(arrays, sep="."), json.loads(metadata[KEY])
    except ValueError as error:
        raise InputError(f"{path} has damaged metadata ({error}); make it again") from None
