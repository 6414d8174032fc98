"""Volumes in three planes: the head is up, left is left, and a mask lies where it marks."""

import base64
import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from vitmed.cli.main import main
from vitmed.data.dataset import Dataset
from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.report import datasheet, pictures, planes

LPS = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]].T  # index (z, y, x) to (x, y, z)


def shown(plane):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(plane["src"].split(",")[1]))).convert("RGB"))


def record(image, affine=LPS, spacing=(1, 1, 1), mask=None):
    more = {} if mask is None else {"mask": mask}
    one = np.ones(1, np.float32)
    held = {"id": "a", "image": image[..., None], "scale": one / 255, "offset": 0 * one, "affine": affine}
    return held | {"spacing": np.asarray(spacing, np.float32), **more}


def quadrant(plane):
    """Where the light is: (upper or lower, left or right)."""
    light = shown(plane)[..., 0] > 128
    y, x = (np.flatnonzero(light.any(a)).mean() / light.shape[1 - a] for a in (1, 0))
    return ("upper" if y < 0.5 else "lower") + " " + ("left" if x < 0.5 else "right")


def ends(plane):
    return tuple(plane[k] for k in ("top", "bottom", "left", "right"))


def test_the_head_is_up_and_left_is_on_the_right():
    """Otherwise a reader takes the left side for the right one: the gravest error a picture of a patient can make."""
    image = np.zeros((40, 40, 40), np.uint8)
    image[18:36, 4:22, 18:36] = 255  # above, in front, to the patient's left, and across the middle
    axial, coronal, sagittal = planes.volume(record(image), (0, 1))["planes"]
    assert [p["name"] for p in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert (quadrant(axial), ends(axial)) == ("upper right", ("A", "P", "R", "L"))
    assert (quadrant(coronal), ends(coronal)) == ("upper right", ("S", "I", "R", "L"))
    assert (quadrant(sagittal), ends(sagittal)) == ("upper left", ("S", "I", "A", "P"))
    # The same patient, stored the other way round along every axis: the same pictures.
    turned = LPS @ np.diag([-1.0, -1, -1, 1])
    again = planes.volume(record(image[::-1, ::-1, ::-1], turned), (0, 1))["planes"]
    assert [(quadrant(p), ends(p)) for p in again] == [
        (quadrant(p), ends(p)) for p in (axial, coronal, sagittal)
    ]


def test_volumes_that_do_not_tell_how_they_lay_have_no_sides():
    """Otherwise a side is guessed."""
    made = planes.volume(
        record(np.zeros((8, 8, 8), np.uint8), np.full((4, 4), np.nan), (np.nan,) * 3), (0, 1)
    )
    assert all(ends(p) == ("", "", "", "") for p in made["planes"])


def test_slices_have_the_shape_of_the_body():
    """Otherwise a head of thick slices is flat."""
    made = planes.volume(record(np.zeros((10, 50, 40), np.uint8), spacing=(5, 1, 1)), (0, 1))["planes"]
    heights = [shown(p).shape[:2] for p in made]
    assert heights == [(300, 240), (300, 240), (300, 300)]
    assert [p["share"] for p in made] == [240, 240, 300]


def test_masks_are_painted_where_they_mark():
    """Otherwise a finding is shown beside where it is, or what nobody looked at is shown as marked."""
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[4:8, 5:10, 20:25], mask[:, :, :3] = 2, 255
    for plane, box in zip(
        planes.volume(record(np.zeros((30, 30, 30), np.uint8), mask=mask), (0, 1))["planes"],
        [((5, 10), (20, 25)), ((22, 26), (20, 25)), ((22, 26), (5, 10))],
        strict=True,
    ):
        painted = shown(plane)[5::10, 5::10]
        rows, columns = (np.flatnonzero(painted.any(2).any(a)) for a in (1, 0))
        assert ((rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)) == box
        over = np.rint(pictures._COVER * np.array(pictures.colour_of(2)))
        assert (painted[rows[0], columns[0]] == over).all()


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Three volumes of 12 x 10 x 8: one with both values in its mask, one with one, one without a mask."""
    root = tmp_path_factory.mktemp("marked")
    rng = np.random.Generator(np.random.Philox(key=0))
    rows = ["path,mask"]
    for k, values in enumerate(((1, 2), (2,), None)):
        nib.save(
            nib.Nifti1Image(rng.integers(0, 999, (8, 10, 12)).astype(np.int16), np.eye(4)), root / f"{k}.nii"
        )
        if values is not None:
            mask = np.zeros((8, 10, 12), np.uint8)
            mask[0, 0, : len(values)] = values
            nib.save(nib.Nifti1Image(mask, np.eye(4)), root / f"m{k}.nii")
        rows.append(f"{k}.nii,{'' if values is None else f'm{k}.nii'}")
    (root / "set.csv").write_text("\n".join(rows) + "\n")
    ingest(root / "set.csv", root / "set", modality="mr", chunk=(4, 4, 4), progress=False, workers=1)
    return root / "set"


def test_the_sheet_counts_what_masks_hold(marked, capsys):
    """Otherwise a structure that hardly any scan has is found out after training."""
    assert read(marked)["marked"] == {"scans": 2, "structures": {"1": 1, "2": 2}}
    assert main(["inspect", str(marked)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "masks in 2 scans: value 1 (1), value 2 (2)" in told
    assert "as read 12 x 10 x 8 voxels, 1 x 1 x 1 mm" in told and "stored in chunks of 4 x 4 x 4" in told
    text = datasheet.write(marked).read_text()
    assert "2 of 3 scans: value 1 (1), value 2 (2)" in text and text.count('class="plane"') == 9
    assert "in 1 scan<" in text and "in chunks of 4 × 4 × 4" in text


def test_pages_of_chunked_sets_read_slices_alone(marked):
    """Otherwise a page of large volumes needs ten of them in memory."""
    opened = Dataset.open(marked)
    whole = opened.read("train", np.arange(3))
    before = opened.bytes_read
    stream = pictures.flat(opened, "train", np.arange(3))
    np.testing.assert_array_equal(stream["image"], whole["image"][:, 5:6])
    assert opened.bytes_read - before < before / 2
