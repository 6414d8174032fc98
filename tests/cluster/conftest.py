"""Trainings of several real processes on this machine, started as a person starts them: launch/local.sh."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import MAE, PROJECT, flags_of


class Launched:
    """``launch/local.sh COUNT train ...`` at work."""

    def __init__(self, count, dataset, run, logs, keys, environment):
        flags = [f"--config.{key}={value}" for key, value in {"data.path": dataset, **keys}.items()]
        command = [
            "bash",
            "launch/local.sh",
            str(count),
            "train",
            "--config",
            MAE,
            "--workdir",
            str(run),
            *flags,
            "--json",
        ]
        self.logs = Path(logs)
        environment = {
            **os.environ,
            "XLA_FLAGS": flags_of(devices=2),
            "VITMED_PYTHON": sys.executable,
            "VITMED_LOGS": str(logs),
            **environment,
        }
        self.process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self, timeout=240):
        """(exit code, standard output, standard error)."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def result(self):
        code, out, err = self.end()
        assert code == 0, err + self.log(1)
        return json.loads(out.splitlines()[-1])

    def log(self, index):
        path = self.logs / f"{index}.log"
        return path.read_text() if path.exists() else ""

    def pid(self, index):
        """Of the Python process with this number."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                own = f"VITMED_PROCESS={index}".encode() in (entry / "environ").read_bytes().split(b"\0")
                if own and str(self.logs).encode() in (entry / "environ").read_bytes():
                    return int(entry.name)
            except OSError:
                continue
        raise AssertionError(f"process {index} is not there: {self.log(index)}")


@pytest.fixture
def launch(tmp_path):
    """``launch(count, dataset, run, **keys)``; what is still at work at the end is ended."""
    started = []

    def start(count, dataset, run, environment=(), **keys):
        one = Launched(count, dataset, run, tmp_path / f"logs{len(started)}", keys, dict(environment))
        started.append(one)
        return one

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            try:
                one.end(60)
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.end(10)
