"""Files that were made to break a reader: each is left out with its reason, and the rest is ingested.

None may crash, take seconds, allocate what it asks for, or touch anything outside the dataset.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitmed.cli.main import main
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.data.pseudonyms import hidden, open_key

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import hostile  # noqa: E402
import measured_ingest  # noqa: E402

sys.path.remove(str(HERE))

GOOD = 3
SECONDS = 2.0  # of processor time
BYTES = 64 * 2**20


def good(folder):
    folder.mkdir(exist_ok=True)
    for k in range(GOOD):
        np.save(folder / f"good{k}.npy", np.arange(512.0).reshape(8, 8, 8) + k)


@pytest.fixture(scope="module")
def ingests(tmp_path_factory):
    """A process that has imported everything, and seen a sound file of every reader."""
    process = measured_ingest.Ingests()
    root = tmp_path_factory.mktemp("sound")
    good(root / "in")
    hostile.slice_of(root / "in" / "a.dcm")
    hostile.nifti_of(root / "in" / "b.nii.gz")
    hostile.mha(root / "in" / "c.mha", "4 4 4", bytes(range(64)))
    assert process.run(root / "in", root / "out").fault == ""
    yield process
    process.close()


@pytest.mark.parametrize("name", hostile.CASES)
def test_it_is_left_out_with_its_reason_and_the_rest_goes_in(tmp_path, ingests, name):
    """Otherwise one file of a stranger ends the ingest of thousands, or the machine."""
    make, reason, names = hostile.CASES[name]
    folder = tmp_path / "in"
    good(folder)
    make(folder)
    before = sorted(p for p in tmp_path.rglob("*") if p.parent == tmp_path or folder in p.parents)
    took = ingests.run(folder, tmp_path / "out")
    assert took.fault == ""
    sheet = json.loads((tmp_path / "out" / "datasheet.json").read_text())
    told = {f["file"]: f["reason"] for f in sheet["refused_files"]}
    key = open_key()
    for file in names:
        # Of a DICOM file that cannot be read whole, nobody knows whether its name tells who the patient is.
        file = file if file in told else hidden(file, key)
        assert file in told, f"{file} is not in the datasheet: {told}"
        assert re.match(reason, told[file]) and told[file], told[file]
        assert not told[file].startswith("cannot be read"), f"no reader expected it: {told[file]}"
    assert sum(sheet["examples"].values()) >= GOOD
    assert took.processor < SECONDS and took.grown < BYTES, took
    after = sorted(p for p in tmp_path.rglob("*") if p.parent == tmp_path or folder in p.parents)
    assert set(after) - set(before) == {tmp_path / "out"}
    assert not Path("/tmp/vitmed-escaped.png").exists()


def test_a_process_that_does_not_answer_is_told(tmp_path, monkeypatch):
    """Otherwise the tests above pass, or never end, whatever a file does to the process."""
    monkeypatch.setattr(measured_ingest, "HANGS", 0.5)
    process = measured_ingest.Ingests()
    os.kill(process.pid, signal.SIGSTOP)
    assert process.run(tmp_path, tmp_path / "out").fault.endswith("the process ended with -9")


def test_what_an_earlier_worker_took_is_not_told_of_a_later_ingest(tmp_path, monkeypatch):
    """Otherwise every test after the one that fails fails too, and the message names the wrong file."""
    used = iter([(0.0, 100, 50), (1.0, 110, 900), (1.0, 105, 900), (3.0, 120, 900)])
    monkeypatch.setattr(measured_ingest, "_used", lambda: next(used))
    good(tmp_path / "in")
    took = [measured_ingest._measured(str(tmp_path / "in"), str(tmp_path / name)) for name in ("a", "b")]
    assert took == [measured_ingest.Took("", 1.0, 800), measured_ingest.Took("", 2.0, 15)]


def test_names_that_are_not_utf8_are_spelt_out(tmp_path):
    """Otherwise a disc written in another country cannot be ingested."""
    folder = tmp_path / "in"
    good(folder)
    try:
        with open(os.path.join(os.fsencode(folder), b"caf\xe9.npy"), "wb") as file:
            np.save(file, np.arange(512.0).reshape(8, 8, 8) * 3)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with open(os.path.join(os.fsencode(folder), b"caf\xe9.mha"), "wb") as file:
        file.write(b"x")
    ingest(folder, tmp_path / "out", progress=False, workers=1)
    data = Dataset.open(tmp_path / "out")
    ids = [i for split in data.splits for i in data.ids(split)]
    sheet = json.loads((tmp_path / "out" / "datasheet.json").read_text())
    assert sum(sheet["examples"].values()) == GOOD + 1
    assert "caf\\xe9.npy" in ids
    (bad,) = sheet["refused_files"]
    assert bad["file"] == "caf\\xe9.mha" and "UTF-8" in bad["reason"]


def test_a_decoder_that_crashes_costs_one_scan(with_a_crash, tmp_path):
    """Otherwise a JPEG damaged in the right three bytes ends the ingest: GDCM then ends its process."""
    folder = with_a_crash
    (folder / "c.dcm").write_bytes(
        (folder / "a.dcm").read_bytes().replace(b"1.3.6.1.4.1.5962.1", b"1.3.6.1.4.1.5962.2")
    )
    result = ingest(folder, tmp_path / "out", include=("secondary",), progress=False, workers=1)
    assert sum(result["examples"].values()) >= 1 and result["refused"].get("broken DICOM file") == 1


def test_names_that_are_printed_alike_leave_a_dataset_with_a_page(tmp_path):
    """Otherwise one of them, not UTF-8, stands raw in the datasheet, which then can never be opened."""
    (tmp_path / "x").mkdir(exist_ok=True)
    for k, name in enumerate((b"caf\xe9.png", b"caf\\xe9.png")):
        with open(os.path.join(os.fsencode(tmp_path / "x"), name), "wb") as file:
            Image.fromarray(np.full((8, 8), k, np.uint8) + np.arange(8, dtype=np.uint8)).save(file, "PNG")
    assert main(["ingest", str(tmp_path / "x"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "datasheet.html").is_file()


def test_a_dataset_inside_the_source_is_no_heap_of_unknown_files(tmp_path):
    for k in range(3):
        (tmp_path / "x").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), k, np.uint8) + np.arange(8, dtype=np.uint8)).save(
            tmp_path / "x" / f"{k}.png"
        )
    ingest(tmp_path / "x", tmp_path / "x" / "set", progress=False)
    made = ingest(tmp_path / "x", tmp_path / "x" / "set2", progress=False)
    assert made["refused"] == {} and sum(made["examples"].values()) == 3
