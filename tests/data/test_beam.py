"""The Beam driver of ingest. What needs Beam itself is marked ``beam`` and runs in an environment that has it."""

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from vitmed.data import beam, spool
from vitmed.data.ingest import ingest
from vitmed.data.prepare import Plan, Task
from vitmed.errors import InputError, MachineError
from vitmed.scans.find import find

NO_BEAM = importlib.util.find_spec("apache_beam") is None
PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 300  # three processes that import Beam, on a busy machine


def needs_beam(test):
    return pytest.mark.beam(
        pytest.mark.skipif(NO_BEAM, reason="Apache Beam is not installed (extra beam)")(test)
    )


def vitmed(*arguments):
    """The command, in a process of its own: Beam's imports raise warnings that are errors in these tests."""
    command = [sys.executable, "-m", "vitmed", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=SECONDS)


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def volumes(folder, count):
    folder.mkdir(exist_ok=True)
    for k in range(count):
        pixels = np.random.Generator(np.random.Philox(k)).integers(0, 900, (9, 8, 7 + k % 3)).astype(np.int16)
        nib.save(nib.Nifti1Image(pixels, np.eye(4)), folder / f"n{k:03}.nii.gz")


def series(folder):
    """A CT of five slices, taken from a test file of pydicom."""
    folder.mkdir()
    for k in range(5):
        data = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
        data.ImagePositionPatient = [0, 0, 2 * k]
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{data.SOPInstanceUID}.{k}"
        data.save_as(folder / f"{k}.dcm")


@pytest.fixture
def mixed(tmp_path):
    """A DICOM series, 12 NIfTI volumes of 12 patients with classes, a picture among volumes, and a broken file."""
    folder = tmp_path / "scans"
    volumes(folder, 12)
    series(folder / "ct")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "picture.png")
    (folder / "broken.nii.gz").write_bytes((folder / "n000.nii.gz").read_bytes()[:150])
    rows = [f"n{k:03}.nii.gz,p{k},{'ab'[k % 2]}" for k in range(12)]
    (folder / "labels.csv").write_text("\n".join(["path,patient,label", *rows, "ct,p1,b"]) + "\n")
    return folder


@needs_beam
@pytest.mark.parametrize("workers", [1, 2])
def test_the_dataset_is_the_local_drivers_to_the_byte(mixed, tmp_path, workers):
    """Otherwise a set made on a cluster is another set, and its splits and numbers are not those of the paper."""
    asked = "--labels", mixed / "labels.csv", "--modality", "ct", "--size", "8,8,8", "--chunk", "4,4,4"
    local = ingest(
        mixed,
        tmp_path / "a" / "set",
        labels=mixed / "labels.csv",
        modality="ct",
        size=(8, 8, 8),
        chunk=(4, 4, 4),
        progress=False,
    )
    assert local["examples"] == {"train": 11, "val": 1, "test": 1} and sum(local["refused"].values()) == 2
    done = vitmed(
        *("ingest", mixed, "--out", tmp_path / "b" / "set", *asked, "--beam", "DirectRunner"),
        *(
            "--beam-option",
            f"direct_num_workers={workers}",
            "--beam-option",
            "direct_running_mode=multi_processing",
        ),
    )
    assert done.returncode == 0, done.stderr
    one, other = content(tmp_path / "a" / "set"), content(tmp_path / "b" / "set")
    page = other.pop("datasheet.html")
    assert one == other and b"broken.nii.gz" in page


@needs_beam
def test_a_decoder_that_crashes_costs_one_scan_and_no_worker(with_a_crash, tmp_path):
    """Otherwise one damaged JPEG, on which GDCM ends its process, ends a job of days."""
    folder = with_a_crash
    local = ingest(folder, tmp_path / "a" / "set", include=("secondary",), progress=False)
    assert local["refused"] == {"broken DICOM file": 1}
    done = vitmed(
        *("ingest", folder, "--out", tmp_path / "b" / "set", "--include", "secondary"),
        *("--beam", "DirectRunner", "--beam-option", "direct_num_workers=2"),
    )
    assert done.returncode == 0, done.stderr
    one, other = content(tmp_path / "a" / "set"), content(tmp_path / "b" / "set")
    other.pop("datasheet.html")
    assert one == other


@needs_beam
def test_several_workers_share_the_scans(tmp_path):
    """Otherwise one worker does it all, and the others are workers in name only."""
    volumes(tmp_path / "in", 64)
    (tmp_path / "spool").mkdir()
    script = f"""
import sys
from pathlib import Path
from vitmed.data.beam import Runner
from vitmed.data.prepare import Plan, Task
from vitmed.scans.find import find
if __name__ == "__main__":
    tasks = [Task(s) for s in find(Path({str(tmp_path / "in")!r}))[0]]
    run = Runner("DirectRunner", ("direct_num_workers=2",))
    print(*(stored.id for stored in run(tasks, Plan(), Path({str(tmp_path / "spool")!r}), None)))
"""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout.split() == [f"n{k:03}.nii.gz" for k in range(64)], done.stderr
    pids = [p.name.split("-")[-2] for p in (tmp_path / "spool").iterdir() if p.is_dir()]
    # Small volumes wait eight to a spool file, so that 64 are eight pieces of work.
    assert len(pids) == 8 and len(set(pids)) == 2 and str(os.getpid()) not in pids


@needs_beam
def test_a_worker_that_dies_ends_ingest_with_one_sentence(tmp_path):
    """Otherwise ingest waits for ever: Beam's runner does, for a worker that the kernel has killed."""
    volumes(tmp_path / "in", 400)
    command = [sys.executable, "-m", "vitmed", "ingest", tmp_path / "in", "--out", tmp_path / "out"]
    command += ["--modality", "mr", "--size", "8,8,8", "--beam", "DirectRunner"]
    command += ["--beam-option", "direct_num_workers=2"]
    run = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + SECONDS
        while not (workers := [p for p in offspring(run.pid) if "sdk_worker_main" in command_of(p)]):
            assert run.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        os.kill(workers[-1], signal.SIGKILL)
        _, said = run.communicate(timeout=SECONDS)
    finally:
        run.kill()
    assert run.returncode == 3, said
    assert said.splitlines()[-1].startswith(
        "vitmed: the Beam runner DirectRunner failed: Worker subprocess exited"
    )
    assert "Traceback" not in said and os.listdir(tmp_path) == ["in"]
    assert not any("sdk_worker_main" in command_of(p) for p in workers)


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def offspring(pid):
    """Process ids of all that a process started, and these."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, task.read_text().split()):
                found += [child, *offspring(child)]
        except OSError:
            pass
    return found


@needs_beam
@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--beam", "NoSuchRunner"), "--beam NoSuchRunner cannot be used: Unexpected pipeline runner"),
        (
            ("--beam", "DirectRunner", "--beam-option", "direct_num_worker=2"),
            "--beam-option direct_num_worker is no option",
        ),
        (
            ("--beam", "DirectRunner", "--beam-option", "direct_num_workers=two"),
            "--beam-option direct_num_workers=two: Beam cannot read",
        ),
    ],
)
def test_what_beam_does_not_know_is_refused(tmp_path, asked, told):
    """Otherwise Beam passes over a misspelt option, and the job runs in another way than was asked."""
    volumes(tmp_path / "in", 1)
    done = vitmed("ingest", tmp_path / "in", "--out", tmp_path / "out", *asked)
    assert done.returncode == 2 and done.stderr.startswith(f"vitmed: {told}"), done.stderr
    assert done.stderr.count("\n") == 1 and os.listdir(tmp_path) == ["in"]


def test_without_beam_the_extra_is_named(tmp_path, monkeypatch):
    """Otherwise who asks for Beam sees a traceback of an import."""
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    volumes(tmp_path / "in", 1)
    with pytest.raises(InputError, match=r"pip install 'vitmed\[beam\]'"):
        ingest(tmp_path / "in", tmp_path / "out", beam="DirectRunner")
    assert os.listdir(tmp_path) == ["in"]


def test_options_that_belong_to_the_other_driver_are_refused(tmp_path):
    """Otherwise one of them is passed over silently."""
    volumes(tmp_path / "in", 1)
    with pytest.raises(InputError, match="--workers is for the processes of this machine"):
        ingest(tmp_path / "in", tmp_path / "out", beam="DirectRunner", workers=2)
    with pytest.raises(InputError, match="--beam-option direct_num_workers=2 is for a runner"):
        ingest(tmp_path / "in", tmp_path / "out", beam_options=("direct_num_workers=2",))


def shared(tmp_path, count=2):
    """A spool with work for one worker, as the driver makes it."""
    volumes(tmp_path / "in", count)
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "shared").write_text("token")
    tasks = [Task(source) for source in find(tmp_path / "in")[0]]
    (tmp_path / "spool" / "00000000").write_bytes(pickle.dumps((tasks, Plan())))
    return tmp_path / "spool", tasks


def outcome(folder):
    return pickle.loads((folder / "00000000.told").read_bytes())


def test_a_worker_leaves_what_the_local_driver_yields(tmp_path):
    """Otherwise the drivers differ in what they make of a scan."""
    folder, tasks = shared(tmp_path)
    beam._prepare(0, str(folder), os.getcwd(), "token")
    found, _ = outcome(folder)
    (tmp_path / "local").mkdir()
    for one, other in zip(found, spool.run(tasks, Plan(), tmp_path / "local", 1), strict=True):
        assert one.id == other.id and one.digest == other.digest
        np.testing.assert_array_equal(one.load()[0], other.load()[0])


def test_a_worker_that_shares_nothing_says_so(tmp_path):
    """Otherwise a worker without the scans refuses every one of them as a file that cannot be opened."""
    folder, tasks = shared(tmp_path)
    beam._prepare(0, str(folder), os.getcwd(), "of another ingest")
    fault, _ = outcome(folder)
    assert isinstance(fault, MachineError) and f"does not see {folder}" in str(fault)
    (folder / "00000000.told").unlink()
    Path(tasks[0].source.files[0]).unlink()
    beam._prepare(0, str(folder), os.getcwd(), "token")
    fault, _ = outcome(folder)
    assert isinstance(fault, MachineError) and "n000.nii.gz is not seen by the worker on" in str(fault)
    with pytest.raises(MachineError, match="does not see"):  # nowhere to leave it: it goes the runner's way
        beam._prepare(0, str(tmp_path / "elsewhere"), os.getcwd(), "token")


def test_a_worker_begins_nothing_once_ingest_has_ended(tmp_path):
    """Otherwise a job goes on for hours after a set was refused at its second scan."""
    folder, _ = shared(tmp_path)
    (folder / "stop").touch()
    beam._prepare(0, str(folder), os.getcwd(), "token")
    assert not (folder / "00000000.told").exists()
