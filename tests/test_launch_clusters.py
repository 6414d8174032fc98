"""The launchers for clusters, with programs that only pretend: what is asked of them is written down.

Slurm is tried for real in tests/cluster/.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
LAUNCH = PROJECT / "launch"
SCRIPTS = sorted(p for p in LAUNCH.rglob("*") if p.suffix in (".sh", ".sbatch"))


def call(script: str, *words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(LAUNCH / script), *words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: f"{s.parent.name}/{s.name}")
def test_shellcheck_finds_nothing(script):
    """Otherwise an unquoted word breaks for whoever has a space in a path."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    done = subprocess.run(
        ["shellcheck", "-x", "-P", "SCRIPTDIR", "-S", "warning", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["slurm/submit.sh", "kubernetes/jobset.sh", "tpu_vm/tpu.sh"])
def test_help_shows_a_whole_command(script):
    done = call(script, "--help")
    assert done.returncode == 0 and f"bash launch/{script} " in done.stdout


# Slurm


def test_submit_hands_over_what_was_asked():
    done = call(
        "slurm/submit.sh", "--nodes=2", "--gpus-per-node", "8", "--time", "30", "--python", "/bin/true", "--dry-run",
        "--sbatch=--partition=gpu", "--array", "0-4", "configs/a b.py", "--workdir", "runs/%a", "--config.x=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert words[0] == "sbatch"
    wanted = "--nodes=2 --gpus-per-node=8 --time=30 --partition=gpu --array=0-4 --requeue --open-mode=append"
    assert set(wanted.split()) <= set(words)
    assert r"/bin/true train --config configs/a\ b.py --workdir runs/%a --config.x=1" in done.stdout
    assert "--signal=TERM@120" in words and "--output=logs/%A_%a.log" in words


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "nothing to run"),
        (["--nodes", "two", "c.py"], "nodes is two"),
        (["--nodez", "2", "c.py"], "--nodez"),
        (["--partition=gpu", "c.py"], "--partition=gpu"),
        (["--time"], "--time has no value"),
        (["--python", "/nowhere", "c.py"], "/nowhere is not there"),
    ],
)
def test_submit_refuses_in_a_sentence(words, named):
    done = call("slurm/submit.sh", *words)
    assert done.returncode == 2 and named in done.stderr.splitlines()[-1]


def test_a_job_for_gpus_wants_their_packages(tmp_path):
    """Otherwise it waits in the queue for GPUs, and then computes on the CPU beside them."""
    clone = tmp_path / "a clone"
    shutil.copytree(LAUNCH, clone / "launch")
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)

    def submit(*options: str, plugins: bool) -> subprocess.CompletedProcess:
        python.write_text(f"#!/bin/sh\n[ \"$*\" = '-c import jax_plugins' ] && exit {int(not plugins)}\n")
        python.chmod(0o755)
        command = ["bash", str(clone / "launch" / "slurm" / "submit.sh"), *options, "--dry-run", "c.py"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    refused = submit("--gpus-per-node=2", plugins=False)
    assert refused.returncode == 2 and not refused.stdout
    assert refused.stderr.endswith(f"'{clone}/.venv/bin/pip' install -e '{clone}[gpu]'\n")
    assert submit("--gpus-per-node=2", plugins=True).returncode == 0
    assert submit(plugins=False).returncode == 0, "a job on CPUs needs none"
    assert submit("--gpus-per-node=2", "--python=/bin/false", plugins=False).returncode == 0


def test_the_job_s_processes_get_the_cores_that_it_asked_for(tmp_path):
    """Otherwise Slurm (22.05 on) gives each process one core, and the others of the job idle."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "${SRUN_CPUS_PER_TASK:-none} for $*"\n')
    srun.chmod(0o755)

    def cores(**job: str) -> str:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", **job}
        command = ["bash", str(LAUNCH / "slurm" / "job.sbatch"), "logs", "python", "train"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[1].split(" for ")[0]

    assert cores(SLURM_CPUS_PER_TASK="12") == "12"
    assert cores() == "none", "a job whose cores follow its GPUs is given another number"


# Kubernetes


def manifest(*options: str) -> dict:
    done = call(
        "kubernetes/jobset.sh", "--name", "mae", "--image", "reg/vitmed:1", *options, "--",
        "train", "--config", 'a "b".py', "--workdir", "/data/r",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def test_a_jobset_starts_one_process_a_machine_that_find_one_another():
    """Otherwise every pod trains alone, or a lost one leaves the others waiting for ever."""
    made = manifest("--nodes", "3", "--gpus", "4")
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (worker,) = made["spec"]["replicatedJobs"]
    job = worker["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 3 and job["completionMode"] == "Indexed"
    assert job["backoffLimit"] == 0 and made["spec"]["failurePolicy"]["maxRestarts"] == 100
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == ["train", "--config", 'a "b".py', "--workdir", "/data/r"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    env = {one["name"]: one for one in container["env"]}
    assert env["VITMED_PROCESSES"]["value"] == "3"
    assert "completion-index" in env["VITMED_PROCESS"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert env["JAX_COORDINATOR_ADDRESS"]["value"].startswith("mae-worker-0-0.mae:")


def test_bad_input_is_not_tried_again():
    """Otherwise a misspelt key is restarted a hundred times on eight GPUs."""
    made = manifest()
    (rule,) = made["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
    assert made["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"


def test_tpus_take_the_place_of_gpus():
    pod = manifest("--tpu", "tpu-v5-lite-podslice:4x4")["spec"]["replicatedJobs"][0]["template"]["spec"][
        "template"
    ]
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert limits["google.com/tpu"] == "4" and "nvidia.com/gpu" not in limits
    assert pod["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"


def test_what_the_manifest_hands_over_is_what_vitmed_reads():
    """The names of the variables are a contract between the launchers and vitmed/parallel/cluster.py."""
    source = (PROJECT / "vitmed" / "parallel" / "cluster.py").read_text()
    for name in ("VITMED_PROCESSES", "VITMED_PROCESS", "JAX_COORDINATOR_ADDRESS"):
        assert f'"{name}"' in source


# TPU VM

GCLOUD = """#!/usr/bin/env bash
echo "$*" >>"$LOG"
case "$*" in
  *describe*) sed -n 1p "$STATES"; [ "$(wc -l <"$STATES")" -lt 2 ] || sed -i 1d "$STATES" ;;
  *--command=*train*) code=$(sed -n 1p "$CODES"); [ "$(wc -l <"$CODES")" -lt 2 ] || sed -i 1d "$CODES"; exit "$code" ;;
esac
"""


@pytest.fixture
def tpu(tmp_path):
    """Runs tpu.sh with a gcloud that answers with these states and exit codes; gives (done, what was asked)."""
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)

    def run(*words, states=("READY",), codes=(0,), **said):
        for name, lines in (("states", states), ("codes", codes), ("log", ())):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        env = {"STATES": "states", "CODES": "codes", "LOG": "log"}
        env = {key: str(tmp_path / name) for key, name in env.items()}
        done = call("tpu_vm/tpu.sh", *words, PATH=f"{tmp_path}:/usr/bin:/bin", TPU_SH_WAIT="0", **env, **said)
        return done, (tmp_path / "log").read_text().splitlines()

    return run


SLICE = ("mae", "--zone", "z", "--type", "v5litepod-16", "--spot")


def test_create_asks_for_a_slice_and_sets_it_up_on_all_workers(tpu):
    done, asked = tpu("create", *SLICE)
    assert done.returncode == 0, done.stderr
    assert "tpu-vm create mae --accelerator-type=v5litepod-16" in asked[0] and "--spot" in asked[0]
    assert (
        all("--worker=all" in line for line in asked[1:]) and "scp" in asked[1] and "pip install" in asked[2]
    )


def test_a_run_goes_on_after_its_slice_was_taken(tpu):
    """Otherwise somebody must sit beside a spot slice and start it again by hand."""
    done, asked = tpu(
        "run", *SLICE, "--", "train", "--config", "a b.py", "--workdir", "r",
        states=("READY", "PREEMPTED", "READY"), codes=(75, 0),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    trained = [n for n, line in enumerate(asked) if "train --config a\\ b.py" in line]
    made = [n for n, line in enumerate(asked) if "tpu-vm create" in line]
    assert len(trained) == 2 and trained[0] < made[0] < trained[1]


def test_a_run_waits_for_maintenance(tpu):
    done, asked = tpu(
        "run",
        *SLICE,
        "--",
        "train",
        "--config",
        "c",
        "--workdir",
        "r",
        states=("REPAIRING", "RESTARTING", "READY"),
    )
    assert done.returncode == 0 and not any("create" in line for line in asked)


def test_bad_input_ends_it(tpu):
    """Otherwise a misspelt key is tried a hundred times."""
    done, asked = tpu("run", *SLICE, "--", "train", "--config", "c", "--workdir", "r", codes=(2,))
    assert done.returncode == 2 and sum("train" in line for line in asked) == 1


def test_a_worker_knows_its_place_in_the_slice(tmp_path):
    """Otherwise every worker of a pod trains by itself, and all write one run."""
    shutil.copytree(LAUNCH, tmp_path / "clone" / "launch")
    vitmed = tmp_path / "clone" / ".venv" / "bin" / "vitmed"
    vitmed.parent.mkdir(parents=True)
    vitmed.write_text('#!/bin/sh\necho "$VITMED_PROCESS/$VITMED_PROCESSES at $JAX_COORDINATOR_ADDRESS: $*"\n')
    curl = tmp_path / "curl"
    curl.write_text(
        '#!/bin/sh\ncase "$*" in *endpoints*) echo "$WORKERS" ;; *agent-worker-number) echo 1 ;; esac\n'
    )
    for program in (vitmed, curl):
        program.chmod(0o755)

    def run(workers, **staged):
        return subprocess.run(
            ["bash", str(tmp_path / "clone" / "launch" / "tpu_vm" / "worker.sh"), "train", "a b"],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "WORKERS": workers, **staged},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert run("w0:8470:10.0.0.2,w1:8470:10.0.0.3") == "1/2 at 10.0.0.2:8476: train a b\n"
    assert run("w0:8470:10.0.0.2") == "/ at : train a b\n", "one worker is alone"
    assert run("w0:8470:10.0.0.2", VITMED_DATA="gs://b/x=/d", VITMED_RUN="/r=gs://b/r").splitlines() == [
        "/ at : stage gs://b/x /d",
        "/ at : stage --if-there --goes-on gs://b/r /r",
        "/ at : train a b",
    ], "data and run are not brought in first"


def test_buckets_are_handed_on_to_the_workers(tpu):
    """Otherwise data is looked for on an empty disk."""
    done, asked = tpu(
        "run",
        *SLICE,
        "--",
        "train",
        "--workdir",
        "/r",
        codes=(0,),
        VITMED_DATA="gs://b/x=/d",
        VITMED_RUN="/r=gs://b/r",
    )
    (line,) = (line for line in asked if "train" in line)
    assert done.returncode == 0
    assert "VITMED_DATA=gs://b/x=/d VITMED_RUN=/r=gs://b/r bash launch/tpu_vm/worker.sh train" in line
