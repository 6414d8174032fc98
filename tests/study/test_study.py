"""The whole study over processes, with runs that take no time."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitmed import config as configs
from vitmed.errors import InputError
from vitmed.study import workers
from vitmed.study.plan import plan
from vitmed.study.progress import StudyProgress, last_step
from vitmed.study.study import study

SCRIPT = """
import sys, json
from pathlib import Path
from ml_collections import ConfigDict
import made_up_work
from vitmed.study.study import study
if __name__ == "__main__":
    config = ConfigDict(json.loads(Path(sys.argv[1]).read_text()))
    study(config, Path(sys.argv[2]), jobs=1, work=made_up_work.WORK)
"""


def calls(folder: Path, word: str) -> dict[str, int]:
    """How often each run was trained or evaluated."""
    files = [*folder.glob("pretrain/calls"), *folder.glob("cells/*/calls")]
    return {f.parent.name: sum(line.startswith(word) for line in f.read_text().splitlines()) for f in files}


def test_a_study_fails_goes_on_and_ends(config, tmp_path, capsys):
    """Otherwise a fault in one of many runs costs the others, or a cell's test split is opened twice."""
    from made_up_work import WORK

    (tmp_path / "fail").write_text("resnet-0.1-1")
    with pytest.raises(ValueError, match="a made-up fault") as fault:
        study(config, tmp_path / "study", jobs=2, work=WORK)
    assert any("resnet-0.1-1" in note for note in fault.value.__notes__)
    assert not (tmp_path / "study" / "table.csv").exists()
    before = calls(tmp_path / "study", "train")
    assert before["pretrain"] == 1 and len(before) > 3, "what ran beside the fault ended, and is kept"

    (tmp_path / "fail").unlink()
    result = study(config, tmp_path / "study", jobs=2, work=WORK)
    after = calls(tmp_path / "study", "train")
    assert set(after) == {"pretrain", *(c.name for c in plan(config, tmp_path / "study").cells)}
    assert all(n == 1 + (name == "resnet-0.1-1") for name, n in after.items()), (
        "what was done is not done again"
    )
    assert set(calls(tmp_path / "study", "evaluate").values()) == {0, 1}, "0 for the pretraining alone"
    log = capsys.readouterr().err
    assert "study: " in log and "left" not in log.splitlines()[0]
    begun, again = [line for line in log.splitlines() if "to do" in line]
    assert "13 runs to do" in begun and "680 images" in begun and "is told as soon as" in begun
    assert "of 13, the others are there" in again and "at the speeds measured before" in again

    with open(result["table"]) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result["rows"]) == 6
    assert [float(r["auroc"]) for r in rows] == [r["auroc"] for r in result["rows"]]
    assert result["opened"] == 1
    json.dumps(result)

    assert study(config, tmp_path / "study", work=WORK, quiet=True)["rows"] == result["rows"]
    assert calls(tmp_path / "study", "train") == after


@pytest.mark.parametrize("old", [False, True])
def test_a_study_does_not_go_on_over_other_scans(config, tmp_path, old):
    """Otherwise one table mixes cells that learned from different scans, under the name of the first."""
    from made_up_work import WORK

    (tmp_path / "fail").write_text("resnet-0.1-1")
    with pytest.raises(ValueError, match="a made-up fault"):
        study(config, tmp_path / "study", work=WORK, quiet=True)
    (tmp_path / "fail").unlink()
    file = tmp_path / "study" / "plan.json"
    if old:  # made before plans kept the content of datasets
        written = json.loads(file.read_text())
        for entry in written["runs"].values():
            entry.pop("content_hash", None)
        file.write_text(json.dumps(written))
    before = file.read_text(), calls(tmp_path / "study", "train")
    (tmp_path / "content").write_text("cd" * 32)
    with pytest.raises(
        InputError, match=r"pretrain: content_hash was \['abab.*now \['cdcd.*another --workdir"
    ):
        study(config, tmp_path / "study", work=WORK, quiet=True)
    assert (file.read_text(), calls(tmp_path / "study", "train")) == before
    (tmp_path / "content").unlink()
    assert study(config, tmp_path / "study", work=WORK, quiet=True)["rows"]
    assert "abab" in file.read_text()


@pytest.mark.parametrize("alone", [False, True])
def test_what_needs_no_pretraining_runs_beside_it(config, tmp_path, alone):
    """Otherwise cores idle for the length of a pretraining, or an arm starts from half of one."""
    from made_up_work import WORK

    (tmp_path / "slow").write_text("")
    if alone:
        config.study.arms = ("pretrained",)
    study(config, tmp_path / "study", jobs=2, work=WORK, quiet=True)
    made = {f.parent.name: f.stat().st_mtime for f in (tmp_path / "study").glob("**/metrics.csv")}
    before = {name.split("-")[0] for name, at in made.items() if at < made["pretrain"]}
    assert before == (set() if alone else {"scratch", "resnet"})
    cores = (tmp_path / "study" / "pretrain" / "calls").read_text()
    assert cores.strip().endswith(str(sorted(os.sched_getaffinity(0)))) == alone or os.cpu_count() == 1


def test_jobs_share_the_cores():
    """Otherwise two runs fight for the same cores, or leave some idle."""
    assert workers.shares([0, 1, 2, 3], 2) == [[0, 1], [2, 3]]
    assert workers.shares([3, 5, 6], 2) == [[3], [5, 6]]
    assert workers.shares([0, 1], 3) == [[0], [1], [0]]
    assert workers.shares([4], 1) == [[4]]


def test_jobs_share_the_gpus(tmp_path, monkeypatch):
    """Otherwise every run trains on all GPUs of the machine, where they take one another's memory."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a56,5")
    tasks = [workers.Task(name, os.getenv, ("CUDA_VISIBLE_DEVICES",)) for name in ("one", "other")]
    seen = {task.name: result for task, result in workers.run(tasks, 2, tmp_path, lambda at: None)}
    assert seen == {"one": "3", "other": "GPU-8a56"}
    eight = list("01234567")
    assert workers.gpu_shares(eight, 3) == [["0", "1"], ["2", "3"], ["4", "5"]], (
        "a batch of 32 divides by 2 alone"
    )
    assert workers.gpu_shares(["0", "1"], 5) == [["0"], ["1"], ["0"], ["1"], ["0"]]
    assert workers.gpu_shares(eight, 1) == [eight]


def test_gpus_are_those_that_the_parent_may_see(tmp_path):
    """Otherwise a study takes GPUs that the scheduler gave to others, or finds none where nobody named them."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text(
        "#!/bin/sh\n[ $1 = -L ] && printf 'GPU 0: A (UUID: GPU-1)\\n  MIG 1g Device 0: (UUID: MIG-2)\\nGPU 1: A\\n'\n"
    )
    driver.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert workers.visible_gpus(path) == ["0", "1"]
    assert workers.visible_gpus({**path, "CUDA_VISIBLE_DEVICES": "GPU-8a56, 2"}) == ["GPU-8a56", "2"]
    assert workers.visible_gpus({**path, "CUDA_VISIBLE_DEVICES": ""}) == []
    assert workers.visible_gpus({"PATH": str(tmp_path / "nowhere")}) == []


@pytest.mark.parametrize(
    "how,background",
    [
        (signal.SIGINT, False),
        (signal.SIGTERM, False),
        pytest.param(signal.SIGTERM, True, id="in the background of a script"),
        (signal.SIGKILL, False),
    ],
)
def test_a_stopped_study_leaves_no_process(config, tmp_path, how, background):
    """Otherwise an orphan trains on, and the study that goes on trains the same run beside it.

    What a script starts in its background ignores ctrl-C; so did the workers, which the parent ends by it.
    """
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "wait").write_text("")
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, str(Path(here).parents[1]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path / "config.json", tmp_path / "study"],
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if background else None,
    )
    noted = tmp_path / "study" / "pretrain" / "calls"
    assert _soon(lambda: noted.exists() and noted.read_text().endswith("\n")), "the worker never started"
    worker = int(noted.read_text().split()[1])
    parent.send_signal(how)
    log = parent.communicate(timeout=60)[1]
    assert _soon(lambda: not _alive(worker)), "the worker outlived the study"
    if how == signal.SIGINT:
        assert (noted.parent / "saved").exists(), "ctrl-C is an occasion to save"
        assert log.count("Traceback") == 1, "the worker ends without a traceback of its own"
    if how == signal.SIGTERM:
        assert (noted.parent / "saved").exists() and "Preempted" in log


def test_a_study_in_use_is_refused(config, tmp_path):
    """Otherwise two studies train the same run over each other."""
    from made_up_work import WORK

    from vitmed.study.study import _locked

    with _locked(tmp_path / "study"), pytest.raises(InputError, match="in use"):
        study(config, tmp_path / "study", work=WORK)


def test_faults_come_before_work(config, tmp_path):
    """Otherwise a mistyped metric is found when all is trained."""
    from made_up_work import WORK

    config.study.metrics = ("aurok",)
    with pytest.raises(InputError, match="aurok.*auroc, balanced_accuracy"):
        study(config, tmp_path / "study", work=WORK)
    config.study.update({"metrics": ("auroc",), "checkpoint": "best"})
    with pytest.raises(
        InputError, match="checkpoint is 'best', but config.arms.* by no config.checkpoint.best"
    ):
        study(config, tmp_path / "study", work=WORK)
    with pytest.raises(InputError, match="--jobs is 0"):
        study(config, tmp_path / "study", jobs=0, work=WORK)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        study(config, tmp_path / "file", work=WORK)
    for name, what in (("datasheet.json", "dataset"), ("config.json", "run")):
        (tmp_path / what).mkdir()
        (tmp_path / what / name).write_text("{}")
        with pytest.raises(InputError, match=f"is a {what}; give a folder, new or of this study"):
            study(config, tmp_path / what, work=WORK)
        assert [p.name for p in (tmp_path / what).iterdir()] == [name]
    assert not (tmp_path / "study" / "pretrain").exists()


@pytest.mark.parametrize("where", ["data-2 test", "data-1 val", "data-2 val"])
@pytest.mark.parametrize("chosen", ["", "baselines", "settings"])
def test_a_metric_that_one_split_lacks_is_found_before_work(config, tmp_path, where, chosen):
    """Otherwise a finding of which validation or a later fold has no case ends the study when all is trained."""
    from made_up_work import WORK

    def names(data, split, order, masks):
        return ["auroc"] + ["auroc/rare"] * (f"{Path(data).name} {split}" != where)

    config.data = {"path": str(tmp_path / "data-{fold}"), "folds": 3}
    config.study.metrics = ("auroc/rare", "auroc")
    if chosen == "baselines":
        config.study.update({"reference": "", "baselines": ("scratch", "resnet")})
    if chosen == "settings":
        config.tune = {"by": "val"}
        for arm in config.arms.values():
            arm.grid = {"optim": {"lr": (0.1, 0.5)}}
    refused = f"config.study.metrics has 'auroc/rare'; the labels of the {where.split()[1]} split of .*{where.split()[0]} "
    # Without a choice validation is not asked, and the study goes on to the training that is refused here.
    refused = refused if chosen or "test" in where else "a training began"
    with pytest.raises(InputError, match=refused):
        study(
            config,
            tmp_path / "study",
            quiet=True,
            work=dataclasses.replace(WORK, metric_names=names, protocol=begun),
        )


def test_a_guard_that_a_budget_cannot_give_is_found_before_work(config, tmp_path):
    """Otherwise a cell with too few labels for its guard's parts ends the study when the pretraining is over."""
    from made_up_work import WORK

    asked = set()

    def count(data, split, labels, draw, parts, masks, apart):
        asked.add((labels, draw, parts))
        if parts > 3 and (labels, draw) == (0.1, 1):
            raise InputError(f"{parts} folds cannot each show every class")
        return 1

    with config.ignore_type(), config.unlocked():
        config.arms.scratch.config.guard = {"folds": 3}
    work = dataclasses.replace(WORK, label_count=count, protocol=begun)
    with pytest.raises(InputError, match="a training began"):
        study(config, tmp_path / "study", quiet=True, work=work)
    assert asked == {(labels, draw, parts) for labels in (0.1, 1.0) for draw in (0, 1) for parts in (0, 3)}
    config.arms.scratch.config.guard.folds = 5
    with pytest.raises(
        InputError,
        match="config.arms.scratch.config.guard.folds is 5, .*budgets 0.1: 5 folds cannot each show",
    ):
        study(config, tmp_path / "study", quiet=True, work=work)


@pytest.mark.parametrize("done", [False, True])
def test_what_is_to_do_is_rehearsed(config, tmp_path, monkeypatch, done):
    """Otherwise a fault of an arm is found at its first cell, or a finished study is asked for its models again."""
    from made_up_work import WORK

    seen = []
    monkeypatch.setattr(
        "vitmed.study.study.is_done", lambda cell: done and (cell.arm, cell.budget) != ("resnet", 1.0)
    )
    work = dataclasses.replace(WORK, rehearse=lambda *cells: seen.extend(cells), protocol=begun)
    with pytest.raises(InputError, match="a training began"):
        study(config, tmp_path / "study", quiet=True, work=work)
    names = [[cell.name for cell in cells] for cells in seen]
    assert names == (
        [[], ["resnet-1.0-0"]]
        if done
        else [["pretrain"], ["pretrained-0.1-0", "resnet-0.1-0", "scratch-0.1-0"]]
    )


def begun(planned, quiet):
    raise InputError("a training began")


@pytest.mark.parametrize("key", ["arms.resnet.config.train.stepz", "arms.scratch.grid"])
def test_a_key_that_an_arm_does_not_have_is_found_before_any_training(tmp_path, key):
    """Otherwise it ends the study hours later, at that arm's first cell."""
    config = configs.load("configs/study/label_efficiency.py:tiny", {"study.published": "''"})
    with config.unlocked(), config.ignore_type():
        if key.endswith("grid"):
            config.arms.scratch.grid = {"train": {"stepz": (1, 2)}}
        else:
            config.arms.resnet.config.train.stepz = 1
    with pytest.raises(
        InputError, match=f"{key.split('.')[1]}-.*config.train.stepz.*did you mean config.train.steps"
    ):
        study(config, tmp_path / "study")


def test_last_step_of_a_torn_file(tmp_path):
    """Otherwise progress jumps, or fails, while a line is being written."""
    assert last_step(tmp_path) == 0
    (tmp_path / "metrics.csv").write_text("step,name,value\n20,loss,0.5\n40,loss,0.4\n600")
    assert last_step(tmp_path) == 40


def test_time_left_counts_what_is_left(config, tmp_path):
    """Otherwise the time left means nothing."""
    planned = plan(config, tmp_path / "study")
    cells = [c for c in planned.cells if c.arm == "resnet"]  # four, 40 images each
    progress = StudyProgress(cells, jobs=1, quiet=True)
    assert progress.seconds_left([], 0.0) is None
    progress._began[cells[0].name] = (time.monotonic() - 10.0, 0)
    progress.done(cells[0].name, "")
    assert progress.seconds_left([], 0.0) == pytest.approx(30.0, rel=0.05)
    progress._jobs = 3
    assert progress.seconds_left([], 0.0) == pytest.approx(10.0, rel=0.05)


def test_a_run_that_has_hardly_begun_says_nothing_of_the_time_left(config, tmp_path):
    """Otherwise one step after a compilation of half a minute makes hours of a study of minutes."""
    planned = plan(config, tmp_path / "study")
    cells = [c for c in planned.cells if c.arm in ("resnet", "scratch")]
    for cell in cells:
        cell.config.train.steps = 40  # 160 images each
    progress = StudyProgress(cells, jobs=1, quiet=True)
    progress._began[cells[0].name] = (time.monotonic() - 10.0, 0)
    progress.done(cells[0].name, "")
    left = progress.seconds_left([], 0.0)
    begun = next(c for c in cells if c.arm != cells[0].arm)
    begun.run.mkdir(parents=True)
    (begun.run / "metrics.csv").write_text("step,name,value\n1,loss,0.5\n")
    progress._began[begun.name] = (0.0, 0)
    assert progress.seconds_left([begun.name], 30.0) == pytest.approx(left, rel=0.05)


def test_a_pretraining_counts_with_what_runs_beside_it(config, tmp_path):
    """Otherwise the time left is too long by what the arms from scratch do meanwhile, or too short without them."""
    planned = plan(config, tmp_path / "study")
    for arms, expected in ((("scratch",), 10.0), (("pretrained",), 15.0)):
        cells = [c for c in planned.cells if c.arm in arms and c.budget == 0.1]
        progress = StudyProgress([*planned.pretrains, *cells], jobs=2, quiet=True)
        progress._spent["pretrain pretrain"] = [40.0, 10.0]
        progress._spent[arms[0]] = [40.0, 5.0]
        assert progress.seconds_left([], 0.0) == pytest.approx(expected)


def _soon(what, seconds: float = 45.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
