"""Faults of the set end ingest in one sentence and leave nothing; faults of a file are counted."""

import errno
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from vitmed.cli.main import main
from vitmed.data import records
from vitmed.data.ingest import ingest
from vitmed.errors import MachineError


def png(path, size=(8, 8), value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(path.name.encode())))
    pixels = rng.integers(0, 256, size) if value is None else np.full(size, value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def refused(tmp_path, capsys):
    """A function that runs ``vitmed ingest`` on a source and checks how a fault of the set must look."""

    def run(source, *arguments):
        before = sorted(tmp_path.rglob("*"))
        code = main(["ingest", str(source), "--out", str(tmp_path / "new" / "set"), *arguments])
        told = capsys.readouterr().err.strip().splitlines()
        assert code == 2 and told[-1].startswith("vitmed: ") and not any("Traceback" in line for line in told)
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        return told[-1]

    return run


def test_no_such_path(refused, tmp_path):
    """Otherwise the user is shown a traceback."""
    assert str(tmp_path / "none") in refused(tmp_path / "none")


def test_an_empty_folder(refused, tmp_path):
    """Otherwise an empty dataset is made."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing here")
    assert f"{tmp_path / 'empty'} holds no scan" in refused(tmp_path / "empty")


def test_nothing_readable_names_the_first_file(refused, tmp_path):
    """Otherwise nobody knows why."""
    (tmp_path / "x" / "a").mkdir(parents=True)
    (tmp_path / "x" / "a" / "1.png").write_text("junk")
    told = refused(tmp_path / "x", "--label-from", "folder")
    assert "a/1.png: not a readable image" in told and str(tmp_path / "x") in told


def test_one_class_only(refused, tmp_path):
    """Otherwise a classifier is trained on one class; without asking for labels it is an unlabelled set."""
    png(tmp_path / "one" / "a" / "1.png")
    png(tmp_path / "one" / "a" / "2.png")
    assert "one class only, 'a'" in refused(tmp_path / "one", "--label-from", "folder")
    result = ingest(tmp_path / "one", tmp_path / "unlabelled", progress=False)
    assert result["examples"] == {"train": 2}


def test_sizes_that_differ(refused, tmp_path):
    """Otherwise images are stretched without being asked, or batches fail later."""
    png(tmp_path / "s" / "a.png", (8, 8))
    png(tmp_path / "s" / "b.png", (8, 9))
    told = refused(tmp_path / "s")
    assert "a.png is 8 x 8, b.png is 8 x 9" in told and "--size" in told


def test_labels_of_scans_that_are_not_there(refused, tmp_path):
    """Otherwise labels are lost without a word."""
    png(tmp_path / "s" / "a.png")
    (tmp_path / "l.csv").write_text("path,label\na.png,x\nb.png,y\nc.png,y\n")
    told = refused(tmp_path / "s", "--labels", str(tmp_path / "l.csv"))
    assert "l.csv names 2 scans" in told and "'b.png'" in told
    (tmp_path / "s" / "m.csv").write_text("path,label\na.png,x\ngone.png,y\n")
    assert "gone.png" in refused(tmp_path / "s" / "m.csv")


def test_two_modalities(refused, tmp_path):
    """Otherwise CT in HU and pictures in 0..1 are one set."""
    np.save(tmp_path / "a.npy", np.arange(64.0).reshape(8, 8))
    np.save(tmp_path / "b.npy", np.arange(64.0).reshape(8, 8))
    (tmp_path / "m.csv").write_text("path,modality\na.npy,CT\nb.npy,MR\n")
    told = refused(tmp_path / "m.csv")
    assert "a.npy is ct and b.npy is mr" in told


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--size", "8,x"), "--size '8,x'"),
        (("--size", "0,8"), "--size 0,8"),
        (("--modality", "PETT"), "PETT"),
        (("--split", "9/9"), "--split '9/9'"),
        (("--workers", "0"), "--workers is 0"),
        (("--label-from", "name"), "--label-from 'name'"),
        (("--patient-pattern", "("), "--patient-pattern '('"),
        (("--labels", "no.csv"), "no.csv does not exist"),
    ],
)
def test_arguments_that_cannot_be_meant(refused, tmp_path, arguments, word):
    """Otherwise they are ignored."""
    png(tmp_path / "s" / "a.png")
    assert word in refused(tmp_path / "s", *arguments)


def test_an_npz_of_another_layout(refused, tmp_path):
    """Otherwise the wrong array is taken for the images."""
    np.savez(tmp_path / "a.npz", data=np.zeros((3, 8, 8), np.uint8))
    assert "a.npz holds data" in refused(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert "b.npz" in refused(tmp_path / "b.npz")
    images = np.zeros((3, 8, 8), np.uint8)
    np.savez(tmp_path / "c.npz", train_images=images, train_labels=np.zeros((2, 1), np.uint8))
    assert "3 train_images but 2 train_labels" in refused(tmp_path / "c.npz")
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as file:
        file.writestr("train_images.npy", b"\0NUMPY" + bytes(200))
    told = "its member train_images: not a readable array: it does not begin as npy files do"
    assert told in refused(tmp_path / "d.npz")


def test_an_npz_that_asks_for_more_than_it_holds(refused, tmp_path, monkeypatch):
    """Otherwise a file of a few bytes fills the disk or the memory, or runs what a stranger wrote."""
    np.savez(tmp_path / "bomb.npz", train_images=np.zeros((3, 4, 4), np.uint8))
    whole, size = (tmp_path / "bomb.npz").read_bytes(), struct.pack("<II", 176, 176)
    assert size in whole
    (tmp_path / "bomb.npz").write_bytes(whole.replace(size, struct.pack("<II", 176, 2**30)))
    assert f"declares more than it holds ({2**30} bytes unpacked, " in refused(tmp_path / "bomb.npz")
    with zipfile.ZipFile(tmp_path / "shape.npz", "w") as file:
        shape = b"\x93NUMPY\x01\0\x4c\0{'descr': '|u1', 'fortran_order': False, 'shape': (99, 99999, 99999)}"
        file.writestr("train_images.npy", shape.ljust(85) + b"\n" + bytes(48))
    assert "train_images: declares more than it holds" in refused(tmp_path / "shape.npz")
    for name, value in (("number", np.uint8(3)), ("object", np.array([print, print, print], object))):
        np.savez(tmp_path / f"{name}.npz", train_images=value)
        assert "train_images: not a readable array" in refused(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "many.npz", train_images=np.zeros((3, 40, 40), np.uint8))
    monkeypatch.setattr("vitmed.scans.arrays.MOST", 4096)
    assert "many.npz declares more than it holds (4928 bytes" in refused(tmp_path / "many.npz")
    monkeypatch.undo()
    monkeypatch.setattr("vitmed.scans.limits.MAX_BYTES", 1024)
    assert "too large" in refused(tmp_path / "many.npz")


def test_faults_of_files_are_counted_and_told(tmp_path, capsys):
    """Otherwise a broken file ends the ingest of thousands, or vanishes without a word."""
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", np.arange(64.0).reshape(8, 8) + k)
    np.save(tmp_path / "nan.npy", np.where(np.eye(8) > 0, np.nan, 1.0))
    np.save(tmp_path / "flat.npy", np.ones((8, 8)))
    (tmp_path / "broken.png").write_text("junk")
    assert main(["ingest", str(tmp_path), "--out", str(tmp_path / "set")]) == 0
    shown = capsys.readouterr().out
    for line in (
        "1 x NaN or infinite pixels",
        "nan.npy",
        "1 x blank scan",
        "1 x not a readable image",
        "broken.png",
    ):
        assert line in shown
    sheet = json.loads((tmp_path / "set" / "datasheet.json").read_text())
    assert sheet["refused"] == {"NaN or infinite pixels": 1, "blank scan": 1, "not a readable image": 1}
    assert {f["file"]: f["reason"] for f in sheet["refused_files"]}[
        "nan.npy"
    ] == "NaN or infinite pixels: 8 of 64"


@pytest.mark.parametrize("where", ["spool", "shard"])
def test_a_full_disk_leaves_no_dataset(tmp_path, monkeypatch, where):
    """Otherwise half a dataset is taken for a whole one."""
    png(tmp_path / "s" / "a.png")
    if where == "spool":

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("vitmed.data.spool._store", full)
    else:

        class Full:  # raises as ArrayRecord does
            def __init__(self, *_):
                pass

            def write(self, record):
                pass

            def close(self):
                raise RuntimeError("write() failed: No space left on device; writing x")

        monkeypatch.setattr(records, "ArrayRecordWriter", Full)
    with pytest.raises(MachineError, match="no space left"):
        ingest(tmp_path / "s", tmp_path / "set", progress=False)
    # What was read is not lost; of a dataset there is nothing.
    left = ["spool"] if where == "shard" else []
    assert sorted(p.name for p in tmp_path.glob("set.partial/*") if p.name != ".lock") == left
    assert not (tmp_path / "set").exists()


# An ingest that stands still once it has begun to read.
STUCK = """
import sys, time
from vitmed.data import ingest, spool
spool.run = lambda *a: (time.sleep(60), iter(()))[1]
ingest.ingest(sys.argv[1], sys.argv[2], progress=False)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_ingest_leaves_no_dataset_and_can_be_run_again(tmp_path, how):
    """Otherwise a killed job leaves half a dataset, or blocks the next one."""
    png(tmp_path / "s" / "a.png")
    out = tmp_path / "set"
    process = subprocess.Popen([sys.executable, "-c", STUCK, tmp_path / "s", out], stderr=subprocess.DEVNULL)
    partial = tmp_path / "set.partial"
    for _ in range(300):
        if (partial / "spool").exists():
            break
        time.sleep(0.1)
    assert main(["ingest", str(tmp_path / "s"), "--out", str(out)]) == 2, "the other is not to be disturbed"
    assert partial.exists()
    process.send_signal(how)
    process.wait()
    assert not out.exists() and partial.exists() == (how == signal.SIGKILL)
    (partial / "spool").mkdir(parents=True, exist_ok=True)
    (partial / "spool" / "old").write_text("from before")
    assert ingest(tmp_path / "s", out, progress=False)["examples"] == {"train": 1}
    assert not partial.exists() and not list(out.glob("*spool*"))


def test_a_worker_that_dies_is_named(tmp_path, monkeypatch):
    """Otherwise a codec that crashes hangs the ingest, or ends it without saying where."""
    for k in range(20):
        np.save(tmp_path / f"{k:02}.npy", np.arange(64.0).reshape(8, 8))
    monkeypatch.setattr("vitmed.pool.begin", functools.partial(os._exit, 1))
    with pytest.raises(MachineError, match="a worker process died at or after 00.npy"):
        ingest(tmp_path, tmp_path / "set", workers=2, progress=False)
    assert not list(tmp_path.glob("set*"))
