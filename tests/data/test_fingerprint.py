"""The spacing and size that suit a set, as nnU-Net would plan it."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from vitmed.cli.main import main
from vitmed.data import fingerprint
from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.errors import InputError


def test_the_median_unless_an_axis_is_thick():
    """Otherwise thick slices blur every scan, or are made finer than any scan is in its plane."""
    even = np.array([[1, 1, 1], [2, 1, 1], [3, 1.5, 1]])
    assert fingerprint.spacing_of(even)[0] == (2, 1, 1)
    thick = np.array([[s, 0.8, 0.8] for s in (1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 6.0, 6.0, 7.0, 7.0)])
    spacing, why = fingerprint.spacing_of(thick)
    assert spacing == (2.0, 0.8, 0.8) and "axis 0, whose median of 5 is over 3 times" in why
    fine = np.array([[s, 0.8, 0.8] for s in (0.1, 0.1, 5.0, 5.0, 5.0)])
    assert fingerprint.spacing_of(fine)[0] == (0.8, 0.8, 0.8)


def test_the_size_is_the_median_extent_in_whole_patches():
    """Otherwise the median scan is cropped, or the model cannot cut it into patches."""
    scans = [
        ((10, 40, 40), (5.0, 1.0, 1.0)),
        ((20, 50, 40), (2.5, 1.0, 2.0)),
        ((11, 48, 41), (5.0, 1.0, 1.0)),
    ]
    assert fingerprint.size_of(scans, (2.5, 1.0, 1.0))[0] == (24, 48, 48)  # of 20, 48, 41
    assert fingerprint.size_of(scans, None)[0] == (16, 48, 40)
    assert fingerprint.size_of([((100, 30), None), ((120, 33), None)], None)[0] == (112, 32)


@pytest.mark.parametrize(
    ("size", "spacing", "patch", "mm"),
    [
        ((96, 96, 96), (1, 1, 1), (8, 8, 8), (8, 8, 8)),
        ((24, 192, 192), (5, 1, 1), (3, 12, 12), (15, 12, 12)),
        ((20, 256, 256), (10, 0.5, 0.5), (1, 16, 16), (10, 8, 8)),
        ((28, 28), None, (4, 4), None),
        ((224, 224), None, (16, 16), None),
    ],
)
def test_a_patch_is_about_as_thick_as_it_is_wide(size, spacing, patch, mm):
    """Otherwise a token of thick slices is a long needle, or 8 slices of 5 mm are one."""
    assert fingerprint.patch_for({"size": size, "spacing": spacing}) == (patch, mm)


def test_where_no_patch_divides_the_size_none_is_said():
    """Otherwise a whole axis is one token, or every voxel."""
    assert fingerprint.patch_for({"size": (31, 96, 96), "spacing": None}) is None
    assert fingerprint.patch_for({"size": None, "spacing": None}) is None


def test_volumes_brought_to_one_spacing_or_told_apart_by_little_are_not_told():
    """Otherwise the note is on every set, and nobody reads it."""
    assert fingerprint.uneven(np.array([[2, 1, 1], [2.1, 1, 1], [np.nan, np.nan, np.nan]])) == ""
    pictures = np.array([[0.1, 0.1], [0.2, 0.2]])  # of any X-ray machine
    assert fingerprint.uneven(pictures) == ""


def test_where_spacings_vary_the_middle_one_decides():
    """Otherwise a set of thick slices that differ a little is taken for one of cubes."""
    axes = [
        {"edges": [3.0, 4.9, 5.1, 7.0], "counts": [1, 5, 1]},
        *({"edges": [0.9, 1.1], "counts": [7]},) * 2,
    ]
    sheet = {"size": (24, 192, 192), "spacing": None, "spacings": {"unknown": 0, "axes": axes}}
    assert fingerprint.patch_for(sheet) == ((3, 12, 12), None)


def volume(path, shape, zooms, seed=0):
    values = np.random.Generator(np.random.Philox(key=seed)).integers(0, 1000, shape).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(values, np.diag([*zooms, 1.0])).to_filename(path)


@pytest.fixture
def mixed(tmp_path):
    """Volumes (x, y, z) of differing grids: medians of z, y, x are 2, 1, 1 mm and 12, 20, 16 voxels there."""
    for k, (shape, zooms) in enumerate(
        [((16, 20, 12), (1, 1, 2)), ((16, 20, 8), (1, 1, 3)), ((30, 20, 30), (1, 1, 1))]
    ):
        volume(tmp_path / "in" / f"s{k}.nii.gz", shape, zooms, k)
    return tmp_path


def test_a_refusal_says_what_to_give(mixed):
    """Otherwise a person must find out for themselves what would fit their set."""
    with pytest.raises(
        InputError,
        match="differ in size: s0.nii.gz is 12 x 20 x 16, s1.nii.gz is 8 x 20 x 16; by the medians of its 3 scans "
        "give --spacing 2,1,1 --size 16,24,16, which --spacing auto --size auto does too",
    ):
        ingest(mixed / "in", mixed / "set", progress=False)
    with pytest.raises(InputError, match="give --size 24,24,16, which --size auto does too"):
        ingest(mixed / "in", mixed / "set", spacing=(1, 1, 1), progress=False)
    ingest(mixed / "in", mixed / "set", spacing=(2, 1, 1), size=(16, 24, 16), progress=False)


def test_auto_takes_it_and_says_why(mixed, capsys):
    """Otherwise nobody knows years later why the scans are of this size."""
    flags = ["--spacing", "auto", "--size", "auto"]
    assert main(["ingest", str(mixed / "in"), "--out", str(mixed / "set"), *flags, "--json"]) == 0
    told = capsys.readouterr()
    sheet = read(mixed / "set")
    assert (sheet["size"], sheet["spacing"]) == ([16, 24, 16], [2.0, 1.0, 1.0])
    plan = sheet["plan"]
    assert (plan["spacing"], plan["size"]) == ([2, 1, 1], [16, 24, 16])
    assert "--spacing auto and --size auto from 3 scans: spacing 2,1,1 mm is the median" in plan["why"]
    assert plan["why"] in json.loads(told.out.splitlines()[-1])["notes"]
    ingest(mixed / "in", mixed / "same", spacing=(2, 1, 1), size=(16, 24, 16), progress=False)
    shards = ["".join(p.name for p in (mixed / n).glob("*array_record*")) for n in ("set", "same")]
    assert shards[0] == shards[1] and sheet["content_hash"] == read(mixed / "same")["content_hash"]
    volume(mixed / "more" / "s9.nii.gz", (40, 40, 40), (0.5, 0.5, 0.5), 9)
    ingest(mixed / "more", mixed / "set", append=True, spacing="auto", size="auto", progress=False)
    grown = read(mixed / "set")
    assert grown["plan"] == plan and grown["size"] == [16, 24, 16] and sum(grown["examples"].values()) == 4


def test_what_cannot_be_chosen_ends_it(tmp_path, mixed):
    """Otherwise a spacing is made up for scans that have none."""
    for k, side in enumerate((20, 40)):
        (tmp_path / "png").mkdir(exist_ok=True)
        noise = np.random.Generator(np.random.Philox(key=k)).integers(0, 255, (side, 30)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "png" / f"{k}.png")
    with pytest.raises(InputError, match="--spacing auto needs to know .* 2 of 2 .* first 0.png"):
        ingest(tmp_path / "png", tmp_path / "x", spacing="auto", progress=False)
    ingest(tmp_path / "png", tmp_path / "png_set", size="auto", progress=False)
    assert read(tmp_path / "png_set")["size"] == [32, 32]
    volume(tmp_path / "png" / "v.nii", (8, 8, 8), (1, 1, 1))
    with pytest.raises(InputError, match="0.png is an image and v.nii a volume"):
        ingest(tmp_path / "png", tmp_path / "x", size="auto", progress=False)
    with pytest.raises(InputError, match="nor auto"):
        from vitmed.cli.ingest import _numbers

        _numbers("automatic", "--size", int)


def test_an_appended_scan_of_another_size_is_told(mixed):
    """Otherwise the advice is to give a size that the set does not have."""
    volume(mixed / "one" / "a.nii.gz", (16, 20, 12), (1, 1, 2))
    ingest(mixed / "one", mixed / "set", progress=False)
    with pytest.raises(
        InputError, match="of the dataset are 12 x 20 x 16, s1.nii.gz is 8 x 20 x 16; ingest all"
    ):
        ingest(mixed / "in", mixed / "set", append=True, progress=False)


def test_volumes_of_one_size_and_other_spacings_are_told(tmp_path, capsys):
    """Otherwise an organ is half as large in one scan as in the next, and nobody knows that it was not resampled."""
    for k, z in enumerate((2, 3, 4)):
        volume(tmp_path / "in" / f"s{k}.nii.gz", (8, 8, 8), (1, 1, z), k)
    assert main(["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "set"), "--modality", "mr"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Volumes are 2..4 x 1 x 1 mm a voxel" in told
    assert "--spacing 3,1,1, which --spacing auto takes" in told
    assert "--config.model.patch_size=1,4,4" in told


def test_the_real_hippocampus_is_planned(shared_data):
    """Otherwise what works on made-up grids fails on a set that nnU-Net is known to plan."""
    from vitmed.scans.find import find

    sources = find(shared_data / "hippocampus" / "images")[0]
    plan = fingerprint.resolved(fingerprint.Plan(), sources, True, True)
    assert plan.spacing == (1.0, 1.0, 1.0) and plan.size == (40, 56, 40)
