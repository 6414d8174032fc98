"""Each check finds what it is there to find, and says what to do."""

import os
import sys

import pytest

from vitmed.cli.main import main
from vitmed.scale import devices_check, folder_check, surroundings, versions
from vitmed.scale.doctor import doctor
from vitmed.scale.findings import Finding


def breaking(findings):
    return [one for one in findings if one.state == "breaks"]


def test_a_finding_that_breaks_says_what_to_do():
    with pytest.raises(ValueError, match="nobody says what to do"):
        Finding("disk", "breaks", "it is full")


def test_a_sound_machine(tmp_path, capsys):
    """The whole, as typed: eight devices of the tests' own, a folder that works, code 0, nothing left behind."""
    assert main(["doctor", "--workdir", str(tmp_path / "runs" / "new"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert '"fine": true' in out.splitlines()[-1]
    assert "over 8 devices" in err and "right" in err
    assert list(tmp_path.iterdir()) == []


def test_code_3_where_something_breaks(monkeypatch, tmp_path, capsys):
    """Otherwise a job's script goes on into hours that are lost."""
    monkeypatch.setattr(devices_check, "starts", lambda: [Finding("devices", "breaks", "none", "get some")])
    assert main(["doctor", "--workdir", str(tmp_path)]) == 3
    assert "BAD  devices: none" in capsys.readouterr().out


def test_a_wrong_flag_is_found_before_it_ends_this_process(monkeypatch):
    """XLA ends a process that is given a flag it does not know, with a page of C++."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    (found,) = devices_check.starts()
    assert found.state == "breaks" and "xla_no_such_flag" in found.found and "XLA_FLAGS" in found.todo


def test_a_driver_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/sleep")
    monkeypatch.setattr(devices_check.subprocess, "run", _sleeping(devices_check.subprocess.run))
    (found,) = devices_check.starts(timeout=0.2)
    assert found.state == "breaks" and "within 0 s" in found.found


def _sleeping(run):
    return lambda words, **keys: run(["/bin/sleep", "60"], **keys)


def test_a_sum_that_is_wrong_is_found(monkeypatch):
    import jax

    real = jax.lax.psum
    monkeypatch.setattr(jax.lax, "psum", lambda x, axis: real(x, axis) * 1.5)
    (found,) = devices_check.collectives(size=64)
    assert found.state == "breaks" and found.found.startswith("sum over 8 devices")
    monkeypatch.setattr(jax.lax, "psum", real)
    (found,) = devices_check.collectives(size=64)
    assert found.state == "fine"


def test_a_version_outside_its_window_is_named(monkeypatch):
    real = versions.importlib.metadata.version
    monkeypatch.setattr(
        versions.importlib.metadata, "version", lambda name: "9.9" if name == "optax" else real(name)
    )
    (found,) = breaking(versions.versions())
    assert "optax is 9.9" in found.found and "pip install 'optax" in found.todo


def test_versions_here_are_those_tested():
    assert breaking(versions.versions()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_check.Path, "mkdir", _refuses)
    (found,) = folder_check.folder(tmp_path)
    assert found.state == "breaks" and str(tmp_path) in found.found and "--workdir" in found.todo


def _refuses(*args, **keys):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_where_the_folder_should_be_breaks_a_run(tmp_path, below):
    (tmp_path / "taken").write_text("")
    [finding] = folder_check.folder(tmp_path / "taken" / below)
    assert finding.state == "breaks" and f"{tmp_path / 'taken'} is not a folder" in finding.found


def test_a_file_system_that_does_not_rename(tmp_path, monkeypatch):
    """Object stores mounted as folders copy: a reader may see half a checkpoint."""

    def refuses(*paths):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "rename", refuses)
    (found,) = breaking(folder_check.folder(tmp_path))
    assert "does not rename" in found.found
    assert list(tmp_path.iterdir()) == []


def test_variables_that_break_a_job():
    seen = surroundings.variables(
        {
            "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": "2",
            "http_proxy": "http://me:secret@proxy:80",
            "CUDA_VISIBLE_DEVICES": "",
        }
    )
    told = " ".join(f"{one.found} {one.todo}" for one in seen)
    assert "SLURM_JOB_ID=7" in told and "secret" not in told
    assert "no_proxy" in told and "srun" in told and "no GPU is seen" in told


def test_limits_of_a_container(tmp_path):
    """Otherwise a job with 64 GB on the machine and 1 in its container is killed without a word."""
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    found = surroundings.limits(tmp_path)
    assert surroundings.memory(tmp_path) == 2**30
    assert ["1.0 GiB" in one.found for one in breaking(found)] == [True]
    assert any("0.5 may be used" in one.found for one in found)


def test_alone_it_asks_nobody(tmp_path):
    found = {one["check"] for one in doctor(tmp_path)["findings"]}
    assert "clocks" not in found and {"versions", "devices", "collectives", "folder", "limits"} <= found
