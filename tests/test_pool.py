"""How many processes and threads are started where nobody says: as many as there are cores to use."""

from pathlib import Path

import pytest

from vitmed.pool import cores

HOUSE = Path(__file__).resolve().parents[1] / "vitmed"


@pytest.fixture
def node(monkeypatch):
    """A job of six cores on a node of 128."""
    monkeypatch.setattr("os.cpu_count", lambda: 128)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)


def test_a_job_uses_its_own_cores(node, tmp_path):
    """Otherwise 128 processes start in a job of six cores and the memory of as many."""
    assert cores(tmp_path) == 6


@pytest.mark.parametrize(("allowed", "used"), [("250000", 3), ("50000", 1), ("900000", 6), ("max", 6)])
def test_a_container_uses_what_it_is_allowed(node, tmp_path, allowed, used):
    """Otherwise a pod that may use three cores of its node starts a process on each, and all wait for one another."""
    (tmp_path / "cpu.max").write_text(f"{allowed} 100000\n")
    assert cores(tmp_path) == used


def test_nobody_else_counts_the_machine_s_cores():
    """Otherwise one verb or another takes the whole node again."""
    counting = [file.name for file in HOUSE.rglob("*.py") if "cpu_count" in file.read_text()]
    assert counting == ["pool.py"]
