"""Where every number of the page came from: hashes of data, commands, commits, versions, seeds."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def provenance(
    runs: Sequence[dict], datasets: Sequence[dict], studies: Sequence[dict], home: Path
) -> dict[str, list[dict]]:
    """Datasets by content, runs and studies by what made them; paths as seen from folder ``home``."""
    return {
        "datasets": [
            {
                "name": d["sheet"]["name"],
                "path": relative(d["path"], home),
                "hash": d["sheet"]["content_hash"],
                "made": d["sheet"].get("vitmed"),
                "seed": (d["sheet"].get("splits") or {}).get("seed"),
            }
            for d in datasets
        ],
        "runs": [_run_row(run, home) for run in runs],
        "studies": [
            {
                "name": s["study"],
                "path": relative(s["path"], home),
                "command": _command(s["command"]),
                "hash": s["dataset"]["content_hash"],
                "cells": len(s["cells"]),
                "opened": s["opened"],
                "split": s["split"],
            }
            for s in studies
        ],
    }


def _run_row(run: dict[str, Any], home: Path) -> dict[str, Any]:
    first = run["first"]
    source = first.get("source") or {}
    commit = (source.get("commit") or "")[:12] or "not from a checkout"
    packages = first.get("packages") or {}
    devices = first.get("devices") or {}
    versions = [f"vitmed {first.get('vitmed', '?')}"] + [
        f"{p} {packages[p]}" for p in ("jax", "flax", "optax") if p in packages
    ]
    return {
        "name": run["name"],
        "path": relative(run["path"], home),
        "command": _command(first.get("command", "")),
        "commit": commit + (" with changes" if source.get("commit") and source.get("dirty") else ""),
        "versions": ", ".join(versions + ([f"Python {first['python']}"] if "python" in first else [])),
        "device": f"{devices.get('count', '?')} {devices.get('platform', '')} "
        f"({devices.get('kind', 'unknown')})",
        "seed": run["flat"].get("train.seed"),
        "hash": run["datasheet"]["content_hash"],
        "started": first.get("started", ""),
        "starts": run["starts"],
    }


def _command(command: str) -> str:
    """The command without the folder that Python lies in, which says nothing on another machine."""
    parts = shlex.split(command)
    return shlex.join([Path(parts[0]).name, *parts[1:]]) if parts else "not recorded"


def relative(path: Path, home: Path) -> str:
    """``path`` as seen from the folder ``home``."""
    return Path(os.path.relpath(path.resolve(), home)).as_posix()
