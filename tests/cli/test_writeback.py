"""The verb that leads from a dataset's grid back to the scan."""

import json
import re

import nibabel as nib
import numpy as np
import pydicom
import pytest

from vitmed.cli.main import main
from vitmed.data.dataset import Dataset

TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)
SHAPE = (40, 36, 16)


@pytest.fixture
def oblique(tmp_path, rng):
    """A dataset of one oblique, anisotropic volume with a box in it, resampled and cropped; and its affine."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TURN @ np.diag([0.7, -1.1, 2.5]), (12.0, -30.0, 44.0)
    image = rng.integers(0, 50, SHAPE).astype(np.int16)
    image[8:20, 12:26, 5:12] += 900
    (tmp_path / "in").mkdir()
    nib.Nifti1Image(image, affine).to_filename(tmp_path / "in" / "a.nii.gz")
    words = ["--modality", "mr", "--spacing", "1,1,1", "--size", "36,36,36"]
    assert main(["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "set"), *words]) == 0
    return affine


def units(folder):
    record = Dataset.open(folder).record("train", 0)
    return (record["image"] * record["scale"] + record["offset"])[..., 0]


def test_labels_and_maps_come_back_to_the_scans_voxels(tmp_path, oblique, capsys):
    """Otherwise a finding is shown beside where it is, or labels are mixed by interpolation."""
    image = units(tmp_path / "set")
    np.save(tmp_path / "mask.npy", 300 * (image > 0.5).astype(np.int64))
    np.save(tmp_path / "map.npy", image)
    centre = np.array([13.5, 18.5, 8.0])  # of the box
    np.save(tmp_path / "floats.npy", 2.0 * (image > 0.5))
    for name, fill in (("mask", "0"), ("floats", "0"), ("map", "nan")):
        capsys.readouterr()
        out = tmp_path / f"{name}.nii.gz"
        words = [str(tmp_path / "set"), "a.nii.gz", str(tmp_path / f"{name}.npy"), "--out", str(out)]
        assert main(["writeback", *words, "--fill", fill, "--json"]) == 0
        said = capsys.readouterr()
        assert ("whole numbers as float64" in said.err) is (name == "floats")
        told = json.loads(said.out.splitlines()[-1])
        back = nib.load(out)
        assert tuple(told["shape"]) == back.shape == SHAPE
        np.testing.assert_allclose(back.affine, oblique, atol=1e-4)
        values = np.asarray(back.dataobj)
        held = np.argwhere(np.nan_to_num(values) > 0.5).mean(0)
        assert (np.abs(held - centre) < [0.5 / 0.7, 0.5, 0.5]).all()  # half a voxel of the coarser grid
        if name == "mask":
            assert set(np.unique(values)) == {0, 300} and values.dtype == np.int16
        elif name == "map":
            assert np.isnan(values).any()  # what was cropped away is not zero


def test_a_real_oblique_series_gets_its_own_voxels_back(shared_data, tmp_path):
    """Otherwise what holds for made-up matrices fails on a scanner's: not a voxel aside along any axis."""
    files = sorted((shared_data / "t1_head_dicom").glob("*.dcm"))
    held = [(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2], f) for f in files]
    files = [f for _, f in sorted(held)[180:212]]
    (tmp_path / "in").mkdir()
    for file in files:
        (tmp_path / "in" / file.name).symlink_to(file)
    words = ["--spacing", "1,1,1", "--size", "20,200,160", "--key", str(tmp_path / "key")]
    assert main(["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "set"), *words]) == 0
    (name,) = Dataset.open(tmp_path / "set").ids("train")
    np.save(tmp_path / "x.npy", units(tmp_path / "set"))
    out = tmp_path / "x.nii"
    words = [str(tmp_path / "set"), name, str(tmp_path / "x.npy"), "--out", str(out), "--fill", "nan"]
    assert main(["writeback", *words]) == 0
    slices = [pydicom.dcmread(f) for f in files]
    normal = np.cross(*np.split(np.array(slices[0].ImageOrientationPatient, float), 2))
    slices.sort(key=lambda s: normal @ np.array(s.ImagePositionPatient, float))
    scan = np.stack([s.pixel_array for s in slices]).astype(float)
    back = nib.load(out)
    values = np.asarray(back.dataobj)
    assert values.shape == scan.shape and np.isfinite(values).mean() > 0.2
    for k in (0, 17):
        place = np.diag([-1, -1, 1, 1]) @ back.affine @ [k, 0, 0, 1]
        np.testing.assert_allclose(place[:3], np.array(slices[k].ImagePositionPatient, float), atol=0.02)

    def likeness(axis, by):
        moved = np.roll(scan, by, axis)
        inside = np.isfinite(values)
        return np.corrcoef(values[inside], moved[inside])[0, 1]

    for axis in range(3):
        here, before, after = (likeness(axis, by) for by in (0, -1, 1))
        # The top of the parabola through the three: the shift, in voxels of the scan.
        shift = 0.5 * (before - after) / (before - 2 * here + after)
        assert here > max(before, after) and abs(shift) < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"example": "b.nii.gz"}, "no example 'b.nii.gz'; the nearest of its 1 ids is 'a.nii.gz'"),
        (
            {"array": np.zeros((36, 36, 35))},
            r"\(36, 36, 35\) does not lie on the grid of a.nii.gz, which is \(36, 36, 36\)",
        ),
        ({"array": np.array(["x"])}, "holds no array of numbers"),
        ({"array": None}, "cannot be read as a .npy file"),
        ({"out": "x.png"}, "is none of .nii.gz, .nii, .npy"),
        ({"out": "set/datasheet.json.npy", "make": True}, "exists already"),
        ({"out": "nowhere/x.nii"}, "does not exist; make it first"),
        ({"array": np.zeros((36, 36, 36), int), "fill": "nan"}, "no value of .* uint8 labels"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, oblique, capsys, change, message):
    """Otherwise a mistyped name ends in a traceback, or a finished file is overwritten."""
    array = change.get("array", np.zeros((36, 36, 36)))
    if array is None:
        (tmp_path / "x.npy").write_bytes(b"no numbers")
    else:
        np.save(tmp_path / "x.npy", array)
    out = tmp_path / change.get("out", "x.nii.gz")
    if change.get("make"):
        out.write_text("")
    capsys.readouterr()
    words = [str(tmp_path / "set"), change.get("example", "a.nii.gz"), str(tmp_path / "x.npy")]
    code = main(["writeback", *words, "--out", str(out), "--fill", change.get("fill", "0")])
    told = capsys.readouterr().err.strip()
    assert code == 2 and told.count("\n") == 0
    assert re.search(message, told), told
