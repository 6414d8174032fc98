"""What ``predict`` wrote, and scans to ask about, for the tests of it."""

import csv
import json

import nibabel


def result(out):
    return json.loads((out / "result.json").read_text())


def table(out):
    with open(out / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def save(path, values, affine):
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path
