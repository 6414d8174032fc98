"""Measures ingest, from files to a finished dataset, in turn with plain loops that only decode the same files.

A loop that reads pixels and throws them away is the least that anything could take: what ingest adds is headers
made sense of, checks, statistics, the search for copies and names, and the writing. Both have one process, so the
speeds are those of a core, and what must be imported is imported before.
"""

import functools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK

from vitmed.data.ingest import ingest
from vitmed.phantoms import files
from vitmed.phantoms.example import example
from vitmed.progress import Bar
from vitmed.scale import load

VOLUME = (48, 96, 96)
PATIENTS = 8  # who are simulated, at a second and a half each
SERIES = 192  # slices of a series, each of 384 x 384: a head of .65 mm voxels
# What goes in, the library whose loop decodes the same files, and how it is ingested.
KINDS = {
    "images": ("pydicom", {}),
    "series": ("pydicom", {"modality": "mr"}),
    "series to 2 mm": ("pydicom", {"modality": "mr", "spacing": (2.0, 2.0, 2.0), "size": (96, 96, 96)}),
    "volumes": ("SimpleITK", {"modality": "mr"}),
}


def ingesting(
    scans: int = 1024,
    volumes: int = 64,
    repeats: int = 3,
    size: tuple[int, int] = (64, 64),
    volume: tuple[int, int, int] = VOLUME,
    slices: int = SERIES,
    quiet: bool = False,
) -> dict:
    """Times both, turn by turn, over DICOM images of one slice, DICOM series, and NIfTI volumes.

    Args:
        scans: DICOM files of one image, grey and 8-bit, of ``size``; as many more, rounded up to whole series, are
            slices of series, MR, 16-bit, four times as high and wide as ``volume``.
        volumes: NIfTI files, MR, of ``volume``.
        slices: of a series.

    Returns:
        By the keys of ``KINDS``: ``files`` that there are, ``files_per_second`` of ingest, ``peers`` the same of the loop,
        ``ratio`` ours/theirs, from medians over ``repeats``; ``cpu_ratio``, the same by the processor's time, which
        other programs disturb less; ``seconds`` {kind: [[ours, theirs], ...]}; and what they are of.
    """
    with tempfile.TemporaryDirectory() as name, Bar("bench ingest", repeats, "rounds", quiet=quiet) as bar:
        folder = Path(name)
        load.write(folder, scans, size)
        shutil.rmtree(folder / "png")
        (folder / "nii").mkdir()
        made = [example("mr", 0, patient, 0, volume).picture for patient in range(min(PATIENTS, volumes))]
        for number in range(volumes):
            turn, patient = divmod(number, PATIENTS)
            image = np.roll(
                made[patient].image, turn * volume[-1] // 8, -1
            )  # or all would be copies of a few
            files.nifti(folder / "nii" / f"{number:04}.nii.gz", image, made[patient].spacing)
        stack = np.resize(made[0].image.repeat(4, 1).repeat(4, 2), (slices, 4 * volume[1], 4 * volume[2]))
        (folder / "series").mkdir()
        for number in range(-(-scans // slices)):
            place = folder / "series" / f"{number:03}"
            files.dicom(place, "mr", stack + number, (0.65, 0.65, 0.65), f"patient {number}", "bench", number)
        held = {
            kind: [str(file) for file in sorted((folder / lies).rglob("*.*"))]
            for kind, lies in {"images": "dcm", "series": "series", "volumes": "nii"}.items()
        }
        held["series to 2 mm"] = held["series"]
        decode = {"pydicom": _by_pydicom, "SimpleITK": _by_simpleitk}
        took: dict[str, list[list[tuple[float, float]]]] = {kind: [] for kind in KINDS}
        for turn in range(repeats + 1):
            for kind, (peer, how) in KINDS.items():
                source = Path(os.path.commonpath(held[kind]))
                pair = [
                    _timed(functools.partial(_ingest, folder, source, **how)),
                    _timed(functools.partial(decode[peer], held[kind])),
                ]
                if turn:  # the first is for imports, and for files that the system then keeps in memory
                    took[kind].append(pair)
            if turn:
                bar.advance(1, ", ".join(f"{kind} {times[-1][0][0]:.2f} s" for kind, times in took.items()))

    def median(kind: str, whose: int, clock: int) -> float:
        return statistics.median(pair[whose][clock] for pair in took[kind])

    count = {kind: len(held[kind]) for kind in KINDS}
    return {
        "files": count,
        "files_per_second": {kind: round(count[kind] / median(kind, 0, 0), 1) for kind in KINDS},
        "peers": {kind: round(count[kind] / median(kind, 1, 0), 1) for kind in KINDS},
        "ratio": {kind: round(median(kind, 1, 0) / median(kind, 0, 0), 3) for kind in KINDS},
        "cpu_ratio": {kind: round(median(kind, 1, 1) / median(kind, 0, 1), 3) for kind in KINDS},
        "seconds": {kind: [[round(t, 4) for t, _ in pair] for pair in took[kind]] for kind in KINDS},
        "repeats": repeats,
        "size": list(size),
        "series": [slices, 4 * volume[1], 4 * volume[2]],
        "volume": list(volume),
    }


def _timed(once: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    began = time.perf_counter(), time.process_time()
    once()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def _by_pydicom(held: list[str]) -> None:
    for file in held:
        pydicom.dcmread(file).pixel_array  # noqa: B018 - decoding is what is timed


def _by_simpleitk(held: list[str]) -> None:
    for file in held:
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))


def _ingest(folder: Path, source: Path, **how) -> None:
    out = folder / "set"
    ingest(source, out, workers=1, progress=False, key=folder / "key", **how)
    shutil.rmtree(out)
