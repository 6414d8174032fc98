"""The commands as a person types them: help, exit codes, and one clear sentence for every kind of bad input.

What is bad is refused in this process, where it is quick; what a process does as a whole (help without JAX, a
full disk, ctrl-C) is tried in real ones.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitmed.cli.main import main, verb_names
from vitmed.data.dataset import Dataset

PROJECT = Path(__file__).resolve().parents[1]
MAE = str(PROJECT / "configs" / "pretrain_mae.py")
CLASSIFY = str(PROJECT / "configs" / "finetune_classify.py")


@pytest.fixture
def vitmed(capsys, monkeypatch):
    """Runs a verb as typed; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(PROJECT)

    def run(*words) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(vitmed, tmp_path):
    """Runs a verb that must refuse: exit code 2, one sentence with all of ``names``, nothing left behind."""

    def run(*words, names) -> None:
        before = sorted(tmp_path.rglob("*"))
        code, out, err = vitmed(*words)
        assert code == 2, f"exit {code}: {err[-500:]}"
        assert "Traceback" not in out + err
        last = err.strip().splitlines()[-1]
        assert last.startswith("vitmed: "), err
        for name in names:
            assert str(name) in last, f"{name!r} is not named in: {last}"
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"

    return run


def test_paths_with_brackets_are_shown_as_they_are(tmp_path, monkeypatch, vitmed):
    """Otherwise the last line of a study of hours names a table that is not there, or ends it as a fault of vitmed."""
    home = tmp_path / "[b]" / "x[/i]"
    home.mkdir(parents=True)
    (home / "table.md").write_text("made up")
    made = {"table": str(home / "table.csv")}
    monkeypatch.setattr("vitmed.study.study.study", lambda *_: made)
    monkeypatch.setattr("vitmed.report.page.write", lambda out, studies: {"report": str(out)})
    code, out, err = vitmed("study", "--config", "configs/study/label_efficiency.py:tiny", "--workdir", home)
    assert code == 0, err
    assert "".join(out.split()).endswith(f"table:{home}/table.csvreport:{home}/report.html")


def test_a_file_with_brackets_in_its_name_has_its_bar(monkeypatch):
    """Otherwise an archive called so cannot be unpacked where there is a terminal."""
    from rich.console import Console

    from vitmed.progress import Bar

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = Console(record=True, width=200)
    console.print(Bar("unpacking a[/b].zip", 3, "MB")._live)
    assert "unpacking a[/b].zip" in console.export_text()


def object_of(out: str) -> dict:
    """The JSON object in the last line of standard output."""
    return json.loads(out.strip().splitlines()[-1])


def training(config: str, data: Path, workdir: Path, *keys: str) -> list[str]:
    """The words of a training of the tiny variant, with ``KEY=VALUE`` as given."""
    keys = (f"data.path={data}", *keys)
    return [
        "train",
        "--config",
        f"{config}:tiny",
        "--workdir",
        str(workdir),
        *(f"--config.{key}" for key in keys),
    ]


# Help


def test_help_comes_at_once():
    """Otherwise a newcomer waits seconds for every --help, or one of them ends in an error."""
    script = """
import sys
from vitmed.cli.main import main, verb_names
for words in [["--help"], ["--version"], *([verb, "--help"] for verb in verb_names())]:
    assert main(words) == 0, words
heavy = {"jax", "flax", "tensorflow_datasets", "matplotlib", "SimpleITK", "sklearn", "scipy", "torch"}
heavy &= set(sys.modules)
sys.exit(f"imported for --help: {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in ("demo", "ingest", "inspect", "train", "evaluate", "study", "report", "bench"):
        assert f"\n  {verb} " in done.stdout, f"{verb} is not in the list of verbs"


@pytest.mark.parametrize("verb", verb_names())
def test_help_shows_how(vitmed, verb):
    """Otherwise a newcomer sees options and no example of a whole command."""
    code, out, _ = vitmed(verb, "--help")
    assert code == 0 and out.startswith(f"usage: vitmed {verb}")
    assert f"vitmed {verb} " in out.split("\n\n", 1)[1], "no example"
    assert "--json" in out


@pytest.mark.parametrize(
    "words", [(), ("trian",), ("train",), ("train", "--config"), ("ingest", "--no-such-option")]
)
def test_wrong_words_are_bad_input(vitmed, words):
    """Otherwise a script that mistypes a command goes on as if it had been done."""
    code, out, err = vitmed(*words)
    assert code == 2 and "Traceback" not in err and (out + err).strip()


# Scans that cannot be taken


def test_no_such_path(refused, tmp_path):
    """Otherwise a mistyped path shows a traceback, or makes an empty dataset."""
    gone = tmp_path / "gone"
    refused("ingest", gone, "--out", tmp_path / "d", names=[gone])
    refused("inspect", gone, names=[gone])
    refused("evaluate", gone, names=[gone])
    refused("report", gone, "--out", tmp_path / "report.html", names=[gone])
    refused("train", "--config", gone.with_suffix(".py"), "--workdir", tmp_path / "r", names=["gone.py"])
    refused(*training(MAE, gone, tmp_path / "r"), names=[gone])


def test_empty_folder(refused, tmp_path):
    """Otherwise nothing in gives a dataset of nothing."""
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("ingest", empty, "--out", tmp_path / "d", names=[empty])
    refused("inspect", empty, names=[empty])
    refused("evaluate", empty, names=[empty])


def test_nothing_readable(refused, tmp_path):
    """Otherwise junk with the right ending is taken for a scan, or the culprit is not named."""
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "1.png").write_text("junk")
    refused("ingest", folder, "--out", tmp_path / "d", names=["1.png"])


def test_one_class_only(refused, tmp_path, rng):
    """Otherwise a classifier is trained that can only ever say one thing."""
    for patient in range(12):
        picture(tmp_path / "scans" / "benign" / f"{patient}.png", rng)
    words = ("ingest", tmp_path / "scans", "--label-from", "folder", "--modality", "xray")
    refused(*words, "--out", tmp_path / "d", names=["benign"])


def test_labels_of_scans_that_are_not_there(refused, tmp_path, rng):
    """Otherwise a label file of another folder, or with mistyped names, loses labels in silence."""
    for patient in range(12):
        picture(tmp_path / "scans" / f"{patient}.png", rng)
    labels = tmp_path / "labels.csv"
    rows = [f"{patient}.png,{'ab'[patient % 2]}" for patient in range(12)]
    labels.write_text("\n".join(["path,finding", *rows, "ghost.png,a"]) + "\n")
    words = ("ingest", tmp_path / "scans", "--labels", labels, "--modality", "xray")
    refused(*words, "--out", tmp_path / "d", names=["ghost.png", "labels.csv"])


def test_nan_pixels(refused, vitmed, tmp_path, rng):
    """Otherwise one NaN makes every weight NaN, hours later."""
    broken = np.ones((16, 16), np.float32)
    broken[3, 4] = np.nan
    for name in ("only", "mixed"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "broken.npy", broken)
    refused("ingest", tmp_path / "only", "--out", tmp_path / "d", "--modality", "xray", names=["broken.npy"])
    for patient in range(3):
        np.save(tmp_path / "mixed" / f"{patient}.npy", rng.random((16, 16), np.float32))
    assert_one_refused(vitmed, tmp_path / "mixed", tmp_path / "m", "broken.npy")


def test_sizes_that_differ(refused, vitmed, tmp_path, rng):
    """Otherwise scans are stretched to one size that nobody chose."""
    picture(tmp_path / "scans" / "small.png", rng)
    picture(tmp_path / "scans" / "large.png", rng, (24, 16))
    words = ("ingest", tmp_path / "scans", "--modality", "xray", "--out", tmp_path / "d")
    refused(*words, names=["--size"])
    assert vitmed(*words, "--size", "16,16")[0] == 0


def test_channels_that_differ(vitmed, tmp_path, rng):
    """Otherwise a colour picture among grey ones ends the ingest, or is turned grey without a word."""
    for patient in range(3):
        picture(tmp_path / "scans" / f"{patient}.png", rng)
    picture(tmp_path / "scans" / "colour.png", rng, (16, 16, 3))
    assert_one_refused(vitmed, tmp_path / "scans", tmp_path / "d", "colour.png")


def assert_one_refused(vitmed, source: Path, out: Path, name: str) -> None:
    """Ingest takes the three sound files, counts the fourth as refused and names it with a reason."""
    code, text, err = vitmed("ingest", source, "--modality", "xray", "--out", out, "--json")
    assert code == 0, err
    told = object_of(text)
    assert sum(told["examples"].values()) == 3 and sum(told["refused"].values()) == 1
    (entry,) = Dataset.open(out).datasheet["refused_files"]
    assert name in entry["file"] and entry["reason"]


def picture(path: Path, rng: np.random.Generator, shape: tuple[int, ...] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(path)


# Configs that cannot be run


@pytest.mark.parametrize(
    ("config", "key", "names"),
    [
        (MAE, "no_such_key=1", ["no_such_key"]),
        (MAE, "train.bach_size=8", ["bach_size", "config.train.batch_size"]),
        (MAE, "train.batch_size=many", ["config.train.batch_size", "many"]),
        (MAE, "model.patch_size=(5,5)", ["patch_size", "(5, 5)"]),
        (MAE, "objective.name=mea", ["config.objective.name", "'mae'"]),
        (MAE, "data.labels=0.1", ["config.data.labels"]),
        (CLASSIFY, "objective.mask_ratio=0.5", ["mask_ratio"]),
        (CLASSIFY, "model.variant=resnet10", ["config.model.patch_size"]),
    ],
)
def test_keys_that_are_wrong_or_never_read(refused, tiny_dataset, tmp_path, config, key, names):
    """Otherwise a mistyped key passes, and a night's run was of another experiment than the one meant."""
    refused(*training(config, tiny_dataset, tmp_path / "r", key), names=names)


def test_a_key_without_a_value(refused, tmp_path):
    """Otherwise the next word of the command is taken for the value, or the key is dropped."""
    refused(*training(MAE, tmp_path, tmp_path / "r", "train.steps"), names=["--config.train.steps"])


def test_a_config_that_does_not_run(refused, tmp_path):
    """Otherwise a slip in a config of one's own looks like a fault of vitmed."""
    own = tmp_path / "own.py"
    own.write_text("def get_config(arg=None):\n    return undefined\n")
    refused("train", "--config", own, "--workdir", tmp_path / "r", names=["own.py", "undefined"])


def test_a_workdir_made_with_another_config(vitmed, tiny_dataset, tmp_path):
    """Otherwise half a run is of one config and half of another, and its config.json tells of the second."""
    words = training(CLASSIFY, tiny_dataset, tmp_path / "r", "train.steps=2")
    assert vitmed(*words)[0] == 0
    kept = {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()}
    code, _, err = vitmed(*words, "--config.optim.lr=0.5")
    assert code == 2 and "Traceback" not in err
    for name in ("optim.lr", "0.5", "0.0001", str(tmp_path / "r")):
        assert name in err.splitlines()[-1]
    assert kept == {f: f.read_bytes() for f in (tmp_path / "r").rglob("*") if f.is_file()}


def test_where_nothing_can_be_written(vitmed, refused, tiny_dataset, tmp_path):
    """Otherwise a slip in --out looks like a fault of vitmed."""
    file = tmp_path / "file"
    file.write_text("a file, where a folder is needed")
    refused("demo", "--out", file, names=[file, "give --out a folder"])
    for words in (["report", tiny_dataset, "--out", file / "r.html"], ["demo", "--out", file / "demo"]):
        code, out, err = vitmed(*words)
        assert code == 2 and "Traceback" not in out + err
        assert err.strip().splitlines()[-1].startswith("vitmed: ") and str(file) in err
    assert file.read_text() == "a file, where a folder is needed"


def test_the_wrong_folder(refused, tiny_dataset, tmp_path):
    """Otherwise mixing up a dataset and a run, the two things that verbs take, is punished with a riddle."""
    refused("evaluate", tiny_dataset, names=[tiny_dataset])
    refused(*training(MAE, tiny_dataset, tiny_dataset), names=[tiny_dataset])
    refused(*training(MAE, tmp_path, tmp_path / "r"), names=[tmp_path])


# What scripts read


def test_json_keys(vitmed, tiny_pngs, tmp_path):
    """Otherwise scripts built on --json break: the keys are a contract."""
    data, run = tmp_path / "d", tmp_path / "r"
    code, out, err = vitmed(
        "ingest",
        tiny_pngs,
        "--labels",
        tiny_pngs / "labels.csv",
        "--modality",
        "xray",
        "--out",
        data,
        "--json",
    )
    assert code == 0, err
    told = object_of(out)
    assert told["dataset"] == str(data) and told["refused"] == {}
    assert told["examples"] == {"train": 36, "val": 12, "test": 12}
    assert told["patients"] == {"train": 24, "val": 8, "test": 8}

    code, out, err = vitmed(*training(CLASSIFY, data, run, "train.steps=2"), "--json")
    assert code == 0, err
    told = object_of(out)
    assert {"run", "step", "resumed_from", "metrics", "images_per_second", "data_wait"} <= set(told)
    assert told["run"] == str(run) and told["step"] == 2 and np.isfinite(told["metrics"]["loss"])

    code, out, err = vitmed("evaluate", run, "--split", "test", "--json")
    assert code == 0, err
    told = object_of(out)
    assert {"run", "dataset", "split", "examples", "patients", "metrics"} <= set(told)
    assert (told["split"], told["examples"], told["patients"]) == ("test", 12, 8)
    auroc = told["metrics"]["auroc"]
    assert 0 <= auroc["low"] <= auroc["value"] <= auroc["high"] <= 1


# The machine


def process(*words, before: tuple[str, ...] = (), **popen) -> subprocess.Popen:
    """``vitmed`` as a process with one device, as a person starts it."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [*before, sys.executable, "-m", "vitmed", *map(str, words)]
    return subprocess.Popen(
        command, cwd=PROJECT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )


def test_ctrl_c_saves_and_the_same_command_goes_on(tiny_dataset, tmp_path):
    """Otherwise stopping a run loses what it learned since its last checkpoint, or looks like a crash."""
    endless = ("train.steps=100000", "train.val_every=0", "checkpoint.every=100000")
    words = training(MAE, tiny_dataset, tmp_path / "r", *endless)

    def steps_saved() -> list[int]:
        return sorted(int(p.name) for p in (tmp_path / "r" / "checkpoints").glob("[0-9]*"))

    def stopped_after(rows: int) -> str:
        """Starts, waits for ``rows`` of metrics, presses ctrl-C."""
        running = process(*words, start_new_session=True)
        try:
            metrics, until = tmp_path / "r" / "metrics.csv", time.monotonic() + 120
            while running.poll() is None and time.monotonic() < until:
                if metrics.exists() and metrics.read_text().count("\n") > rows:
                    break
                time.sleep(0.05)
            os.killpg(running.pid, signal.SIGINT)
            _, err = running.communicate(timeout=60)
        finally:
            running.kill()
        assert running.returncode == 130, err
        assert "Traceback" not in err
        return err

    stopped_after(rows=5)
    (first,) = steps_saved()
    assert 0 < first < 100_000
    rows = (tmp_path / "r" / "metrics.csv").read_text().count("\n")
    err = stopped_after(rows=rows + 5)
    assert f"from step {first}" in err, "the second start does not say that it goes on"
    assert steps_saved()[-1] > first


def test_a_full_disk(tiny_dataset, tmp_path):
    """Otherwise a full disk looks like a fault of vitmed, and half a checkpoint stays as if whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    small = f"mount -t tmpfs -o size=2m none '{disk}'"
    if not shutil.which("unshare") or subprocess.run([*alone, small], capture_output=True).returncode:
        pytest.skip("a disk of 2 MB cannot be mounted here without rights")
    running = process(
        *training(MAE, tiny_dataset, disk / "r", "train.steps=2"),
        before=(*alone, f"{small} && \"$@\"; code=$?; ls '{disk}/r/checkpoints'; exit $code", "sh"),
    )
    out, err = running.communicate(timeout=120)
    assert running.returncode == 3, err
    assert "Traceback" not in err, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("vitmed: ") and "disk" in last and str(disk) in last
    assert out.split() == [], "a checkpoint that is not whole was left"


def test_a_terminated_ingest_leaves_nothing(tmp_path):
    """Otherwise a job that is out of time leaves unpacked scans in the open beside its folder, without a word."""
    (tmp_path / "x").mkdir()
    for k in range(3000):
        pixels = np.random.Generator(np.random.Philox(key=k)).integers(0, 256, (64, 64)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "x" / f"{k}.png")
    command = [sys.executable, "-m", "vitmed", "ingest", "x", "--out", "set", "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "set.partial"
    while not (partial / "spool").is_dir():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "nothing was left half done" in err
    assert not partial.exists() and not (tmp_path / "set").exists()
