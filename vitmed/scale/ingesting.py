"""Measures ingest, from files to a finished dataset, in turn with plain loops that only decode the same files.

A loop that reads pixels and throws them away is the least that anything could take: what ingest adds is headers
made sense of, checks, statistics, the search for copies and names, and the writing. Both have one process, so the
speeds are those of a core, and what must be imported is imported before.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import SimpleITK

from vitmed.data.ingest import ingest
from vitmed.phantoms import files
from vitmed.phantoms.example import example
from vitmed.progress import Bar
from vitmed.scale import load

VOLUME = (48, 96, 96)
PEERS = {"pydicom": "dicom", "SimpleITK": "volumes"}  # the loop, and what it reads


def ingesting(
    scans: int = 1024,
    volumes: int = 64,
    repeats: int = 3,
    size: tuple[int, int] = (64, 64),
    volume: tuple[int, int, int] = VOLUME,
    quiet: bool = False,
) -> dict:
    """Times both, turn by turn, over DICOM images of one slice and over NIfTI volumes.

    Args:
        scans: DICOM files, grey and 8-bit, of ``size``.
        volumes: NIfTI files, MR, of ``volume``.

    Returns:
        ``files_per_second`` {"dicom", "volumes"} of ingest, ``peers`` {name: files per second of the loop}, ``ratio``
        {name: ours/theirs}, from medians over ``repeats``; ``cpu_ratio``, the same by the processor's time, which
        other programs disturb less; and what they are of.
    """
    with tempfile.TemporaryDirectory() as name, Bar("bench ingest", repeats, "rounds", quiet=quiet) as bar:
        folder = Path(name)
        load.write(folder, scans, size)
        shutil.rmtree(folder / "png")
        (folder / "nii").mkdir()
        made = example("mr", 0, 0, 0, volume).picture
        files.nifti(folder / "nii" / "0000.nii.gz", made.image, made.spacing)
        for number in range(1, volumes):
            files.nifti(folder / "nii" / f"{number:04}.nii.gz", made.image + number, made.spacing)
        held = {kind: sorted((folder / kind).iterdir()) for kind in ("dcm", "nii")}
        timed: dict[str, Callable[[], None]] = {
            "dicom": lambda: _ingest(folder, "dcm"),
            "pydicom": lambda: [pydicom.dcmread(file).pixel_array for file in held["dcm"]],
            "volumes": lambda: _ingest(folder, "nii", modality="mr"),
            "SimpleITK": lambda: [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(f)) for f in held["nii"]],
        }
        for once in timed.values():
            once()  # untimed: imports, and files that the system then keeps in memory
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
        for _ in range(repeats):
            for name, once in timed.items():
                began = time.perf_counter(), time.process_time()
                once()
                took[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
            bar.advance(1, ", ".join(f"{name} {times[-1][0]:.2f} s" for name, times in took.items()))
    wall, cpu = ({n: statistics.median(t[k] for t in times) for n, times in took.items()} for k in (0, 1))
    count = {"dicom": scans, "pydicom": scans, "volumes": volumes, "SimpleITK": volumes}
    return {
        "files_per_second": {name: round(count[name] / wall[name], 1) for name in ("dicom", "volumes")},
        "peers": {name: round(count[name] / wall[name], 1) for name in PEERS},
        "ratio": {name: round(wall[name] / wall[ours], 3) for name, ours in PEERS.items()},
        "cpu_ratio": {name: round(cpu[name] / cpu[ours], 3) for name, ours in PEERS.items()},
        "seconds": {name: [round(t, 4) for t, _ in times] for name, times in took.items()},
        "repeats": repeats,
        "scans": scans,
        "volumes": volumes,
        "size": list(size),
        "volume": list(volume),
    }


def _ingest(folder: Path, kind: str, **how) -> None:
    out = folder / "set"
    ingest(folder / kind, out, workers=1, progress=False, key=folder / "key", **how)
    shutil.rmtree(out)
