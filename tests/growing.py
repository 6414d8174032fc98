"""Scans of a few patients that a dataset is made of and grows by."""

import numpy as np
from PIL import Image

from vitmed.data.dataset import Dataset

FIRST = {"p1/a.png": (1, "Ann"), "p1/b.png": (2, "Bob"), "p1/d.png": (3, "Dan")}


def scans(folder, patients, first=0, finding="finding", classes=("clear", "lesion")):
    """Two pictures of noise for each patient, and a table; what was there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [] if (folder / "labels.csv").exists() else [f"path,patient,site,view,timepoint,study,{finding}"]
    for p in range(first, patients):
        rng = np.random.Generator(np.random.Philox(key=p))
        for k in range(2):
            pixels = rng.integers(0, 256, (12, 12)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"s{2 * p + k:03}.png")
            lines.append(
                f"s{2 * p + k:03}.png,MRN{p},site{p % 2},{'PA' if k else 'AP'},{k},st{p},{classes[p % len(classes)]}"
            )
    with open(folder / "labels.csv", "a") as file:
        file.write("\n".join(lines) + "\n")
    return folder / "labels.csv"


def where(dataset):
    """{id: (split, patient)} of a dataset."""
    opened = Dataset.open(dataset)
    return {
        i: (split, p)
        for split in opened.splits
        for i, p in zip(opened.ids(split), opened.patients(split), strict=True)
    }


def images(dataset):
    opened = Dataset.open(dataset)
    return {e["id"]: e for split in opened.splits for e in opened.records(split)}


def manifest(folder, scans, name="m/all.csv"):
    """A manifest that lies apart from its scans, which are pictures of {path: (number of its noise, patient)}."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for scan, (number, _) in scans.items():
        file = folder / "x" / scan
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.Generator(np.random.Philox(key=number)).integers(0, 256, (8, 8))
        Image.fromarray(noise.astype(np.uint8)).save(file)
    rows = [f"../x/{scan},{patient}" for scan, (_, patient) in scans.items()]
    path.write_text("\n".join(["path,patient", *rows]) + "\n")
    return path
