"""Masks that are told by their names, and what lies in them."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.scans.find import survey


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def noise(k):
    return np.random.Generator(np.random.Philox(key=k)).integers(0, 256, (12, 10))


@pytest.fixture
def busi(tmp_path):
    """Six pictures as BUSI has them: a mask beside each, two masks of the first, white on black."""
    for k in range(6):
        mask = np.zeros((12, 10))
        mask[2 : 4 + k, 3:5] = 255
        picture(tmp_path / "x" / "benign" / f"benign ({k}).png", noise(k))
        picture(tmp_path / "x" / "benign" / f"benign ({k})_mask.png", mask)
    second = np.zeros((12, 10))
    second[9:11, 7:9] = 255
    picture(tmp_path / "x" / "benign" / "benign (0)_mask_1.png", second)
    return tmp_path / "x"


def test_masks_go_with_the_scans_beside_them(busi, tmp_path):
    """Otherwise they are learned from as pictures, and copies of nothing but black lie in every split."""
    made = ingest(busi, tmp_path / "set", progress=False, split="train")
    assert made["examples"]["train"] == 6 and made["refused"] == {}
    assert any("7 files called as masks" in note and "6 scans" in note for note in made["notes"])
    opened = Dataset.open(tmp_path / "set")
    masks = {e["id"]: e["mask"] for e in opened.records("train")}
    first = masks["benign/benign (0).png"]
    assert set(np.unique(first)) == {0, 1} and first.sum() == 4 + 4
    assert masks["benign/benign (3).png"].sum() == 2 * 5
    assert opened.datasheet["marked"]["structures"].keys() == {"1"}


def test_a_mask_without_its_scan_is_refused_where_others_have_theirs(busi):
    picture(busi / "benign" / "benign (9)_mask.png", np.zeros((12, 10)))
    held = survey(busi)
    assert len(held.sources) == 6
    assert held.refused == [
        ("benign/benign (9)_mask.png", "mask without a scan", "no scan of that name lies beside it")
    ]


def test_pictures_that_are_only_called_so_are_scans(tmp_path):
    """A folder of masks alone, or of pictures that somebody labelled in their names."""
    for k in range(3):
        picture(tmp_path / f"{k}_label.png", noise(k))
    held = survey(tmp_path)
    assert len(held.sources) == 3 and held.told.masks == {}


def test_masks_beside_scans_of_several_kinds_are_no_scans(tmp_path):
    """As in BraTS, where no file is called as the mask says: its structures would be learned from as brightness."""
    for n, case in enumerate(("p0", "p1")):
        for k, kind in enumerate(("t1", "t2", "seg")):
            values = np.roll(np.arange(120, dtype=np.int16), 7 * n + k).reshape(4, 5, 6)
            image = nib.Nifti1Image(values, np.eye(4))
            (tmp_path / "x" / case).mkdir(parents=True, exist_ok=True)
            nib.save(image, tmp_path / "x" / case / f"{case}_{kind}.nii.gz")
    held = survey(tmp_path / "x")
    assert len(held.sources) == 4 and [r[:2] for r in held.refused] == [
        (f"{case}/{case}_seg.nii.gz", "mask without a scan") for case in ("p0", "p1")
    ]
    table = tmp_path / "masks.csv"
    table.write_text("path,mask\np0/p0_t1.nii.gz,p0/p0_seg.nii.gz\n")
    made = ingest(
        tmp_path / "x", tmp_path / "set", labels=table, modality="mr", split="train", progress=False
    )
    assert made["refused"].get("mask without a scan") == 1, "that of p0 is told"


def test_a_folder_of_masks_beside_one_of_scans_holds_no_scans(tmp_path):
    """Otherwise label maps are learned from as brightness, perhaps on the other side of a split than their scans."""
    for k, folder in enumerate(("images", "labels")):
        (tmp_path / "x" / folder).mkdir(parents=True)
        for n in range(2):
            values = np.roll(np.arange(120, dtype=np.int16), 7 * n + k).reshape(4, 5, 6)
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "x" / folder / f"p{n}.nii.gz")
    held = survey(tmp_path / "x")
    assert [s.id for s in held.sources] == ["images/p0.nii.gz", "images/p1.nii.gz"]
    assert [r[:2] for r in held.refused] == [(f"labels/p{n}.nii.gz", "mask without a scan") for n in range(2)]
    table = tmp_path / "masks.csv"
    table.write_text("path,mask\n" + "".join(f"images/p{n}.nii.gz,labels/p{n}.nii.gz\n" for n in range(2)))
    made = ingest(
        tmp_path / "x", tmp_path / "set", labels=table, modality="mr", split="train", progress=False
    )
    assert made["refused"] == {} and made["examples"]["train"] == 2


@pytest.mark.parametrize("ending", ["_seg.nii.gz", "-label.nii", "_MASK.nii.gz"])
def test_volumes_too(tmp_path, ending):
    for k in range(2):
        nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)), tmp_path / f"p{k}.nii.gz")
        nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.eye(4)), tmp_path / f"p{k}{ending}")
    held = survey(tmp_path)
    assert [s.id for s in held.sources] == ["p0.nii.gz", "p1.nii.gz"] == sorted(held.told.masks)


def test_white_alone_is_a_structure_in_a_picture_and_refused_in_a_volume(tmp_path):
    """255 is what nobody has looked at: a mask of 0 and 255 was one of a scan in which nothing is marked."""
    for k in range(2):
        volume = np.random.Generator(np.random.Philox(key=k)).integers(0, 900, (6, 5, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"p{k}.nii.gz")
        mask = np.zeros((6, 5, 4), np.uint8)
        mask[2:4] = 255 if k else 1
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / f"p{k}_mask.nii.gz")
    made = ingest(tmp_path, tmp_path / "set", modality="mr", progress=False)
    assert made["refused"] == {"mask of 0 and 255 alone": 1} and made["examples"]["train"] == 1


def test_masks_of_one_scan_that_disagree_are_refused(busi, tmp_path):
    overlapping = np.zeros((12, 10))
    overlapping[2:5, 3:5] = 2
    picture(busi / "benign" / "benign (4)_mask_1.png", overlapping)
    made = ingest(busi, tmp_path / "set", progress=False)
    assert made["refused"] == {"masks that overlap": 1}


def test_a_mask_of_a_file_of_several_pages_is_refused(busi, tmp_path):
    """It is of no page in particular; otherwise it is counted as taken and lost without a word."""
    pages = [Image.fromarray(noise(k).astype(np.uint8)) for k in range(2)]
    pages[0].save(busi / "two.tif", save_all=True, append_images=pages[1:])
    picture(busi / "two_mask.png", np.zeros((12, 10)))
    held = survey(busi)
    assert ("two_mask.png", "mask of several scans") in [fault[:2] for fault in held.refused]
    made = ingest(busi, tmp_path / "set", progress=False)
    assert sum(made["examples"].values()) == 8 and made["refused"] == {"mask of several scans": 1}


def test_what_a_mask_is_named_after_is_a_scan_whatever_it_is_called(tmp_path):
    """Otherwise a picture called 0_label.png, whose mask lies beside it, is refused as a mask without a scan."""
    for k in range(3):
        picture(tmp_path / "x" / f"{k}_label.png", noise(k))
        picture(tmp_path / "x" / f"{k}_label_mask.png", np.eye(12, 10) * 255)
    held = survey(tmp_path / "x")
    assert [s.id for s in held.sources] == [f"{k}_label.png" for k in range(3)] == sorted(held.told.masks)
    assert held.refused == []


def test_masks_of_another_shape_are_refused(busi, tmp_path):
    picture(busi / "benign" / "benign (4)_mask.png", np.zeros((10, 12)))
    picture(busi / "benign" / "benign (3)_mask.png", np.full((12, 10, 3), (0, 0, 255)))
    made = ingest(busi, tmp_path / "set", progress=False)
    assert made["refused"] == {"mask of another shape": 1, "mask in colour": 1}


@pytest.mark.parametrize(("name", "soft"), [("jpg", False), ("jpg", True), ("png", True)])
def test_a_mask_with_grey_edges_is_refused(busi, tmp_path, name, soft):
    """Otherwise each grey is a structure, and the true one, of 255, is what nobody has looked at."""
    drawn = np.zeros((12, 10))
    drawn[3:9, 2:7] = 255
    if soft:
        drawn[3], drawn[8, 2:7] = 90, 230
    (busi / "benign" / "benign (4)_mask.png").unlink()
    picture(busi / "benign" / f"benign (4)_mask.{name}", drawn)
    made = ingest(busi, tmp_path / "set", progress=False)
    assert made["refused"] == {"mask with grey edges": 1}
    assert Dataset.open(tmp_path / "set").datasheet["marked"]["structures"].keys() == {"1"}


def test_a_mask_in_jpeg_that_is_black_and_white_is_taken(busi, tmp_path):
    (busi / "benign" / "benign (4)_mask.png").unlink()
    picture(busi / "benign" / "benign (4)_mask.jpg", np.full((12, 10), 255))
    made = ingest(busi, tmp_path / "set", progress=False)
    assert made["refused"] == {} and sum(made["examples"].values()) == 6


def test_a_mask_that_does_not_say_how_it_lies_is_laid_on_no_scan_that_was_turned(tmp_path):
    """Otherwise the scan is turned to S, P, L, the array is not, and what is learned lies on the other side."""
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    image = np.arange(6**3, dtype=np.int16).reshape(6, 6, 6)
    nib.save(nib.Nifti1Image(image, np.diag([-1.0, 1, 1, 1])), volumes / "a.nii.gz")
    np.save(volumes / "a_mask.npy", (image == 31).astype(np.uint8))
    np.save(volumes / "b.npy", image)
    nib.save(nib.Nifti1Image((image == 31).astype(np.uint8), np.eye(4)), volumes / "b_mask.nii.gz")
    np.save(volumes / "c.npy", image + 1)
    np.save(volumes / "c_mask.npy", (image == 31).astype(np.uint8))
    made = ingest(volumes, tmp_path / "set", modality="mr", split="train", progress=False)
    assert made["refused"] == {"mask that cannot be laid on its scan": 2} and made["examples"]["train"] == 1
    (record,) = Dataset.open(tmp_path / "set").records("train")
    assert (
        record["mask"].sum()
        == record["mask"][record["image"][..., 0] == np.sort(record["image"], None)[31]].sum()
        == 1
    )


@pytest.mark.parametrize("size", [(6, 5, 4), (256, 256, 16)])
def test_masks_of_another_grid_are_refused(tmp_path, size):
    """Otherwise voxels are learned as what lies beside them, of a large volume as of a small one."""

    def grid(offset=(0, 0, 0), flip=1, thick=2.5, turned=0.0):
        affine = np.diag([flip * 0.7, 0.7, thick, 1.0])
        c, s = np.cos(np.radians(turned)), np.sin(np.radians(turned))
        affine[:2, :2] = np.array([[c, -s], [s, c]]) @ affine[:2, :2]
        affine[:3, 3] = offset
        return affine

    same = [grid(), grid((0.01, 0, 0))]
    others = [grid((0, 0, 2.5)), grid((0.5, 0, 0)), grid(flip=-1), grid(thick=5.0), grid(turned=25.0)]
    volumes = tmp_path / "volumes"
    volumes.mkdir()
    for k, affine in enumerate([*same, *others]):
        image = np.zeros(size, np.int16)
        image[:3, :3, :3] = np.random.Generator(np.random.Philox(key=k)).integers(0, 900, (3, 3, 3))
        nib.save(nib.Nifti1Image(image, grid()), volumes / f"p{k}.nii.gz")
        nib.save(nib.Nifti1Image(np.ones(size, np.uint8), affine), volumes / f"p{k}_mask.nii.gz")
    made = ingest(volumes, tmp_path / "of-volumes", modality="mr", progress=False)
    assert made["refused"] == {"mask that lies elsewhere": len(others)}
    assert sum(made["examples"].values()) == len(same)
