"""A folder of simulated scans, as a hospital's export would look, with the truth beside it.

OUT/PATIENT/SCAN...     in 2D DICOM files (xray, ct, mr) or PNG (ultrasound); in 3D DICOM series (xray, ct) or
                        NIfTI (mr, ultrasound)
OUT/labels.csv          path, patient, site, label
OUT/phantoms.json       how it was made; its presence marks whatever is built from the folder as simulated
OUT/../truth/OUT/...    masks (codes in phantoms.json) and findings.csv; outside, so that it is not taken
for scans
"""

import csv
import functools
import json
import shutil
from collections import Counter
from pathlib import Path

from vitmed.errors import InputError
from vitmed.phantoms import files
from vitmed.phantoms.example import Example, check, example
from vitmed.phantoms.findings import CLASSES, CODES
from vitmed.pool import cores, one_thread, pool

FORMAT = 1


def write(
    out: Path | str,
    modality: str,
    patients: int,
    seed: int = 0,
    size: tuple[int, ...] | None = None,
    scans_per_patient: int = 4,
    workers: int | None = None,
    progress=None,
) -> dict:
    """Write `patients` patients with `scans_per_patient` scans each; the same arguments give the same bytes.

    Takes modality "xray" (3D is tomosynthesis), "ct", "mr" or "ultrasound" (3D is a swept volume); size in
    array order, whose length, 2 or 3, decides the dimension; workers, processes (all cores by default; the result does not depend on it);
    progress(done, total), called after each patient. A folder that already holds just this is left as it is.
    Gives {"out", "truth", "modality", "patients", "scans", "labels": {class: scans}}. InputError for a
    modality or size that is not simulated, fewer than one patient or scan, or a folder that holds something
    else.
    """
    out, size = Path(out), check(modality, size)
    if patients < 1 or scans_per_patient < 1:
        raise InputError(
            f"patients={patients}, scans_per_patient={scans_per_patient}: each must be at least 1"
        )
    made = {
        "format": FORMAT, "simulated": True, "modality": modality, "patients": patients, "seed": seed,
        "size": list(size), "scans_per_patient": scans_per_patient, "classes": list(CLASSES), "codes": CODES,
    }  # fmt: skip
    truth = out.parent / "truth" / out.name
    if already(out, made):
        labels = [row["label"] for row in csv.DictReader(open(out / "labels.csv", newline=""))]
        return summary(out, truth, made, labels)
    scans_part, truth_part = out.with_name(out.name + ".partial"), truth.with_name(truth.name + ".partial")
    for folder in (scans_part, truth_part):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    job = functools.partial(write_patient, scans_part, truth_part, modality, seed, size, scans_per_patient)
    rows, found = [], []
    for done, (some_rows, some_found) in enumerate(run(job, patients, workers), 1):
        rows += some_rows
        found += some_found
        if progress is not None:
            progress(done, patients)
    table(scans_part / "labels.csv", ("path", "patient", "site", "label"), rows)
    table(truth_part / "findings.csv", ("path", "kind", "detail", "z", "y", "x"), found)
    (scans_part / "phantoms.json").write_text(json.dumps(made, indent=1) + "\n")
    shutil.rmtree(truth, ignore_errors=True)
    truth_part.rename(truth)
    if out.exists():
        out.rmdir()
    scans_part.rename(out)
    return summary(out, truth, made, [row[3] for row in rows])


def already(out: Path, made: dict) -> bool:
    """True where `out` holds exactly what would be written; InputError where it holds anything else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise InputError(f"{out} is a file: name a folder to write phantoms to")
    if not any(out.iterdir()):
        return False
    record = out / "phantoms.json"
    if not record.is_file():
        raise InputError(
            f"{out} is not empty and holds no phantoms.json: name an empty folder for the phantoms"
        )
    held = json.loads(record.read_text())
    differ = [f"{k} {held.get(k)} (now {v})" for k, v in made.items() if held.get(k) != v]
    if differ:
        raise InputError(
            f"{out} holds other phantoms, with {', '.join(differ)}: name another folder or delete it"
        )
    return True


def summary(out: Path, truth: Path, made: dict, labels: list[str]) -> dict:
    count = Counter(labels)
    return {
        "out": str(out), "truth": str(truth), "modality": made["modality"], "patients": made["patients"],
        "scans": len(labels), "labels": {name: count[name] for name in CLASSES},
    }  # fmt: skip


def run(job, patients: int, workers: int | None):
    """job(patient) for every patient, in order, in `workers` processes; here where one is enough."""
    workers = min(workers or cores(), patients)
    if workers == 1:
        yield from map(job, range(patients))
        return
    with pool(workers) as processes:
        yield from processes.map(job, range(patients), chunksize=max(1, min(8, patients // (4 * workers))))


def write_patient(scans: Path, truth: Path, modality: str, seed: int, size, count: int, patient: int):
    """All scans of one patient. Gives the rows of labels.csv and of findings.csv."""
    rows, found = [], []
    with one_thread():
        for scan in range(count):
            made = example(modality, seed, patient, scan, size)
            path = write_scan(scans, truth, modality, made, scan)
            rows.append((path, made.patient, made.site, made.label))
            for finding in made.findings:
                place = (f"{v:.1f}" for v in finding.parts[-1].body[0].centre)
                found.append((path, finding.kind, finding.detail, *place))
    return rows, found


def write_scan(scans: Path, truth: Path, modality: str, made: Example, scan: int) -> str:
    """The scan and its mask. Gives the scan's path in the folder."""
    picture, volume = made.picture, made.picture.image.ndim == 3
    stem = f"{made.patient}/scan{scan}"
    flat, deep = {"ultrasound": (".png", ".nii.gz"), "mr": (".dcm", ".nii.gz")}.get(modality, (".dcm", ""))
    path = stem + (deep if volume else flat)
    for root in (scans, truth):
        (root / made.patient).mkdir(exist_ok=True)
    if path.endswith(".png"):
        files.png(scans / path, picture.image)
    elif path.endswith(".nii.gz"):
        files.nifti(scans / path, picture.image, picture.spacing)
    else:
        kind = "tomosynthesis" if modality == "xray" and volume else modality
        files.dicom(scans / path, kind, picture.image, picture.spacing, made.patient, made.site, scan)
    if volume:
        files.nifti(truth / (stem + ".nii.gz"), picture.truth, picture.spacing)
    else:
        files.png(truth / (stem + ".png"), picture.truth)
    return path


def table(path: Path, header, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
