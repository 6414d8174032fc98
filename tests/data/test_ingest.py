"""Scans in, a dataset out: what is written, that it opens anywhere, and that it is the same every time."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom.data
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vitmed.cli.main import main
from vitmed.data import spool
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.data.prepare import Plan, Task
from vitmed.data.spool import SMALL, run, shared_out
from vitmed.errors import InputError, MachineError
from vitmed.phantoms import files
from vitmed.scans import find
from vitmed.scans.how import How
from vitmed.scans.layout import UNMARKED
from vitmed.scans.scan import Source


def sheet(dataset):
    return json.loads((dataset / "datasheet.json").read_text())


def examples(dataset):
    """{id: example} over all splits, by plain TFDS."""
    source = tfds.builder_from_directory(str(dataset)).as_data_source()
    return {e["id"].decode(): {**e, "split": name} for name, split in source.items() for e in split}


def digest(dataset):
    files = sorted(dataset.rglob("*"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two class folders of 12 images each, of 10x12, one a copy of another with the other label."""
    rng = np.random.Generator(np.random.Philox(key=1))
    root = tmp_path_factory.mktemp("folders")
    for name in ("well", "sick"):
        (root / name).mkdir()
        for k in range(12):
            pixels = rng.integers(0, 256, (10, 12)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k:02}.png")
    (root / "sick" / "11.png").write_bytes((root / "well" / "03.png").read_bytes())
    return root


@pytest.fixture(scope="module")
def dataset(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "set"
    ingest(folders, out, label_from="folder", modality="us", workers=1, progress=False)
    return out


def test_examples_hold_the_pixels_and_the_label(folders, dataset):
    """Otherwise a model learns from something else than the scans."""
    found = examples(dataset)
    assert len(found) == 24
    for name, example in found.items():
        pixels = np.asarray(Image.open(folders / name))
        np.testing.assert_array_equal(example["image"][..., 0], pixels)
        assert example["label"] == [name.startswith("well")] and example["label_weight"] == [1]
        np.testing.assert_allclose(example["scale"], 1 / 255)
        assert np.isnan(example["spacing"]).all() and np.isnan(example["affine"]).all()
        word = hashlib.blake2b(name.encode()).digest()[:8]
        assert example["example"].tobytes() == word


def test_the_datasheet_tells_what_is_there(folders, dataset):
    """Otherwise later stages prepare their input wrongly, and the report says what is not so."""
    held = sheet(dataset)
    assert (held["format"], held["modality"], held["unit"], held["size"]) == (
        1,
        "ultrasound",
        "relative",
        [10, 12],
    )
    assert (held["task"], held["classes"], held["channels"], held["dtype"]) == (
        "multiclass",
        ["sick", "well"],
        1,
        "uint8",
    )
    assert sum(held["examples"].values()) == 24 and held["patients"] == {n: None for n in held["examples"]}
    counts = [sum(split[name] for split in held["class_counts"].values()) for name in ("sick", "well")]
    assert counts == [12, 12]
    train = [e["image"] / 255 for e in examples(dataset).values() if e["split"] == "train"]
    np.testing.assert_allclose(held["intensity"]["mean"], [np.mean(train)], rtol=1e-5)
    np.testing.assert_allclose(held["intensity"]["std"], [np.std(train)], rtol=1e-5)
    histogram = np.histogram(train, bins=held["intensity"]["histogram"]["edges"])[0]
    assert np.abs(histogram - held["intensity"]["histogram"]["counts"]).max() <= 0.01 * histogram.sum()
    assert sum(held["intensity"]["histogram"]["counts"]) == histogram.sum()


def test_a_copy_with_another_label_is_found_and_not_torn_apart(dataset):
    """Otherwise a contradiction goes unseen, or the copy of a training image is tested on."""
    held = sheet(dataset)
    assert held["contradictions"] == 1
    assert held["duplicate_groups"] == [["sick/11.png", "well/03.png"]]
    assert sum(n for where, n in held["duplicates"].items() if "/" in where) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path, workers, monkeypatch):
    """Otherwise two machines make two datasets of the same scans."""
    monkeypatch.setattr("vitmed.data.spool.SMALL", 0)  # enough work for several workers
    root = tmp_path / "volumes"
    root.mkdir()
    rng = np.random.Generator(np.random.Philox(key=2))
    for k in range(5):
        volume = rng.integers(0, 500, (9, 10, 11)).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 1.5, 1, 1])), root / f"{k}.nii.gz")
    (root / "bad.nii.gz").write_text("junk")
    for out, n in (("a", 1), ("b", workers)):
        ingest(
            root, tmp_path / out, modality="mr", spacing=(1, 1, 1), size=(8, 8, 8), workers=n, progress=False
        )
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    held = sheet(tmp_path / "a")
    assert (
        held["refused"] == {"not a readable NIfTI file": 1}
        and held["refused_files"][0]["file"] == "bad.nii.gz"
    )
    assert held["spacing"] == [1, 1, 1] and held["dtype"] == "int16"


def test_workers_read_from_one_file_too(tmp_path, rng, monkeypatch):
    """Otherwise a set of a hundred thousand images in one file is read by one core of many."""
    np.savez(tmp_path / "set.npz", train_images=rng.integers(0, 256, (20, 16, 16)).astype(np.uint8))
    ingest(tmp_path / "set.npz", tmp_path / "a", workers=1, progress=False)
    monkeypatch.setitem(spool.ALONE, "npz", 2)
    monkeypatch.setitem(spool.PER_CALL, "npz", 5)
    monkeypatch.setattr(spool, "prepare", None)  # of this process
    ingest(tmp_path / "set.npz", tmp_path / "b", workers=2, progress=False)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert not (tmp_path / "b" / "unpacked").exists()


def test_shards_are_cut_by_size_and_read_as_one(tmp_path, rng, monkeypatch):
    """Otherwise a large set is one file, or examples at the cut are lost."""
    monkeypatch.setattr("vitmed.data.records.SHARD_BYTES", 2000)
    np.savez(tmp_path / "set.npz", train_images=rng.integers(0, 256, (20, 16, 16)).astype(np.uint8))
    ingest(tmp_path / "set.npz", tmp_path / "out", progress=False)
    assert len(list((tmp_path / "out").glob("*array_record*"))) > 3
    images = np.load(tmp_path / "set.npz")["train_images"]
    found = examples(tmp_path / "out")
    assert list(found) == [f"train/{i:06}" for i in range(20)]
    np.testing.assert_array_equal(np.stack([e["image"][..., 0] for e in found.values()]), images)


def test_work_is_shared_out_by_what_is_in_the_files(tmp_path):
    """Otherwise a few large volumes are one worker's, or small ones each take a file of their own in the spool."""
    for name, size in (("small.nii", 9), ("large.nii", SMALL + 1), ("header.mhd", 9)):
        (tmp_path / name).write_bytes(bytes(size))

    def shares(name, kind="nifti"):
        tasks = [Task(Source(f"{name}{k}", kind, (str(tmp_path / name),))) for k in range(16)]
        return [len(share) for share in shared_out(tasks)]

    assert shares("small.nii") == [8, 8]
    assert shares("large.nii") == shares("header.mhd", "itk") == shares("missing.nii") == [1] * 16


def test_what_is_mapped_from_the_spool_is_aligned(tmp_path, monkeypatch):
    """Otherwise a scan that follows one of an odd number of bytes is an array that compiled code may refuse."""
    monkeypatch.setattr("vitmed.data.spool.MAPPED", 0)
    pixels = np.arange(343).reshape(7, 7, 7)
    arrays = {"odd": (pixels % 256).astype(np.uint8), "wide": pixels.astype(np.uint16)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    tasks = [Task(Source(name, "array", (str(tmp_path / f"{name}.npy"),))) for name in arrays]
    (tmp_path / "spool").mkdir()
    images = [scan.load()[0] for scan in run(tasks, Plan("unknown"), tmp_path / "spool", 1)]
    assert [image.dtype for image in images] == [np.uint8, np.uint16]
    assert all(image.flags.aligned for image in images)
    np.testing.assert_array_equal(images[0][..., 0], arrays["odd"])


def test_it_opens_without_tensorflow(dataset):
    """Otherwise reading needs gigabytes that the core install does not have."""
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "source = tfds.builder_from_directory(sys.argv[1]).as_data_source()\n"
        "assert sum(len(s) for s in source.values()) == 24\n"
        "assert source['train'][0]['image'].shape == (10, 12, 1)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(dataset)], check=True)


def test_medmnist_keeps_splits_labels_and_names(tmp_path, rng):
    """Otherwise published numbers cannot be compared with."""
    arrays = {}
    for split, n in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 8, 8)).astype(np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez(tmp_path / "pneumoniamnist_64.npz", **arrays)
    result = ingest(tmp_path / "pneumoniamnist_64.npz", tmp_path / "out", progress=False)
    assert result["examples"] == {"train": 6, "val": 3, "test": 4}
    held = sheet(tmp_path / "out")
    assert (held["modality"], held["classes"], held["splits"]["how"]) == (
        "xray",
        ["normal", "pneumonia"],
        "given",
    )
    found = examples(tmp_path / "out")["val/000001"]
    np.testing.assert_array_equal(found["image"][..., 0], arrays["val_images"][1])
    assert found["label"] == [1] and found["split"] == "val"


def test_a_table_brings_patients_sites_splits_and_masks(tmp_path, rng):
    """Otherwise what is known of the scans is lost; masks beside scans are no scans."""
    root = tmp_path / "root"
    root.mkdir()
    lines = ["path,patient,site,split,mask,finding"]
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (6, 6)).astype(np.uint8)).save(root / f"{k}.png")
        Image.fromarray(np.full((6, 6), k, np.uint8)).save(root / f"{k}_mask.png")
        mask = f"{k}_mask.png" if k else ""
        lines.append(f"{k}.png,p{k // 2},north,{'train' if k < 2 else 'test'},{mask},{'ab'[k % 2]}")
    (root / "0_mask.png").unlink()
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    for name, source, more in (("a", root, {"labels": root / "labels.csv"}), ("b", root / "labels.csv", {})):
        result = ingest(source, tmp_path / name, progress=False, **more)
        assert result["examples"] == {"train": 2, "test": 2} and result["patients"] == {"train": 1, "test": 1}
        found = examples(tmp_path / name)
        who = {k: found[f"{k}.png"]["patient"] for k in range(4)}
        assert who[0] == who[1] != who[2] == who[3] and b"p" not in who[2], "patients are pseudonyms"
        assert found["2.png"]["site"] == b"north"
        assert (found["2.png"]["mask"] == 2).all() and (found["0.png"]["mask"] == UNMARKED).all()


def test_scans_of_most_channels_are_kept_and_depths_agree(tmp_path, rng):
    """Otherwise one colour image ends the ingest, or 16-bit files are darker than 8-bit ones."""
    for k in range(3):
        Image.fromarray(np.full((6, 6), 51, np.uint8)).save(tmp_path / f"{k}.png")
    Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).save(tmp_path / "colour.png")
    wide = np.zeros((6, 6), np.uint16)
    wide[0, 0] = 40000
    Image.fromarray(wide).save(tmp_path / "wide.png")
    result = ingest(tmp_path, tmp_path / "out", progress=False)
    assert result["refused"] == {"other channels than the rest": 1}
    found = examples(tmp_path / "out")
    assert {e["image"].dtype for e in found.values()} == {np.dtype(np.uint16)}
    np.testing.assert_allclose(found["0.png"]["image"] * found["0.png"]["scale"], 0.2, atol=1e-6)
    np.testing.assert_allclose((found["wide.png"]["image"] * found["wide.png"]["scale"]).max(), 1, atol=1e-6)


def test_the_commands_print_their_contract(folders, tmp_path, capsys):
    """Otherwise scripts that read the JSON break."""
    arguments = [
        str(folders),
        "--out",
        str(tmp_path / "d"),
        "--label-from",
        "folder",
        "--size",
        "8,8",
        "--json",
    ]
    assert main(["ingest", *arguments]) == 0
    made = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (
        made["dataset"] == str(tmp_path / "d")
        and sum(made["examples"].values()) == 24
        and made["refused"] == {}
    )
    assert main(["inspect", str(tmp_path / "d"), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert seen["contradictions"] == 1 and sum(seen["duplicates"].values()) == 1
    assert {k: seen[k] for k in ("examples", "patients", "refused")} == {
        k: made[k] for k in ("examples", "patients", "refused")
    }
    assert main(["inspect", str(tmp_path / "d")]) == 0
    shown = capsys.readouterr().out
    assert "8 x 8" in shown and "1 image with more than one label" in shown
    assert main(["inspect", str(folders)]) == 2
    assert str(folders) in capsys.readouterr().err


REAL = [
    ("pneumoniamnist/pneumoniamnist.npz", {}, 5856),
    ("adrenalmnist3d/adrenalmnist3d.npz", {}, 1584),
    ("busi", {"label_from": "folder", "modality": "ultrasound", "size": (64, 64)}, 780),
    ("t1_head_dicom", {"spacing": (2, 2, 2), "size": (96, 96, 96)}, 1),
]


@pytest.mark.parametrize(("name", "how", "count"), REAL, ids=[r[0].split("/")[0] for r in REAL])
def test_real_scans_go_in(shared_data, tmp_path, name, how, count):
    """Otherwise what works on made-up files fails on real ones."""
    result = ingest(shared_data / name, tmp_path / "out", progress=False, **how)
    assert sum(result["examples"].values()) == count and result["refused"] == {}
    if "pneumonia" in name:
        held = sheet(tmp_path / "out")["duplicates"]
        assert held == {"train": 18, "val": 0, "test": 3, "train/val": 8, "train/test": 0, "val/test": 0}


def test_real_volumes_of_every_kind_of_intensity(shared_data, tmp_path):
    """Otherwise volumes that differ by orders of magnitude, or in their dtype, do not become one set."""
    sources = sorted((shared_data / "hippocampus" / "images").glob("*.nii.gz"))[:24]
    (tmp_path / "m.csv").write_text("path\n" + "".join(f"{Path(s).resolve()}\n" for s in sources))
    result = ingest(
        tmp_path / "m.csv",
        tmp_path / "out",
        modality="MR",
        spacing=(1, 1, 1),
        size=(32, 48, 40),
        progress=False,
    )
    assert sum(result["examples"].values()) == 24
    means = [(e["image"] * e["scale"]).mean() for e in examples(tmp_path / "out").values()]
    assert 0.2 < min(means) < max(means) < 0.7


def test_outside_its_folder_nothing_is_touched(folders, tmp_path):
    """Otherwise ingest overwrites a person's data."""
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        ingest(folders, tmp_path / "out", progress=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_place_where_nothing_can_be_is_said_before_anything_is_read(folders, tmp_path, monkeypatch):
    """Otherwise hours of reading end at a disk that is not there, or in a traceback."""
    monkeypatch.setattr("vitmed.data.ingest.look", None)
    (tmp_path / "out").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match="out is a link that leads nowhere"):
        ingest(folders, tmp_path / "out", progress=False)
    with pytest.raises(MachineError, match="/proc/out.partial cannot be made"):
        ingest(folders, Path("/proc/out"), progress=False)


def test_no_pass_over_many_scans_is_silent(folders, tmp_path, capsys, monkeypatch):
    """Otherwise nothing is seen for minutes while headers are read, and a person takes it for hung."""
    monkeypatch.setattr(find, "_LONG", 2)
    ingest(folders, tmp_path / "set", modality="us", size="auto", workers=1)
    told = capsys.readouterr().err
    assert "looking through: 24/24 files" in told and "measuring: 24/24 scans" in told
    (tmp_path / "more").mkdir()
    pixels = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "more" / "new.png")
    ingest(tmp_path / "more", tmp_path / "set", append=True, workers=1)
    told = capsys.readouterr().err
    assert "reading the dataset: 24/24 scans" in told and "looking through" not in told
    header = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    for name in ("a", "b"):
        (tmp_path / "more" / f"{name}.dcm").write_bytes(Path(header).read_bytes())
    find.find(tmp_path / "more", how=How(quiet=False))
    assert "reading DICOM headers: 2/2 files" in capsys.readouterr().err
    find.find(tmp_path / "more")
    ingest(folders, tmp_path / "again", modality="us", size="auto", workers=1, progress=False)
    assert capsys.readouterr().err == ""


def test_who_is_in_the_table_with_one_scan_and_in_a_header_with_another_lies_on_one_side(tmp_path, rng):
    """Otherwise a scan that the table leaves out is of somebody else, and the same person is tested on."""

    def film(name, header):
        image = rng.integers(0, 4096, (12, 10)).astype(np.uint16)
        files.dicom(tmp_path / "x" / name, "xray", image, (1, 1), header, "A", int(name[-5]))

    def sides(dataset):
        data = Dataset.open(dataset)
        found = {split: {str(i).split("_")[0] for i in data.ids(split)} for split in data.splits}
        return sorted(person for people in found.values() for person in people)

    (tmp_path / "x").mkdir()
    lines = ["path,patient,label"]
    for person in range(12):
        film(f"{person}_0.dcm", f"H{person}")
        film(f"{person}_1.dcm", f"H{person}")
        lines.append(f"{person}_0.dcm,told {person},{'ab'[person % 2]}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    how = dict(labels=table, progress=False, key=tmp_path / "key")
    ingest(tmp_path / "x", tmp_path / "set", **how)
    assert sides(tmp_path / "set") == sorted(map(str, range(12))), "somebody is on two sides"
    for person in range(12):  # what comes later without a row goes where the header's patient is
        film(f"{person}_2.dcm", f"H{person}")
    ingest(tmp_path / "x", tmp_path / "set", append=True, **how)
    assert sides(tmp_path / "set") == sorted(map(str, range(12)))


def test_one_patient_in_all_headers_tells_no_people_apart(tmp_path, rng):
    """Otherwise an anonymised set is one person, all of it in one split; what is left open is said."""
    (tmp_path / "x").mkdir()
    for person in range(12):
        for k in range(2):
            image = rng.integers(0, 4096, (12, 10)).astype(np.uint16)
            files.dicom(tmp_path / "x" / f"p{person:02}_{k}.dcm", "xray", image, (1, 1), "ANONYMOUS", "A", 2 * person + k)
    files.dicom(tmp_path / "x" / "stray.dcm", "xray", image[::-1], (1, 1), "ANONYMOUS", "A", 99)
    made = ingest(
        tmp_path / "x", tmp_path / "set", patient_pattern=r"(p\d\d)_", progress=False, key=tmp_path / "key"
    )
    assert sum(made["patients"].values()) == 13 and len(made["examples"]) == 3
    assert any("1 scan has no patient but the one in the header, which several" in n for n in made["notes"])
