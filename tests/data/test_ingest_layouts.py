"""Folders laid out by others become datasets with masks, patients and names of structures."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from vitmed.cli.main import main
from vitmed.data import tables
from vitmed.data.dataset import Dataset
from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.data.look import look
from vitmed.data.prepare import Plan
from vitmed.data.withdraw import withdraw
from vitmed.errors import InputError
from vitmed.scans.how import How


def volume(path, values, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.asarray(values), np.eye(4) if affine is None else affine).to_filename(path)


def noise(seed, shape=(6, 7, 8)):
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, 1000, shape).astype(np.int16)


def nnunet(folder, cases=range(4), tests=range(4, 6), labels=None):
    """A raw folder of CT; the mask of case k is k + 1 at voxel (k, 0, 0), and 3 (ignore) at (0, 1, 0)."""
    for part, held in (("imagesTr", cases), ("imagesTs", tests)):
        for k in held:
            volume(folder / part / f"case{k}_0000.nii.gz", noise(k))
    for k in cases:
        mask = np.zeros((6, 7, 8), np.uint8)
        mask[k % 6, 0, 0], mask[0, 1, 0] = 1 + k % 2, 3
        volume(folder / "labelsTr" / f"case{k}.nii.gz", mask)
    labels = labels or {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}
    table = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def examples(dataset):
    opened = Dataset.open(dataset)
    return {e["id"]: e for split in opened.splits for e in opened.records(split)}


def test_a_raw_folder_becomes_a_dataset_with_masks(tmp_path, capsys):
    """Otherwise a structure has no name, a mask lies elsewhere, or imagesTs is lost or tested on."""
    assert main(["ingest", str(nnunet(tmp_path / "raw")), "--out", str(tmp_path / "set"), "--json"]) == 0
    told = capsys.readouterr()
    assert "nnU-Net raw folder" in told.err and "not the test split" in told.err
    sheet, found = read(tmp_path / "set"), examples(tmp_path / "set")
    assert (sheet["modality"], sheet["structures"]) == ("ct", {"liver": [1], "tumour": [2]})
    assert sorted(found) == [*(f"imagesTr/case{k}" for k in range(4)), "imagesTs/case4", "imagesTs/case5"]
    mask = found["imagesTr/case3"]["mask"]  # stored z, y, x, turned to S, P, L
    np.testing.assert_array_equal(np.argwhere(mask == 2), [[0, 6, 2]])
    np.testing.assert_array_equal(np.argwhere(mask == 255), [[0, 5, 5]])
    assert (found["imagesTs/case4"]["mask"] == 255).all()
    np.testing.assert_array_equal(found["imagesTr/case3"]["image"][0, 6, 2, 0], noise(3)[3, 0, 0])


def test_a_value_without_a_name_is_refused(tmp_path):
    """Otherwise a voxel is learned as a structure that dataset.json does not know."""
    source = nnunet(tmp_path / "raw")
    volume(source / "labelsTr" / "case2.nii.gz", np.full((6, 7, 8), 7, np.uint8))
    told = ingest(source, tmp_path / "set", progress=False)
    assert told["refused"] == {"mask with values that nobody named": 1}
    assert read(tmp_path / "set")["refused_files"][0]["file"] == "imagesTr/case2"


def test_a_zip_of_a_raw_folder_is_the_same(tmp_path):
    """Otherwise the archive that a set is published as has its masks learned as scans."""
    source = nnunet(tmp_path / "x" / "Dataset007_X")
    shutil.make_archive(str(tmp_path / "published"), "zip", tmp_path / "x")
    ingest(source, tmp_path / "one", progress=False)
    ingest(tmp_path / "published.zip", tmp_path / "two", progress=False)
    assert read(tmp_path / "one")["structures"] == read(tmp_path / "two")["structures"]
    one, two = examples(tmp_path / "one"), examples(tmp_path / "two")
    assert {f"Dataset007_X/{name}" for name in one} == set(two)
    for name, example in one.items():
        np.testing.assert_array_equal(example["mask"], two[f"Dataset007_X/{name}"]["mask"])


def test_workers_do_not_change_the_bytes(tmp_path, monkeypatch):
    """Otherwise the same scans make two datasets."""
    monkeypatch.setattr("vitmed.data.spool.SMALL", 0)  # enough work for several workers
    source = nnunet(tmp_path / "raw")
    for n in (1, 2):
        ingest(source, tmp_path / f"set{n}", workers=n, progress=False)
    one, two = ({f.name: f.read_bytes() for f in sorted((tmp_path / f"set{n}").iterdir())} for n in (1, 2))
    assert one == two


def test_structures_stay_when_a_set_grows_and_shrinks(tmp_path):
    """Otherwise a value means the liver in some masks and the kidney in others."""
    ingest(nnunet(tmp_path / "raw"), tmp_path / "set", patient_pattern=r"case(\d)", progress=False)
    more = nnunet(tmp_path / "more", range(6, 8), (), {"liver": 1, "tumour": 2, "cyst": 4, "ignore": 3})
    ingest(more, tmp_path / "set", patient_pattern=r"case(\d)", append=True, progress=False)
    together = {"liver": [1], "tumour": [2], "cyst": [4]}
    assert read(tmp_path / "set")["structures"] == together and len(examples(tmp_path / "set")) == 8
    withdraw("6", tmp_path / "set", progress=False)
    assert read(tmp_path / "set")["structures"] == together and len(examples(tmp_path / "set")) == 7
    for labels in ({"kidney": 1, "x": 2, "ignore": 3}, {"liver": 2, "x": 1, "ignore": 3}):
        other = nnunet(tmp_path / f"other{labels['x']}", range(8, 9), (), labels)
        with pytest.raises(InputError, match="liver = 1, tumour = 2, cyst = 4, the new ones"):
            ingest(other, tmp_path / "set", append=True, patient_pattern=r"case(\d)", progress=False)


def test_a_table_and_a_layout_go_together(tmp_path):
    """Otherwise whoever has labels of cases loses their masks, or the other way round."""
    source = nnunet(tmp_path / "raw")
    (tmp_path / "t.csv").write_text(
        "id,label,patient\n" + "".join(f"case{k},{'ab'[k % 2]},p{k}\n" for k in range(4))
    )
    ingest(source, tmp_path / "set", labels=tmp_path / "t.csv", progress=False)
    sheet, found = read(tmp_path / "set"), examples(tmp_path / "set")
    assert sheet["classes"] == ["a", "b"] and sheet["masks"] and sheet["modality"] == "ct"
    assert found["imagesTr/case1"]["label"] == 1 and (found["imagesTr/case1"]["mask"] == 2).any()
    with pytest.raises(InputError, match="nnU-Net raw folder, whose folders are no classes"):
        ingest(source, tmp_path / "no", label_from="folder", progress=False)


def test_the_real_hippocampus_as_a_raw_folder(tmp_path, shared_data):
    """Otherwise the layout works on made-up volumes alone."""
    names = sorted(p.name for p in (shared_data / "hippocampus" / "images").glob("*.nii.gz"))[:3]
    for part, kind in (("imagesTr", "images"), ("labelsTr", "labels")):
        (tmp_path / "raw" / part).mkdir(parents=True)
        for name in names:
            held = name.replace(".nii.gz", "_0000.nii.gz") if part == "imagesTr" else name
            (tmp_path / "raw" / part / held).symlink_to(shared_data / "hippocampus" / kind / name)
    table = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(table))
    ingest(tmp_path / "raw", tmp_path / "set", size=(40, 56, 40), progress=False)
    found = examples(tmp_path / "set")
    assert len(found) == 3 and read(tmp_path / "set")["structures"] == {"Anterior": [1], "Posterior": [2]}
    for scan, example in found.items():
        truth = nib.load(shared_data / "hippocampus" / "labels" / f"{scan.split('/')[1]}.nii.gz").get_fdata()
        assert [(example["mask"] == v).sum() for v in (1, 2)] == [(truth == v).sum() for v in (1, 2)]


def bids(folder, people=12, sessions=("0", "1")):
    """Noise of each person in each session, T1w and FLAIR, and a table of participants."""
    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    lines = ["participant_id\tage\tsex\tgroup\tsite"]
    for p in range(people):
        who = f"sub-HX{p:03}"
        for s, session in enumerate(sessions):
            for c, suffix in enumerate(("T1w", "FLAIR")):
                file = folder / who / f"ses-{session}" / "anat" / f"{who}_ses-{session}_{suffix}.nii.gz"
                volume(file, noise(10 * p + 2 * s + c))
        lines.append(
            f"{who}\t{20 + p}.5\t{'MF'[p % 2]}\t{'n/a' if p == 3 else ('case', 'control')[p % 2]}\tBX"
        )
    (folder / "participants.tsv").write_text("\n".join([*lines, "sub-HX999\t1.5\tF\tcase\tBX"]) + "\n")
    return folder


def test_a_bids_folder_becomes_a_dataset_by_patient(tmp_path):
    """Otherwise sessions of one person are split apart, or the table of participants cannot be used."""
    source = bids(tmp_path / "in")
    with pytest.raises(InputError, match="label columns age, sex, group.*--label-column"):
        ingest(
            source,
            tmp_path / "set",
            bids_suffix=("T1w",),
            labels=source / "participants.tsv",
            progress=False,
        )
    with pytest.raises(InputError, match="--label-column grp: .*age, sex, group"):
        ingest(
            source,
            tmp_path / "set",
            bids_suffix=("T1w",),
            labels=source / "participants.tsv",
            label_columns=("grp",),
            progress=False,
        )
    told = ingest(
        source,
        tmp_path / "set",
        bids_suffix=("T1w",),
        labels=source / "participants.tsv",
        label_columns=("group",),
        progress=False,
    )
    sheet, found = read(tmp_path / "set"), examples(tmp_path / "set")
    assert (sheet["modality"], sheet["classes"], sheet["splits"]["by"]) == (
        "mr",
        ["case", "control"],
        "patient",
    )
    assert (
        len(found) == 24 and sum(sheet["patients"].values()) == 12 and sum(sheet["unlabelled"].values()) == 2
    )
    assert {(e["timepoint"], e["view"], e["site"]) for e in found.values()} == {
        ("0", "T1w", "BX"),
        ("1", "T1w", "BX"),
    }
    assert "1 of 13 participants" in " ".join(told["notes"])
    split = {}
    for name in Dataset.open(tmp_path / "set").splits:
        for patient in Dataset.open(tmp_path / "set").patients(name):
            split.setdefault(patient, set()).add(name)
    assert all(len(names) == 1 for names in split.values())
    gone = withdraw("sub-HX004", tmp_path / "set", progress=False)
    assert gone["withdrawn"] == 2


def test_the_contrast_of_a_set_is_that_of_what_is_appended(tmp_path):
    """Otherwise FLAIR joins a set of T1, or a set that need not name its contrast is closed to folders that must."""

    def plan():
        return read(tmp_path / "set")["plan"]["bids_suffix"]

    bids(tmp_path / "in", 2, ("0",))
    for file in (tmp_path / "in").rglob("*FLAIR*"):
        file.rename(tmp_path / "flair.nii.gz")
    ingest(tmp_path / "in", tmp_path / "set", progress=False)
    assert plan() == []
    bids(tmp_path / "both", 4, ("0",))
    more = {"append": True, "progress": False}
    with pytest.raises(InputError, match="say which to take, such as --bids-suffix"):
        ingest(tmp_path / "both", tmp_path / "set", **more)
    ingest(tmp_path / "both", tmp_path / "set", bids_suffix=("T1w",), **more)
    assert plan() == ["T1w"]
    with pytest.raises(InputError, match="--bids-suffix is FLAIR, but .* was made with T1w; leave it out"):
        ingest(tmp_path / "both", tmp_path / "set", bids_suffix=("FLAIR",), **more)
    (tmp_path / "plain").mkdir()
    (tmp_path / "flair.nii.gz").rename(tmp_path / "plain" / "scan.nii.gz")
    ingest(tmp_path / "plain", tmp_path / "set", modality="mr", **more)
    bids(tmp_path / "last", 5, ("0",))
    for file in (tmp_path / "last").rglob("*FLAIR*"):
        file.unlink()
    ingest(tmp_path / "last", tmp_path / "set", **more)
    assert {e["view"] for e in examples(tmp_path / "set").values()} == {"T1w", ""}
    assert sum(read(tmp_path / "set")["examples"].values()) == 6 and plan() == ["T1w"]


def test_a_subject_of_bids_is_a_pseudonym_everywhere(tmp_path, capsys):
    """Otherwise the names of folders tell whose scans a dataset holds, those that were refused among them."""
    source = bids(tmp_path / "in")
    volume(source / "sub-HX001" / "pet" / "sub-HX001_pet.nii.gz", noise(0))
    volume(source / "sub-HX777" / "anat" / "sub-HX777_T1map.nii.gz", noise(0))
    (source / "sub-HX002" / "ses-0" / "anat" / "sub-HX002_ses-0_T1w.nii.gz").write_bytes(b"broken")
    assert main(["ingest", str(source), "--out", str(tmp_path / "set"), "--bids-suffix", "T1w,FLAIR"]) == 0
    told = "".join(capsys.readouterr()).replace(str(tmp_path), "")
    held = b"".join(f.read_bytes() for f in (tmp_path / "set").rglob("*") if f.is_file())
    assert "HX0" not in told and "HX7" not in told
    assert b"HX0" not in held and b"HX7" not in held and b"sub-" not in held
    assert read(tmp_path / "set")["refused"] == {
        "not a readable NIfTI file": 1,
        "of a BIDS suffix that vitmed does not take": 2,
    }
    assert {e["view"] for e in examples(tmp_path / "set").values()} == {"T1w", "FLAIR"}


def test_a_session_called_by_a_date_ends_it(tmp_path):
    """Otherwise the day of a visit, which identifies, enters the dataset as its timepoint."""
    with pytest.raises(InputError, match="session of sub-HX000.* by a date"):
        ingest(
            bids(tmp_path / "in", 1, ("20190312",)), tmp_path / "set", bids_suffix=("T1w",), progress=False
        )


def ct(folder, series, patient):
    """Five slices of CT, 2 mm apart from (10, 20, 30), pixels of 0.5 x 0.25 mm, in a folder of their own."""
    folder.mkdir(parents=True)
    pixels = noise(sum(series.encode()), (5, 6, 8)).astype(np.uint16)
    for k in range(5):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{series}.{k}"
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = (
            CTImageStorage,
            f"{series}.{k}",
            series,
        )
        data.Modality, data.PatientID, data.PhotometricInterpretation = "CT", patient, "MONOCHROME2"
        data.Rows, data.Columns, data.SamplesPerPixel, data.PixelRepresentation = 6, 8, 1, 0
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.RescaleSlope, data.RescaleIntercept = 15, 1, -1024
        data.PixelSpacing, data.ImageOrientationPatient = [0.5, 0.25], [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [10, 20, 30 + 2 * k]
        data.PixelData = pixels[k].tobytes()
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def drawn(*voxel):
    bits = np.zeros((5, 6, 8), bool)
    bits[voxel] = True
    return bits


def test_segmentations_become_masks_with_one_meaning_a_value(tmp_path, write_seg):
    """Otherwise segment 1 is the liver in one scan and the kidney in the next, or nobody can tell which it is."""
    for k, labels in enumerate((("tumour", "liver"), ("kidney",))):
        folder = ct(tmp_path / "in" / f"s{k}", f"1.2.{k}", f"p{k}")
        segments = [(label, drawn(k, n, 3)) for n, label in enumerate(labels)]
        write_seg(folder / "seg.dcm", segments, series=f"1.2.{k}")
    ct(tmp_path / "in" / "s2", "1.2.2", "p2")
    for workers in (1, 2):
        ingest(tmp_path / "in", tmp_path / f"set{workers}", workers=workers, progress=False)
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("set1", "set2"))
    assert one == two
    sheet, found = read(tmp_path / "set1"), examples(tmp_path / "set1")
    assert sheet["structures"] == {"kidney": [1], "liver": [2], "tumour": [3]} and sheet["refused"] == {}
    assert {name: sorted(np.unique(e["mask"]).tolist()) for name, e in found.items()} == {
        "s0": [0, 2, 3],
        "s1": [0, 1],
        "s2": [255],
    }
    np.testing.assert_array_equal(np.argwhere(found["s0"]["mask"] == 2), [[0, 1, 3]])
    folder = ct(tmp_path / "more" / "s9", "1.2.9", "p9")
    write_seg(folder / "seg.dcm", [("bone", drawn(0, 0, 0)), ("liver", drawn(1, 0, 0))], series="1.2.9")
    ingest(tmp_path / "more", tmp_path / "set1", append=True, progress=False)
    assert read(tmp_path / "set1")["structures"] == {"kidney": [1], "liver": [2], "tumour": [3], "bone": [4]}
    found = examples(tmp_path / "set1")
    assert set(np.unique(found["s9"]["mask"])) == {0, 2, 4} and (found["s2"]["mask"] == 255).all()


def test_a_segment_does_not_tell_who_the_patient_is(tmp_path, write_seg):
    """Otherwise "Quixote's tumour" is in the datasheet of a set whose patients are pseudonyms."""
    folder = ct(tmp_path / "in" / "s0", "1.2.0", "p0")
    write_seg(folder / "seg_Quixote.dcm", [("tumour of QUIXOTE", drawn(0, 0, 0))], series="1.2.0")
    ingest(tmp_path / "in", tmp_path / "set", progress=False)
    sheet = read(tmp_path / "set")
    assert sheet["refused"] == {"segment called by a person's name or number": 1} and not sheet["masks"]
    assert not any(b"quixote" in f.read_bytes().lower() for f in (tmp_path / "set").iterdir())


def test_a_broken_mask_is_told_from_a_broken_scan(tmp_path):
    """Otherwise a person looks for the fault in the image, which is whole."""
    folder = nnunet(tmp_path / "raw")
    file = sorted((folder / "labelsTr").iterdir())[0]
    file.write_bytes(file.read_bytes()[:60])
    ingest(folder, tmp_path / "set", progress=False, workers=1)
    assert read(tmp_path / "set")["refused"] == {"mask that cannot be read": 1}


def test_a_manifest_may_name_masks_in_labels_tr(tmp_path):
    """It says which mask is whose, so nothing of the layout is needed."""
    folder = nnunet(tmp_path / "raw", tests=())
    (folder / "dataset.json").unlink()
    masks = sorted((folder / "labelsTr").iterdir())
    images = [sorted((folder / "imagesTr").glob(f"{m.name.split('.')[0]}*"))[0] for m in masks]
    rows = [f"imagesTr/{i.name},labelsTr/{m.name}" for i, m in zip(images, masks, strict=True)]
    (folder / "all.csv").write_text("\n".join(["path,mask", *rows]) + "\n")
    ingest(folder / "all.csv", tmp_path / "set", modality="mr", progress=False, workers=1)
    assert read(tmp_path / "set")["marked"]["scans"] == len(masks)


def test_a_manifest_may_lie_apart_from_its_scans_whose_names_do_not_say_where(tmp_path):
    """Otherwise the dataset holds ``..`` or the path of somebody's home folder, or such a manifest is of no use."""
    scans, masks = tmp_path / "home" / "scans", tmp_path / "home" / "masks"
    for folder in (scans / "p1", masks, tmp_path / "tables"):
        folder.mkdir(parents=True)
    for k, name in enumerate(("p1/a.png", "b.png")):
        Image.fromarray(np.full((8, 8), 40 * k, np.uint8)).save(scans / name)
    (scans / "bad.png").write_bytes(b"no picture")
    Image.fromarray(np.full((8, 8), 1, np.uint8)).save(masks / "b.png")
    rows = [
        "../home/scans/p1/a.png,sick,",
        f"{scans}/b.png,well,../home/masks/b.png",
        "../home/scans/bad.png,well,",
    ]
    manifest = tmp_path / "tables" / "all.csv"
    manifest.write_text("\n".join(["path,label,mask", *rows]) + "\n")
    ingest(manifest, tmp_path / "set", modality="us", progress=False, workers=1)
    held = read(tmp_path / "set")
    dataset = Dataset.open(tmp_path / "set")
    labels = {
        i: dataset.datasheet["classes"][int(label[0])]
        for split in dataset.splits
        for i, label in zip(dataset.ids(split), dataset.labels(split)[0], strict=True)
    }
    assert labels == {"p1/a.png": "sick", "b.png": "well"}
    assert [e["file"] for e in held["refused_files"]] == ["bad.png"] and held["marked"]["scans"] == 1
    for file in (tmp_path / "set").rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes()


def test_a_manifest_in_its_scans_folder_names_them_from_there_however_it_writes_them(tmp_path):
    """Otherwise one scan has another name, and another split, when its row is written otherwise."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / "deep" / "a.png")
    manifest = tmp_path / "in" / "all.csv"
    for cell in ("deep/a.png", "../in/deep/a.png", "deep/../deep/a.png", str(tmp_path / "in/deep/a.png")):
        manifest.write_text(f"path,split\n{cell},test\n")
        sources, _, told, *_ = look(manifest, None, None, (), Plan("us"), How(), {})
        assert [s.id for s in sources] == ["deep/a.png"] and told.rows["deep/a.png"].split == "test"


def test_a_manifest_that_is_reached_by_a_link_names_its_scans_as_without(tmp_path, monkeypatch):
    """Otherwise what lies in one folder has "no folder in common", for one path to it goes by another disk's name."""
    real = tmp_path / "disk" / "project"
    (real / "scans").mkdir(parents=True)
    (tmp_path / "elsewhere").symlink_to(real)
    for k, name in enumerate("ab"):
        Image.fromarray(np.full((8, 8), k, np.uint8)).save(real / "scans" / f"{name}.png")
    manifest = real / "all.csv"
    manifest.write_text(f"path,split\nscans/a.png,train\n{real}/scans/b.png,test\n")
    common = os.path.commonpath
    # As if the link lay on another branch from the root, which no test may write to.
    monkeypatch.setattr(
        os.path, "commonpath", lambda ps: "/" if any("elsewhere" in str(p) for p in ps) else common(ps)
    )
    sources, _, told, *_ = look(tmp_path / "elsewhere" / "all.csv", None, None, (), Plan("us"), How(), {})
    assert {s.id: told.rows[s.id].split for s in sources} == {"a.png": "train", "b.png": "test"}


def test_a_manifest_of_scans_without_a_common_folder_is_refused(tmp_path):
    """Otherwise their names are whole paths of this machine."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "all.csv").write_text("path\na.png\n/etc/hosts\n")
    with pytest.raises(InputError, match="no folder in common, such as /etc and"):
        tables.paths_in(tmp_path / "all.csv")
