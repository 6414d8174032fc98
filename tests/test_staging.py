"""Datasets and runs go to a bucket and come back whole: against a server of S3 on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from short_runs import PROJECT

from vitmed import staging
from vitmed.cli.main import main
from vitmed.errors import InputError, MachineError
from vitmed.staging import stage

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server():
    """The address of a server that speaks S3."""
    pytest.importorskip("s3fs", reason="needs the extra cloud")
    moto = pytest.importorskip("moto.server", reason="needs moto[server], a server of S3 for tests")
    started = moto.ThreadedMotoServer(port=0, verbose=False)
    started.start()
    yield "http://{}:{}".format(*started.get_host_and_port())
    started.stop()


@pytest.fixture
def bucket(server, monkeypatch, request):
    """An empty bucket, ``s3://NAME``."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    import s3fs

    fs = s3fs.S3FileSystem()
    name = f"b{abs(hash(request.node.name))}"
    fs.mkdir(name)
    yield f"s3://{name}"
    fs.rm(name, recursive=True)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def held(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def listed(bucket, name=""):
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.invalidate_cache()
    root = f"{bucket.removeprefix('s3://')}/{name}".rstrip("/")
    return sorted(path[len(root) + 1 :] for path in fs.find(root))


def test_a_folder_comes_back_as_it_went_and_nothing_is_copied_twice(bucket, tmp_path):
    """Otherwise a run is not what it was, or each start costs the traffic of the whole set."""
    write(
        tmp_path / "run",
        **{"config.json": "{}", "checkpoints__10__manifest.json": "m", "checkpoints__10__a__b": "x"},
    )
    write(tmp_path / "run", **{".saving__half": "no", ".lock": ""})
    assert stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)["copied"] == 3
    assert stage(str(tmp_path / "run"), f"{bucket}/run", progress=False) == {
        "copied": 0,
        "there": 3,
        "bytes": 0,
        "deleted": 0,
        "strays": 0,
    }
    assert stage(f"{bucket}/run", str(tmp_path / "back"), progress=False)["copied"] == 3
    assert held(tmp_path / "back") == {
        k: v for k, v in held(tmp_path / "run").items() if not k.startswith(".")
    }
    assert stage(f"{bucket}/run", str(tmp_path / "back"), progress=False)["there"] == 3
    assert not (tmp_path / ".back.staging").exists()


def test_what_has_changed_is_copied_though_it_is_as_long_and_as_old(bucket, tmp_path):
    """Otherwise a machine whose clock is late sends a stale state, and a run goes on from it."""
    write(tmp_path / "run", state="step 1")
    stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)
    old = (tmp_path / "run" / "state").stat().st_mtime - 3600
    write(tmp_path / "run", state="step 2")
    os.utime(tmp_path / "run" / "state", (old, old))
    assert stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)["copied"] == 1
    stage(f"{bucket}/run", str(tmp_path / "back"), progress=False)
    assert held(tmp_path / "back") == {"state": b"step 2"}


def test_large_files_are_told_by_size_and_time(bucket, tmp_path, monkeypatch):
    """Otherwise a shard, which S3 keeps in parts and tells no MD5 of, travels at every start."""
    monkeypatch.setattr(staging, "SMALL", 10)
    write(tmp_path / "set", shard="x" * 100)
    assert stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)["copied"] == 1
    assert stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)["copied"] == 0
    assert stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)["copied"] == 1
    assert stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)["copied"] == 0
    assert stage(str(tmp_path / "back"), f"{bucket}/set", progress=False)["copied"] == 0


def test_what_makes_it_whole_comes_last_and_goes_first(bucket, tmp_path, monkeypatch):
    """Otherwise a reader finds a manifest of files that are not there yet, or not any more."""
    write(
        tmp_path / "run",
        **{"checkpoints__1__manifest.json": "m", "checkpoints__1__z": "z", "config.json": "{}", "b": "b"},
    )
    seen = []
    put, remove = staging._Bucket.put, staging._Bucket.remove
    monkeypatch.setattr(staging._Bucket, "put", lambda s, name, path: (seen.append(name), put(s, name, path)))
    monkeypatch.setattr(staging._Bucket, "remove", lambda s, name: (seen.append(name), remove(s, name)))
    stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)
    assert set(seen[2:]) == {"checkpoints/1/manifest.json", "config.json"}
    seen.clear()
    for name in ("manifest.json", "z"):
        (tmp_path / "run" / "checkpoints" / "1" / name).unlink()
    stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)
    assert seen == [], "nothing is removed unasked"
    assert stage(str(tmp_path / "run"), f"{bucket}/run", delete=True, progress=False)["deleted"] == 2
    assert seen == ["checkpoints/1/manifest.json", "checkpoints/1/z"]
    assert listed(bucket, "run") == ["b", "config.json"]


def test_a_copy_that_was_cut_goes_on_and_is_no_folder_until_it_is_whole(bucket, tmp_path, monkeypatch):
    """Otherwise half a dataset is trained on, or ten terabytes begin anew."""
    write(tmp_path / "set", **{f"s{k}": f"shard {k}" for k in range(12)}, **{"dataset_info.json": "{}"})
    stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)
    get, seen = staging._Bucket.get, []

    def cut(self, name, path, file):
        if name == "s7":
            raise KeyboardInterrupt
        seen.append(name)
        get(self, name, path, file)

    monkeypatch.setattr(staging._Bucket, "get", cut)
    with pytest.raises(KeyboardInterrupt):
        stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)
    assert not (tmp_path / "back").exists() and "dataset_info.json" not in seen
    monkeypatch.setattr(staging._Bucket, "get", get)
    done = stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)
    assert held(tmp_path / "back") == held(tmp_path / "set") and done["there"] == len(set(seen))


def test_several_that_ask_for_one_folder_get_it_once(bucket, tmp_path):
    """Otherwise eight processes of a machine each download the set, over one another."""
    write(tmp_path / "set", **{f"s{k}": f"shard {k}" for k in range(6)})
    stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)
    done = []
    together = [
        threading.Thread(
            target=lambda: done.append(stage(f"{bucket}/set", str(tmp_path / "back"), progress=False))
        )
        for _ in range(3)
    ]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert sorted(d["copied"] for d in done) == [0, 0, 6]


def test_a_folder_that_is_there_is_exchanged_whole(bucket, tmp_path, monkeypatch):
    """Otherwise a training reads new shards beside old ones, or half an update stays."""
    write(tmp_path / "set", a="1", b="1", c="1", **{"dataset_info.json": "1"})
    write(tmp_path / "back", a="0", b="1", old="0", **{".lock": "", "dataset_info.json": "0"})
    stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)
    before, get = held(tmp_path / "back"), staging._Bucket.get

    def cut(self, name, path, file):
        if name == "c":
            raise KeyboardInterrupt
        get(self, name, path, file)

    monkeypatch.setattr(staging._Bucket, "get", cut)
    with pytest.raises(KeyboardInterrupt):
        stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)
    assert held(tmp_path / "back") == before
    monkeypatch.setattr(staging._Bucket, "get", get)
    assert stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)["strays"] == 1
    assert held(tmp_path / "back") == held(tmp_path / "set") | {"old": b"0", ".lock": b""}
    assert stage(f"{bucket}/set", str(tmp_path / "back"), delete=True, progress=False)["deleted"] == 1
    assert held(tmp_path / "back") == held(tmp_path / "set") | {".lock": b""}


def test_what_an_ingest_left_unfinished_is_no_part_of_a_dataset(bucket, tmp_path):
    """Otherwise scans with names in them, which wait in NAME.partial, go into the dataset and out to the bucket."""
    write(tmp_path / "set", a="1", **{"dataset_info.json": "1"})
    stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)
    write(tmp_path / "back.partial", spool__000="a name")
    stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)
    assert held(tmp_path / "back") == held(tmp_path / "set")
    assert held(tmp_path / "back.partial") == {"spool/000": b"a name"}


def test_a_run_that_has_come_further_here_is_left_alone(bucket, tmp_path):
    """Otherwise what was trained since the last sending is lost when the machine only started again."""
    write(tmp_path / "run", **{"config.json": "{}", "metrics.csv": "1", "checkpoints__5__manifest.json": "m"})
    stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)
    write(tmp_path / "run", **{"metrics.csv": "1,2", "checkpoints__9__manifest.json": "m"})
    assert stage(f"{bucket}/run", str(tmp_path / "run"), goes_on=True, progress=False)["copied"] == 0
    assert (tmp_path / "run" / "metrics.csv").read_text() == "1,2"
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert stage(f"{bucket}/run", str(tmp_path / "run"), goes_on=True, progress=False)["copied"] == 2
    write(tmp_path / "run", **{"config.json": '{"other": 1}'})
    with pytest.raises(InputError, match="another run"):
        stage(f"{bucket}/run", str(tmp_path / "run"), goes_on=True, progress=False)


def test_delete_does_not_take_half_a_folder_for_the_truth(bucket, tmp_path):
    """Otherwise an empty disk, or another run, erases what the bucket was there to keep."""
    write(tmp_path / "run", **{"config.json": "{}", "checkpoints__5__manifest.json": "m"})
    stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)
    write(tmp_path / "half", **{"environment.json": "{}"})
    write(tmp_path / "other", **{"config.json": "[]"})
    for folder, words in (("half", "is something else"), ("other", "another run")):
        with pytest.raises(InputError, match=words):
            stage(str(tmp_path / folder), f"{bucket}/run", delete=True, progress=False)
        assert listed(bucket, "run") == ["checkpoints/5/manifest.json", "config.json"]


def test_a_sending_that_is_slower_than_the_training_leaves_a_whole_checkpoint(bucket, tmp_path, monkeypatch):
    """Otherwise all checkpoints that were there are removed for newer ones that gave way before they came."""
    write(
        tmp_path / "run",
        **{"config.json": "{}", "checkpoints__5__a": "5", "checkpoints__5__manifest.json": "m"},
    )
    stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "5")
    write(tmp_path / "run", **{"checkpoints__9__a": "9", "checkpoints__9__manifest.json": "m"})
    put = staging._Bucket.put

    def meanwhile(self, name, path):
        put(self, name, path)
        if name == "checkpoints/9/a":
            shutil.rmtree(tmp_path / "run" / "checkpoints" / "9")
            write(tmp_path / "run", **{"checkpoints__12__a": "12", "checkpoints__12__manifest.json": "m"})

    with monkeypatch.context() as patch:
        patch.setattr(staging._Bucket, "put", meanwhile)
        stage(str(tmp_path / "run"), f"{bucket}/run", delete=True, progress=False)
    assert {"checkpoints/5/a", "checkpoints/5/manifest.json"} <= set(listed(bucket, "run"))
    stage(str(tmp_path / "run"), f"{bucket}/run", delete=True, progress=False)
    assert listed(bucket, "run") == ["checkpoints/12/a", "checkpoints/12/manifest.json", "config.json"]


def test_a_run_that_was_never_sent_whole_is_none(bucket, tmp_path):
    """Otherwise a run whose first sending was cut cannot be started again."""
    write(tmp_path / "run", **{"config.json": "{}", "metrics.csv": "1"})
    stage(str(tmp_path / "run"), f"{bucket}/run", progress=False)
    import s3fs

    s3fs.S3FileSystem().rm(f"{bucket}/run/config.json")
    write(tmp_path / "run", **{"metrics.csv": "1,2"})
    assert stage(f"{bucket}/run", str(tmp_path / "run"), goes_on=True, progress=False)["copied"] == 0
    assert (tmp_path / "run" / "metrics.csv").read_text() == "1,2"


def test_a_bucket_that_tells_no_md5_knows_the_run_all_the_same(bucket, tmp_path, monkeypatch):
    """Otherwise, where objects are encrypted by a key of one's own, every run is another one."""
    write(tmp_path / "run", **{"config.json": "{}", "checkpoints__5__manifest.json": "m"})
    monkeypatch.setattr(staging, "_told_md5", lambda _: "0" * 32)
    for _ in range(2):
        stage(str(tmp_path / "run"), f"{bucket}/run", delete=True, progress=False)
    assert stage(f"{bucket}/run", str(tmp_path / "run"), goes_on=True, progress=False)["copied"] == 0


def test_a_kill_between_two_renames_loses_nothing(bucket, tmp_path):
    """Otherwise a folder is gone, and what it alone held with it."""
    write(tmp_path / "set", a="2", **{"dataset_info.json": "2"})
    stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)
    write(tmp_path / ".back.former", a="1", own="1", **{"dataset_info.json": "1"})
    write(tmp_path / ".back.staging", a="2")
    stage(f"{bucket}/set", str(tmp_path / "back"), progress=False)
    assert held(tmp_path / "back") == held(tmp_path / "set") | {"own": b"1"}


def test_what_belongs_to_somebody_else_is_sent_too(bucket, tmp_path, monkeypatch):
    """Otherwise a dataset that a colleague made cannot be sent, for its times may not be changed."""
    monkeypatch.setattr(staging, "SMALL", 10)
    write(tmp_path / "set", shard="x" * 100)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(staging.os, "utime", refuse)
    assert stage(str(tmp_path / "set"), f"{bucket}/set", progress=False)["copied"] == 1


def test_each_of_several_processes_may_ask(bucket, tmp_path, monkeypatch):
    """Otherwise launch/stage.sh ends on every worker of a pod."""
    write(tmp_path / "set", a="1")
    for name, value in {
        "VITMED_PROCESSES": "2",
        "VITMED_PROCESS": "1",
        "JAX_COORDINATOR_ADDRESS": "h:1",
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["stage", str(tmp_path / "set"), f"{bucket}//set/"]) == 0
    assert listed(bucket, "set") == ["a"]


@pytest.mark.parametrize(
    "words", [("a", "b"), ("s3://x/a", "s3://x/b"), ("ftp://x/a", "b"), ("s3://x/a", ".")]
)
def test_addresses_that_make_no_sense(words):
    with pytest.raises(
        InputError, match="one of the two must be an address|ftp:// is not known|name a folder of its own"
    ):
        stage(*words, progress=False)


def test_what_is_not_there(bucket, tmp_path, capsys, monkeypatch):
    """Otherwise a misspelt bucket is an empty dataset, or a traceback."""
    with pytest.raises(InputError, match="there is no .*nowhere"):
        stage(f"{bucket}/nowhere", str(tmp_path / "x"), progress=False)
    with pytest.raises(InputError, match="there is no .*y, or nothing in it"):
        stage(str(tmp_path / "y"), f"{bucket}/y", progress=False)
    assert stage(f"{bucket}/nowhere", str(tmp_path / "x"), if_there=True, progress=False)["copied"] == 0
    write(tmp_path / "z", a="a")
    with pytest.raises((InputError, MachineError), match="s3://no-such-bucket-here/z"):
        stage(str(tmp_path / "z"), "s3://no-such-bucket-here/z", progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["z"]
    assert main(["stage", f"{bucket}/nowhere", str(tmp_path / "x")]) == 2
    assert "there is no" in capsys.readouterr().err


def test_an_object_that_leads_elsewhere_is_refused(bucket, tmp_path, monkeypatch):
    """Otherwise who writes into a bucket writes anywhere on the machines that read it."""
    monkeypatch.setattr(staging._Bucket, "files", lambda _: {"../out": staging._File(1, 0.0, lambda: None)})
    with pytest.raises(InputError, match="leads out of the folder"):
        stage(f"{bucket}/set", str(tmp_path / "in"), progress=False)


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"needs s3fs.*pip install 'vitmed\[cloud\]'"):
        stage("s3://a/b", "c", progress=False)


@pytest.fixture
def staged(bucket, tiny_dataset, tmp_path):
    """A function that starts a training on a disk of this name, its data and its run in the bucket."""
    stage(str(tiny_dataset), f"{bucket}/data", progress=False)
    tool = tmp_path / "vitmed"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m vitmed "$@"\n')
    tool.chmod(0o755)
    environment = {**os.environ, "VITMED": str(tool), "PYTHONPATH": str(PROJECT)}

    def start(disk, steps):
        here = tmp_path / disk
        command = ["bash", str(PROJECT / "launch" / "stage.sh"), "--data", f"{bucket}/data={here}/data"]
        command += [
            "--run",
            f"{here}/run={bucket}/run",
            "--every",
            "1",
            "--",
            "train",
            "--workdir",
            f"{here}/run",
        ]
        command += ["--config", f"{PROJECT}/configs/pretrain_mae.py:tiny", f"--config.data.path={here}/data"]
        command += [f"--config.train.steps={steps}", "--config.checkpoint.every=5"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def saved(bucket):
    return sorted({int(name.split("/")[1]) for name in listed(bucket, "run") if "/manifest.json" in name})


def test_a_run_is_in_the_bucket_when_it_has_ended(bucket, staged, tmp_path):
    """Otherwise its last checkpoint is lost with the machine."""
    process = staged("one", 12)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 0, err
    assert saved(bucket) == [10, 12], "old checkpoints stay there, or the last is missing"
    stage(f"{bucket}/run", str(tmp_path / "back"), progress=False)
    here = held(tmp_path / "one" / "run")
    assert here.pop(".lock") == b"", "who trains here holds it, on this machine alone"
    assert held(tmp_path / "back") == here


def test_a_machine_that_is_taken_away_is_gone_on_from_on_another(bucket, staged, tmp_path):
    """Otherwise it takes the run with it; and ctrl-C, which bash has what runs beside it pass over, does nothing."""
    for disk, before, how, code in (("one", 0, signal.SIGTERM, 75), ("two", 1, signal.SIGINT, 130)):
        known = max(saved(bucket), default=0)
        process = staged(disk, 100_000)
        while max(saved(bucket), default=0) <= known:
            assert process.poll() is None, process.communicate()
            time.sleep(0.3)
        process.send_signal(how)
        err = process.communicate(timeout=120)[1]
        assert process.returncode == code, err
        assert (
            len(json.loads((tmp_path / disk / "run" / "environment.json").read_text())["starts"])
            == before + 1
        )
    assert max(saved(bucket)) > known > 0
