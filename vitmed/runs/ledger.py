"""The ledger: every evaluation of a split, so that a number on a test split says how often it was opened."""

import datetime
import fcntl
import os
from pathlib import Path

from vitmed import durable


def record(run: Path | str, dataset_hash: str, split: str, checkpoint: int) -> int:
    """Notes one evaluation; returns how often this split of this dataset was evaluated, with this time.

    Two evaluations at once are both noted.

    Args:
        run: the run's folder.
        dataset_hash: ``content_hash`` of the dataset's datasheet.
        split: name of the split.
        checkpoint: step of the checkpoint that was evaluated.

    Raises:
        InputError: ``ledger.json`` is damaged.
        MachineError: the disk is full or refuses.
    """
    run = Path(run)
    entry = {
        "dataset": dataset_hash,
        "split": split,
        "checkpoint": int(checkpoint),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    handle = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released when the handle closes, also by a kill
        durable.write_json(run / "ledger.json", {"format": 1, "evaluations": [*entries(run), entry]})
        return count(run, dataset_hash, split)
    finally:
        os.close(handle)


def entries(run: Path | str) -> list[dict]:
    """All evaluations noted, in order: ``dataset``, ``split``, ``checkpoint``, ``time`` (UTC)."""
    path = Path(run) / "ledger.json"
    return durable.read_json(path).get("evaluations", []) if path.exists() else []


def count(run: Path | str, dataset_hash: str, split: str) -> int:
    """How often this split of this dataset was evaluated with this run."""
    return sum(entry["dataset"] == dataset_hash and entry["split"] == split for entry in entries(run))
