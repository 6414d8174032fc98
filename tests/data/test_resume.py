"""An interrupted ingest goes on, and what comes of it is what would have come without the interruption."""

import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image

from vitmed.cli.main import main
from vitmed.data import prepare, spool
from vitmed.data.ingest import ingest
from vitmed.data.withdraw import withdraw
from vitmed.errors import InputError

SCANS = 70  # two whole shares of a worker, and a third begun


@pytest.fixture
def scans(tmp_path):
    """A folder of pictures."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for k in range(SCANS):
        picture(folder / f"{k:02}.png", k)
    return folder


def picture(path, seed):
    rng = np.random.Generator(np.random.Philox(key=seed))
    Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(path)


@pytest.fixture
def read(monkeypatch):
    """The ids of the scans that are prepared, in order; at one whose id is put into ``until`` the user interrupts."""

    class Read(list):
        until = ""

    seen = Read()

    def noting(task, plan):
        if seen.until and seen.until in task.source.id:
            raise KeyboardInterrupt
        seen.append(task.source.id)
        return prepare.prepare(task, plan)

    monkeypatch.setattr(spool, "prepare", noting)
    return seen


def interrupted(read, source, out, until, **how):
    read.until = until
    with pytest.raises(KeyboardInterrupt):
        ingest(source, out, workers=1, progress=False, **how)
    read.until = ""
    read.clear()


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_was_read_is_not_read_again_and_the_bytes_are_the_same(scans, tmp_path, read):
    """Otherwise a day of reading is lost, or a dataset depends on when the machine was restarted."""
    ingest(scans, tmp_path / "a" / "set", workers=1, progress=False)
    interrupted(read, scans, tmp_path / "b" / "set", "69.png")
    told = ingest(scans, tmp_path / "b" / "set", workers=1, progress=False)
    assert list(read) == [f"{k}.png" for k in range(64, SCANS)] and told["read_before"] == 64
    assert contents(tmp_path / "a" / "set") == contents(tmp_path / "b" / "set")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["set"]


def test_it_may_be_interrupted_twice_and_given_from_elsewhere(scans, tmp_path, read, monkeypatch):
    """Otherwise the second interruption loses what the first had left, or a relative path what both had."""
    monkeypatch.chdir(tmp_path)
    interrupted(read, "scans", "set", "40.png")
    interrupted(read, "scans", "set", "69.png")
    monkeypatch.chdir("scans")
    told = ingest(scans, tmp_path / "set", workers=1, progress=False)
    assert told["read_before"] == 64 and len(read) == SCANS - 64


@pytest.mark.parametrize("changed", ["a scan", "the plan"])
def test_what_has_changed_is_read_again(scans, tmp_path, read, changed):
    """Otherwise a file that was mended meanwhile stays as it was, or scans of two sizes are one set."""
    interrupted(read, scans, tmp_path / "set", "69.png")
    how = {"size": (4, 4)} if changed == "the plan" else {}
    if changed == "a scan":
        picture(scans / "07.png", 1000)
    told = ingest(scans, tmp_path / "set", workers=1, progress=False, **how)
    assert told["read_before"] == (0 if how else 63) and "07.png" in read
    picture(tmp_path / "other.png", 1000)
    whole = ingest(scans, tmp_path / "whole", workers=1, progress=False, **how)
    assert contents(tmp_path / "set") | {"datasheet.json": b""} == contents(tmp_path / "whole") | {
        "datasheet.json": b""
    }
    assert whole["read_before"] == 0


@pytest.mark.parametrize("damage", ["image", "mask", "cut", "list"])
def test_what_did_not_reach_the_disk_whole_is_read_again(tmp_path, read, damage, monkeypatch):
    """Otherwise a power cut leaves zeros in a dataset that says it is whole."""
    monkeypatch.setattr("vitmed.data.spool.SMALL", 0)  # each volume in a spool file of its own
    folder = tmp_path / "nnunet"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for k in range(3):
        values = np.random.Generator(np.random.Philox(key=k)).integers(0, 900, (6, 7, 8)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "imagesTr" / f"c{k}_0000.nii.gz")
        nibabel.save(
            nibabel.Nifti1Image((values > 450).astype(np.uint8), np.eye(4)),
            folder / "labelsTr" / f"c{k}.nii.gz",
        )
    (folder / "dataset.json").write_text(
        '{"channel_names": {"0": "MR"}, "labels": {"background": 0, "bright": 1}, "numTraining": 3, '
        '"file_ending": ".nii.gz"}'
    )
    how = {"modality": "mr"}
    ingest(folder, tmp_path / "whole", workers=1, progress=False, **how)
    interrupted(read, folder, tmp_path / "set", "c2", **how)
    (first,) = sorted((tmp_path / "set.partial" / "spool").rglob("000000"))
    data = bytearray(first.read_bytes())
    ((_, scan),) = pickle.loads(first.with_name("000000.list").read_bytes())
    pixels = int(np.prod(scan.shape)) * scan.dtype.itemsize
    if damage in ("image", "mask"):
        data[5 if damage == "image" else pixels + 5] ^= 1
        first.write_bytes(data)
    elif damage == "cut":
        first.write_bytes(data[:pixels])
    else:
        os.truncate(first.with_name("000000.list"), 20)
    told = ingest(folder, tmp_path / "set", workers=1, progress=False, **how)
    assert told["read_before"] == 1 and len(read) == 2
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize("mistake", [{"labels": "labls.csv"}, {"size": (4, 4, 4)}, {"size": (4, 4)}])
def test_a_mistake_in_between_costs_nothing(scans, tmp_path, read, mistake):
    """Otherwise a letter left out of --labels throws away a day of reading."""
    interrupted(read, scans, tmp_path / "set", "69.png")
    if mistake.get("size") == (4, 4):  # a valid one, and interrupted too
        interrupted(read, scans, tmp_path / "set", "69.png", **mistake)
    else:
        with pytest.raises(InputError):
            ingest(scans, tmp_path / "set", workers=1, progress=False, **mistake)
    assert ingest(scans, tmp_path / "set", workers=1, progress=False)["read_before"] == 64


def test_it_may_lie_among_the_scans(scans, tmp_path, read):
    """Otherwise what waits is looked through as if it were scans, and told as refused."""
    interrupted(read, scans, scans / "set", "69.png")
    told = ingest(scans, scans / "set", workers=1, progress=False)
    assert told["read_before"] == 64 and told["refused"] == {}


def test_what_was_refused_is_tried_again(scans, tmp_path, read):
    """Otherwise a scan that may be read now, for its owner has been asked meanwhile, stays out."""
    (scans / "00.png").write_bytes(b"")
    os.utime(scans / "00.png", ns=(10**18, 10**18))
    interrupted(read, scans, tmp_path / "set", "69.png")
    picture(scans / "00.png", 0)
    assert ingest(scans, tmp_path / "set", workers=1, progress=False)["refused"] == {}


def test_nobody_else_can_read_or_write_what_waits(scans, tmp_path, read):
    """Otherwise scans lie open to all of a cluster, or what a stranger put there runs as a program."""
    interrupted(read, scans, tmp_path / "set", "69.png")
    waiting = tmp_path / "set.partial" / "spool"
    assert waiting.stat().st_mode & 0o777 == 0o700
    waiting.chmod(0o777)
    assert ingest(scans, tmp_path / "set", workers=1, progress=False)["read_before"] == 0


def test_scans_of_an_archive_are_known_again(scans, tmp_path, read):
    """Otherwise an archive, which is unpacked anew each time, never goes on."""
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for file in sorted(scans.iterdir()):
            archive.write(file, file.name)
    interrupted(read, tmp_path / "scans.zip", tmp_path / "set", "69.png")
    assert [p.name for p in (tmp_path / "set.partial").iterdir() if p.name != ".lock"] == ["spool"]
    assert ingest(tmp_path / "scans.zip", tmp_path / "set", workers=1, progress=False)["read_before"] == 64


def test_scans_of_an_npz_are_known_again(tmp_path, read, rng, monkeypatch):
    """Otherwise all of a large set is read again."""
    monkeypatch.setitem(spool.PER_CALL, "npz", 4)
    images = rng.integers(0, 256, (10, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images)
    ingest(tmp_path / "set.npz", tmp_path / "whole", workers=1, progress=False)
    interrupted(read, tmp_path / "set.npz", tmp_path / "set", "train/000009")
    assert not (tmp_path / "set.partial" / "unpacked").exists()
    told = ingest(tmp_path / "set.npz", tmp_path / "set", workers=1, progress=False)
    assert told["read_before"] == 8 and list(read) == ["train/000008", "train/000009"]
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_an_append_goes_on_too(scans, tmp_path, read):
    """Otherwise a living set of a hospital, which is added to at night, begins anew every night."""
    first = tmp_path / "first"
    first.mkdir()
    picture(first / "x.png", 500)
    for out in ("set", "whole"):
        ingest(first, tmp_path / out, workers=1, progress=False)
    interrupted(read, scans, tmp_path / "set", "69.png", append=True)
    assert ingest(scans, tmp_path / "set", workers=1, progress=False, append=True)["read_before"] == 64
    ingest(scans, tmp_path / "whole", workers=1, progress=False, append=True)
    hashes = [
        re.search(r'"content_hash": "(\w+)"', (tmp_path / n / "datasheet.json").read_text())[1]
        for n in ("set", "whole")
    ]
    assert hashes[0] == hashes[1]


def test_withdrawing_clears_what_an_interrupted_append_left(scans, tmp_path, read):
    """Otherwise scans of who withdrew lie beside the dataset still."""
    how = {"patient_pattern": r"(\d)\d"}
    ingest(scans, tmp_path / "set", workers=1, progress=False, **how)
    for file in scans.iterdir():
        file.rename(file.with_name(f"3{file.name}"))
    interrupted(read, scans, tmp_path / "set", "69.png", append=True, **how)
    assert (tmp_path / "set.partial" / "spool").exists()
    withdraw("3", tmp_path / "set")
    assert not (tmp_path / "set.partial").exists()


# Reads until the second share has begun, and stands still there.
SLOW = """
import sys, time
from vitmed.cli.main import main
from vitmed.data import prepare, spool
def slow(task, plan):
    if "69" in task.source.id:
        print("there", flush=True)
        time.sleep(60)
    return prepare.prepare(task, plan)
spool.prepare = slow
sys.exit(main(["ingest", "scans", "--out", "set", "--workers", "1"]))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_is_gone_on_with(scans, tmp_path, capsys, monkeypatch, how):
    """Otherwise a job that runs out of time, or is preempted, never comes to its end, and nobody says what to do."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "there\n"
    process.send_signal(how)
    err = process.communicate(timeout=60)[1]
    if how == signal.SIGTERM:
        assert process.returncode == 130
        assert (
            "interrupted; the same command goes on from the scans that were read, which wait in set.partial"
            in err
        )
    monkeypatch.chdir(tmp_path)
    assert main(["ingest", "scans", "--out", "set"]) == 0
    assert "going on: 64 scans were read before" in capsys.readouterr().err
    assert not (tmp_path / "set.partial").exists()
