"""Measures the loader: images a second of simulated X-rays, in turn with other libraries' loaders.

Ours reads a dataset that was ingested from the very files that the others read: PyTorch's DataLoader the scans as
PNG, MONAI the DICOM. That is the comparison a person faces, who decodes files in every epoch or once. Ours runs
with nothing kept in memory; what a set that fits there gives is told apart.
"""

import contextlib
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from vitmed.data import loader
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.phantoms import files
from vitmed.phantoms.example import example
from vitmed.progress import Bar
from vitmed.scale.bench import seconds
from vitmed.scale.peers import LOADERS, Peer

SIZE = (224, 224)
DISTINCT = 32  # simulated scans; the rest are copies, which take as long to read


def load(
    batch: int = 256,
    workers: int = 2,
    repeats: int = 5,
    peers: tuple[str, ...] | None = None,
    scans: int = 1024,
    size: tuple[int, int] = SIZE,
    quiet: bool = False,
) -> dict:
    """Times batches of grey 8-bit images, turn by turn.

    Args:
        batch: images a batch.
        workers: threads of ours, processes of theirs.
        repeats: turns of each.
        peers: of ``LOADERS``; None for those that are installed.
        scans: how many there are to draw from.

    Returns:
        ``images_per_second`` read from disk, ``peers`` {name: images per second}, ``ratio`` {name: ours/theirs}, from
        medians over ``repeats``; ``cached_images_per_second`` of a set kept in memory; ``left_out``, peers that
        are not installed; and what they are of.

    Raises:
        InputError: a peer that was asked for is not known or not installed.
    """
    left_out = []
    if peers is None:
        left_out = [n for n, needs in LOADERS.items() if not all(map(importlib.util.find_spec, needs))]
        peers = tuple(name for name in LOADERS if name not in left_out)
    # Longer than what anyone has made ahead (two batches a worker in PyTorch), so that an untimed turn uses it up.
    turn = max(6, 3 * workers)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        timed = {}
        for name in peers:
            Peer.check(name, LOADERS)
        write(Path(folder), scans, size)
        ingest(
            Path(folder, "dcm"), Path(folder, "set"), workers=workers, progress=False, key=Path(folder, "key")
        )
        for name, cache in (("ours", 0), ("cached", None)):
            dataset = Dataset.open(Path(folder, "set"), cache)
            batches = loader.batches(dataset, "train", batch, 0, 0, 10**9, workers=workers)
            stack.callback(batches.close)  # else its threads read on
            timed[name] = lambda batches=batches: seconds(lambda: _take(batches, turn, batch))
        for name in peers:
            what = {"folder": folder, "turn": turn}
            timed[name] = stack.enter_context(Peer(name, what, batch, workers, LOADERS)).seconds
        took = {name: [] for name in timed}
        with Bar("bench load", repeats, "rounds", quiet=quiet) as bar:
            for _ in range(repeats):
                for name, once in timed.items():
                    once()  # untimed: uses up what was made while the others had their turns
                    took[name].append(once())
                    # Its workers go on until they have filled up what they keep ahead, which is less than a turn: the
                    # next one's time must not begin before they stand still.
                    time.sleep(took[name][-1])
                bar.advance(1, ", ".join(f"{name} {times[-1]:.2f} s" for name, times in took.items()))
    speed = {name: turn * batch / statistics.median(times) for name, times in took.items()}
    return {
        "images_per_second": round(speed["ours"], 1),
        "peers": {name: round(speed[name], 1) for name in peers},
        "ratio": {name: round(speed["ours"] / speed[name], 2) for name in peers},
        "cached_images_per_second": round(speed["cached"], 1),
        "left_out": left_out,
        "seconds": {name: [round(t, 4) for t in times] for name, times in took.items()},
        "batch": batch,
        "batches": turn,
        "workers": workers,
        "repeats": repeats,
        "scans": scans,
        "size": list(size),
    }


def write(folder: Path, scans: int, size: tuple[int, int]) -> None:
    """The scans as ``dcm/`` and ``png/``, 8 bits a pixel, the same pixels in both."""
    for kind in ("dcm", "png"):
        (folder / kind).mkdir()
    distinct = min(DISTINCT, scans)
    for kept in range(distinct):
        picture = example("xray", 0, kept, 0, size).picture
        grey = (picture.image >> 4).astype(np.uint8)
        first = folder / "dcm" / f"{kept:05}.dcm"
        # One patient: all of it is trained on.
        files.dicom(first, "xray", picture.image, picture.spacing, "S0", "A", kept)
        header = pydicom.dcmread(first)
        header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
        header.WindowCenter, header.WindowWidth = "128", "256"
        header["PixelData"].VR = "OB"
        header.PixelData = grey.tobytes()
        for number in range(kept, scans, distinct):
            for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                setattr(header, name, generate_uid(entropy_srcs=[name, str(number)]))
            header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
            header.save_as(folder / "dcm" / f"{number:05}.dcm", enforce_file_format=True)
            files.png(folder / "png" / f"{number:05}.png", grey)


def _take(batches, turn: int, batch: int) -> None:
    for _ in range(turn):
        assert len(next(batches)["main"]["image"]) == batch
