"""Scans of which one class is told by two distant findings together, and what a bag of patches makes of them.

  python docs/distant_findings.py data/distant

Simulated CT slices (`vitmed.phantoms`): `paired` scans have two faint patches on opposite sides, all others two on one
side, or a lesion beside them. Every place is taken as often in both, so no single place, no count and no bag of local
findings tells them apart. Makes data/distant/scans and data/distant/dataset, and prints the AUROC of a bag of patches and of
permuted labels over all scans, cross-validated by patient. configs/study/distant_findings.py trains networks on the set.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.phantoms import controls
from vitmed.phantoms.write import write
from vitmed.progress import Bar

PATIENTS, SCANS = 960, 4
SEED = 2  # other patients than the demo's, whose settings were chosen on seeds 0 and 1
PATCH = 8


def main(out: Path) -> None:
    scans = out / "scans"
    with Bar("simulating", PATIENTS, "patients") as bar:
        write(scans, "ct", PATIENTS, SEED, (64, 64), SCANS, progress=lambda done, total: bar.advance())
    with open(scans / "labels.csv", newline="") as table:
        rows = [
            row | {"label": "paired" if row["label"] == "paired" else "other"}
            for row in csv.DictReader(table)
        ]
    with open(out / "paired.csv", "w", newline="") as table:
        written = csv.DictWriter(table, list(rows[0]))
        written.writeheader()
        written.writerows(rows)
    ingest(scans, out / "dataset", labels=out / "paired.csv", modality="ct", split="67/5/28")
    dataset = Dataset.open(out / "dataset")
    records = [record for split in dataset.splits for record in dataset.records(split)]
    images = np.stack([record["image"][..., 0] for record in records])
    labels = np.array([int(record["label"][0]) for record in records])
    patients = np.array([record["patient"] for record in records])
    bag = controls.bag_of_patches(images, PATCH)
    print(f"bag of patches   {controls.auroc(bag, labels, patients):.3f}")
    print(f"permuted labels  {controls.auroc(bag, controls.permuted(labels, patients), patients):.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
