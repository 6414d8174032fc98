"""``vitmed predict``: what a trained run says of scans, or of a dataset: scores in a table, masks as files.

Everything is written beside its place and comes there by one rename, so that a result is whole or not there.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from vitmed import durable, words
from vitmed.apply.answers import Masks, Scores
from vitmed.apply.intake import Asked, Scans, Split
from vitmed.data import datasheet
from vitmed.data.replacing import partial_of
from vitmed.errors import InputError
from vitmed.evaluate.evaluate import learned_from
from vitmed.infer import Model
from vitmed.progress import Bar
from vitmed.runs import ledger, step_of


def predict(
    run: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    which: str = "last",
    split: str | None = None,
    count: int | None = None,
    force: bool = False,
    workers: int | None = None,
    quiet: bool = True,
) -> dict:
    """Asks a run about scans and writes the folder ``out``.

    In it are ``result.json`` and, of a classifier or regressor, ``predictions.csv``; of a run that gives masks a file for
    each scan, on the scan's own grid.

    Args:
        run: folder of a run that learned from labels or masks.
        inputs: files and folders of scans, or one dataset.
        out: a folder that is not there yet.
        which: "last" or "best" checkpoint.
        split: of a dataset; None is "test".
        count: at most so many scans, the first ones; None is all.
        force: take scans that do not fit where that has a meaning, and say so in ``result.json``.
        workers: processes that read scans; None for one a core.
        quiet: show no progress.

    Returns:
        What ``result.json`` holds but for its lists of scans: ``run out examples refused`` {reason: n}, ``notes``, and
        ``metrics`` where the input is a dataset that holds the truth.

    Raises:
        InputError: no run, a run that learned from nothing, no such input, or nothing in it that could be predicted.
        MachineError: no checkpoint can be read, the disk is full, or a worker died.
    """
    out, paths = Path(out), [Path(path) for path in inputs]
    if count is not None and count < 1:
        raise InputError(f"--count is {count}; at least 1 was expected")
    if out.exists():
        raise InputError(f"{out} exists already; give --out a new path, or remove it first")
    model = Model.open(run, which)
    if not (model.has_head or model.gives_masks):
        raise InputError(
            f"{run} is a run of {model.objective!r}, which says nothing of a scan; fine-tune it first, with "
            "--config.init_from"
        )
    if "modality" not in model.datasheet:
        raise InputError(
            f"{run} has its weights from a file of an older vitmed, which does not say how scans were prepared; write the "
            "file again from its run, with vitmed convert --to safetensors"
        )
    step = step_of(model.run, which)
    with partial_of(out) as partial:
        waits = partial / ".waits"  # hidden, so no scan lies in a folder of that name
        waits.mkdir()
        if _is_dataset(paths):
            asked = Split(model, paths[0], split or "test", count, force)
        elif split is None:
            asked = Scans(model, paths, waits, count, force, workers)
        else:
            raise InputError(f"--split {split} is of a dataset, and {paths[0]} is none; leave it out")
        answers = (Masks if model.gives_masks else Scores)(model, asked, step, partial, quiet)
        with Bar("predict", len(asked.ids), "scans", quiet=quiet) as bar:
            for some in asked.fed():
                for done in answers.ask(*some):
                    bar.advance(done)
        if not answers.scans:
            raise InputError(_nothing(paths, asked))
        result = {
            "run": str(run),
            "checkpoint": step,
            "trained_on": {"dataset": model.dataset_path, "content_hash": model.datasheet["content_hash"]},
            "input": asked.told,
            "out": str(out),
            "examples": len(answers.scans),
            "refused": asked.reasons(),
            **answers.finish(),
        }
        if (truth := answers.metrics()) is not None:
            # A split whose numbers are shown has been looked at.
            data, name = asked.truth
            result |= {"opened": ledger.record(model.run, data.datasheet["content_hash"], name, step)} | truth
        beside = learned_from(model, *asked.truth) + model.beside(asked.truth[0]) if asked.truth else []
        result["notes"] = beside + answers.notes + _forced(asked)
        listed = {
            "scans": [scan | {"forced": asked.forced.get(scan["id"], [])} for scan in answers.scans],
            "refused_scans": [dict(zip(("id", "reason", "detail"), fault)) for fault in asked.refused],
        }
        shutil.rmtree(waits)
        text = json.dumps({"format": 1, **result, **listed}, indent=2)
        durable.write_text(partial / "result.json", text + "\n")
    return result


def _is_dataset(paths: Sequence[Path]) -> bool:
    """Whether the input is a dataset.

    Raises:
        InputError: a dataset beside something else.
    """
    held = [path for path in paths if (path / datasheet.FILE).is_file()]
    if held and len(paths) > 1:
        raise InputError(f"{held[0]} is a dataset; give it alone, and what is beside it in another command")
    return bool(held)


def _nothing(paths: Sequence[Path], asked: Asked) -> str:
    if not asked.refused:
        return f"{paths[0]} holds no scan: no DICOM, NIfTI, MHA, NRRD, PNG, JPEG, TIFF, BMP or npy file in it"
    scan, reason, detail = asked.refused[0]
    why = f"{reason} ({detail})" if detail else reason
    return f"nothing could be predicted: {words.plural(len(asked.refused), 'scan')} refused, the first is {scan}: {why}"


def _forced(asked: Asked) -> list[str]:
    """A note for each thing that was forced, and on how many scans."""
    counts: dict[str, int] = {}
    for what in (what for many in asked.forced.values() for what in many):
        counts[what] = counts.get(what, 0) + 1
    return [f"forced on {words.plural(n, 'scan')}: {what}" for what, n in counts.items()]
