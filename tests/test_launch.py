"""The two commands of the README, with a Python that only pretends to install.

The stand-in writes down what it was asked to install, so what the scripts do the first time, the second time,
after an interruption and on a machine with a GPU is seen in a second instead of minutes.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vitmed.cli import demo

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted((PROJECT / "launch").glob("*.sh")), PROJECT / ".ci" / "run"]

PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin"; cp "${BASH_SOURCE[0]}" "$3/bin/python"
    echo 'echo "vitmed: $*"; exit ${DEMO_ENDS:-0}' >"$3/bin/vitmed"
    chmod +x "$3/bin/vitmed"; echo venv >>"$LOG" ;;
  "-m pip") [ "$3" = --version ] || { echo "pip ${*: -1}" >>"$LOG"; eval "${PIP_DOES:-true}" && GPU; } ;;
  "-m pytest") echo "pytest: ${*:3}" ;;
  *) exec REAL "$@" ;;
esac
"""

# What pip leaves of the package by which JAX finds a GPU.
GPU = """case "${*: -1}" in *gpu]|jax*)
    plugin=${0%/bin/python}/lib/python3.11/site-packages/jax_cuda12_plugin-0.10.2.dist-info
    mkdir -p "$plugin" && touch "$plugin/RECORD" ;; esac"""


class Machine:
    """A machine with a clone of the project in a folder whose name has a space."""

    def __init__(self, folder: Path):
        self.project = folder / "a clone"
        self.programs = folder / "bin"
        self.elsewhere = folder / "elsewhere"
        self.log = folder / "log"
        for place in (self.project, self.programs, self.elsewhere):
            place.mkdir()
        shutil.copytree(PROJECT / "launch", self.project / "launch")
        for name in ("requirements.txt", "pyproject.toml"):
            shutil.copy(PROJECT / name, self.project)
        # The driver's program is on some machines that run the tests; here it is only where a test puts it.
        self.program("nvidia-smi", "#!/bin/sh\nexit 9\n")
        self.program("python3", PYTHON.replace("REAL", sys.executable).replace("GPU", GPU))

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def gpu(self) -> None:
        """The driver answers from now on."""
        self.program("nvidia-smi", "#!/bin/sh\nexit 0\n")

    def __call__(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess:
        """Runs a script of launch/ from another folder, in an environment with nothing else in it."""
        self.log.write_text("")
        env = {
            "HOME": str(self.elsewhere),
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "LOG": str(self.log),
            **env,
        }
        command = ["bash", str(self.project / "launch" / script), *words]
        return subprocess.run(
            command,
            cwd=self.elsewhere,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )

    @property
    def asked(self) -> list[str]:
        """What the last call made and installed."""
        return self.log.read_text().splitlines()


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_the_shell_reads_it(script):
    """Otherwise a slip of the pen in a rarely taken branch is found by a user."""
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert script.name == "setup.sh" or "set -euo pipefail" in script.read_text()


def test_first_and_second_time(machine):
    """Otherwise every start of the demo installs again, or the first one forgets a part."""
    first = machine("demo.sh", "--data", "scans")
    assert first.returncode == 0, first.stderr
    assert machine.asked == ["venv", f"pip {machine.project}"]
    assert "1 to 2 minutes" in first.stderr, "a person is not told how long it takes"
    assert f"vitmed: demo --out {machine.project}/demo --data scans" in first.stdout
    second = machine("demo.sh")
    assert second.returncode == 0 and machine.asked == [] and "Setting up" not in second.stderr


def test_results_go_where_out_says(machine):
    """Otherwise --out is dropped, or is relative to the clone and not to where the person stands."""
    words = machine("demo.sh", "--out", "mine").stdout.split("demo", 1)[1]
    assert words.endswith("--out mine\n"), "of two --out the last counts"
    parser = argparse.ArgumentParser()
    demo.arguments(parser)
    assert parser.parse_args(["--out", "theirs", "--out", "mine"]).out == "mine"


def test_help_sets_up_and_explains(machine):
    """Otherwise the first thing that many people type fails, or runs the demo."""
    done = machine("demo.sh", "--help")
    assert done.returncode == 0 and machine.asked[0] == "venv"
    assert "launch/demo.sh [--out DIR]" in done.stdout and "vitmed: demo --help" in done.stdout
    done = machine("test.sh", "--help")
    assert done.returncode == 0 and "launch/test.sh [PYTEST ARGUMENTS]" in done.stdout


def test_the_demo_s_exit_code_is_the_script_s(machine):
    """Otherwise a scheduler takes a failed demo for a finished one."""
    assert machine("demo.sh", DEMO_ENDS="3").returncode == 3


def test_tests_use_the_same_environment(machine):
    """Otherwise the tests pass in an environment that no user has."""
    machine("demo.sh")
    done = machine("test.sh", "-k", "a b")
    assert done.returncode == 0 and done.stdout == "pytest: -n 2 --dist worksteal -k a b\n" and machine.asked == []


def test_changed_requirements_are_installed(machine):
    """Otherwise whoever pulls a newer vitmed runs it on the older packages."""
    machine("demo.sh")
    with open(machine.project / "requirements.txt", "a") as file:
        file.write("another\n")
    assert machine("demo.sh").returncode == 0
    assert machine.asked == [f"pip {machine.project}"], "the packages that fit already are fetched again"


def test_an_interrupted_set_up_is_made_again(machine):
    """Otherwise half a package stays, and nothing but deleting .venv by hand helps."""
    killed = machine("demo.sh", PIP_DOES="kill -KILL 0")
    assert killed.returncode != 0
    done = machine("demo.sh")
    assert done.returncode == 0 and machine.asked[0] == "venv"
    assert "left unfinished" in done.stderr
    (
        machine.project / ".venv" / "bin" / "python"
    ).unlink()  # the Python it was made with was removed or updated
    assert machine("demo.sh").returncode == 0 and machine.asked[0] == "venv"


def test_pip_s_reason_is_shown(machine):
    """Otherwise a person without network or space sees nothing but a failed script."""
    done = machine("demo.sh", PIP_DOES="echo no space left; exit 1")
    assert done.returncode == 3 and "no space left" in done.stderr and "set-up.log" in done.stderr
    assert "vitmed: demo" not in done.stdout


def test_a_gpu_is_taken_where_its_driver_answers(machine):
    """Otherwise an accelerator idles; or a machine without one downloads gigabytes for it."""
    machine.gpu()
    machine("demo.sh")
    assert machine.asked[-1] == f"pip {machine.project}[gpu]"
    machine("test.sh")
    assert machine.asked == []


def test_an_environment_with_the_gpu_s_packages_is_good_where_there_is_no_gpu(machine):
    """Otherwise a cluster's login and GPU nodes, which share it, install in turn; or the GPU's packages stay behind."""
    machine.gpu()
    machine("demo.sh")
    machine.program("nvidia-smi", "#!/bin/sh\nexit 9\n")
    machine("demo.sh")
    assert machine.asked == []
    with open(machine.project / "requirements.txt", "a") as file:
        file.write("another\n")
    machine("demo.sh")
    assert machine.asked == [f"pip {machine.project}[gpu]"], "a newer JAX is left without its plug-in"


def test_the_gpu_s_packages_are_added_to_what_works(machine):
    """Otherwise the first job on a GPU node takes the environment away from those that compute with it."""
    machine("demo.sh")
    machine.gpu()
    whole = f"cd '{machine.project}/.venv' && [ -e .ready ] && [ ! -e .incomplete ]"
    done = machine("demo.sh", PIP_DOES=whole)
    (asked,) = machine.asked
    assert asked.startswith("pip jax[cuda12]>="), "vitmed itself is installed again, under those who use it"
    assert done.returncode == 0 and "could not be added" not in done.stderr, "it is marked as unfinished"
    machine("demo.sh")
    assert machine.asked == []


def test_gpu_packages_that_cannot_be_added_leave_what_works(machine):
    """Otherwise a GPU node without internet has the environment deleted, under the jobs of all other nodes too."""
    machine("demo.sh")
    machine.gpu()
    done = machine("demo.sh", PIP_DOES="echo no route; false")
    assert done.returncode == 0 and "vitmed: demo" in done.stdout and "no route" in done.stderr
    told = done.stderr.splitlines()[-1]
    assert "computes on the CPU here" in told and "login node" in told
    assert told.endswith(f"'{machine.project}/.venv/bin/pip' install -e '{machine.project}[gpu]'")
    machine.program("nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert machine("demo.sh").returncode == 0 and machine.asked == []


def test_an_old_python_is_refused(machine):
    """Otherwise pip's pages about packages that do not exist for it are all that a person learns."""
    old = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.9.2' && exit 0\nexit 1\n"
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        machine.program(name, old)
    done = machine("demo.sh")
    assert done.returncode == 3
    assert (
        done.stderr
        == "vitmed needs Python 3.11, 3.12 or 3.13; found Python 3.9.2. Install one and run this again.\n"
    )


def test_the_environment_of_others_is_left_out(machine):
    """Otherwise modules of another project shadow those that were installed here."""
    done = machine("test.sh", PYTHONPATH="/nowhere", VIRTUAL_ENV="/nowhere")
    assert done.returncode == 0
    text = (PROJECT / "launch" / "setup.sh").read_text()
    assert "unset PYTHONPATH PYTHONHOME VIRTUAL_ENV" in text


def test_the_windows_say_the_same():
    """Otherwise an extra installs another JAX than requirements.txt allows."""
    wanted = [
        line for line in (PROJECT / "requirements.txt").read_text().splitlines() if line.startswith("jax>")
    ]
    assert wanted
    project = (PROJECT / "pyproject.toml").read_text()
    window = wanted[0].removeprefix("jax")
    assert all(f"jax[{extra}]{window}" in project for extra in ("cuda12", "tpu"))


def test_the_lock_is_inside_the_windows():
    """Otherwise those who must reproduce install what the project does not support."""
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    locked = [Requirement(line.rstrip("\\")) for line in lines if line[:1].isalnum()]
    for line in (PROJECT / "requirements.txt").read_text().splitlines():
        if line[:1].isalnum():
            wanted = Requirement(line)
            name = canonicalize_name(wanted.name)
            pins = [pin for pin in locked if canonicalize_name(pin.name) == name]
            assert pins, f"{name} is not in requirements.lock"
            for pin in pins:
                (version,) = pin.specifier
                assert wanted.specifier.contains(version.version), f"{pin} is outside {wanted.specifier}"
    assert sum("--hash=sha256:" in line for line in lines) >= len(locked)
