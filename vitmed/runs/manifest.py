"""The manifest of a checkpoint: the SHA-256 of every file in it, and of itself.

Fields of ``manifest.json``: ``step``, ``data_position`` (batches 0..data_position-1 are used), ``metrics``,
``files`` {name: {``bytes``, ``sha256``}} and ``sha256`` of all these as JSON with sorted keys.
"""

import hashlib
import json
from pathlib import Path

from vitmed import durable
from vitmed.errors import InputError

FOLDER = "checkpoints"  # of a run, with a folder for each step


def write(path: Path, step: int, metrics: dict[str, float]) -> None:
    """Adds ``manifest.json`` to the checkpoint in ``path``, once every byte of it has reached the disk."""
    files = {}
    for file in sorted(path.rglob("*")):
        durable.sync(file)
        if file.is_file():
            files[file.relative_to(path).as_posix()] = {
                "bytes": file.stat().st_size,
                "sha256": durable.sha256(file),
            }
    manifest = {"format": 1, "step": step, "data_position": step, "metrics": metrics, "files": files}
    durable.write_json(path / "manifest.json", manifest | {"sha256": _seal(manifest)})


def steps(run: Path) -> list[int]:
    """The steps of which a run has a checkpoint, ascending. It asks the disk alone: no device, and no other process."""
    return sorted(int(path.name) for path in (run / FOLDER).glob("*") if path.name.isdigit())


def last(run: Path) -> str:
    """The seal of a run's last checkpoint: it tells its weights from others, wherever the run lies.

    Raises:
        InputError: there is none.
    """
    held = steps(run)
    if not held:
        raise InputError(f"{run} has no checkpoint yet; train it first")
    return durable.read_json(run / FOLDER / str(held[-1]) / "manifest.json")["sha256"]


def fault(path: Path) -> str | None:
    """What is wrong with the checkpoint in ``path``, naming the file, or None when every byte is as saved."""
    listing = path / "manifest.json"
    try:
        manifest = json.loads(listing.read_text(encoding="utf-8"))
        seal = manifest.pop("sha256")
        if seal != _seal(manifest):
            return f"{listing} was altered after it was saved"
        if str(manifest["step"]) != path.name:
            return f"{listing} is of step {manifest['step']}"
        files = manifest["files"]
    except FileNotFoundError:
        return f"{listing} is missing"
    except OSError as error:
        return f"{listing} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{listing} is not a manifest"
    for name, expected in files.items():
        try:
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                return f"{path / name} has {size} bytes instead of {expected['bytes']}"
            if durable.sha256(path / name) != expected["sha256"]:
                return f"{path / name} differs from what was saved (SHA-256)"
        except FileNotFoundError:
            return f"{path / name} is missing"
        except OSError as error:
            return f"{path / name} cannot be read ({error.strerror})"
    return None


def _seal(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
