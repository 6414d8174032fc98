"""The flags for the same bits on GPUs: known to XLA, in time, and a person's own word goes first."""

import os
import subprocess
import sys

from vitmed.cli.main import main
from vitmed.parallel import determinism


def test_what_a_person_has_set_stays():
    own = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false --xla_dump_to=x", "NCCL_ALGO": "Ring"}
    found = dict(own)
    determinism.ask(found)
    assert found == own
    bare = {"XLA_FLAGS": "--xla_dump_to=x"}
    determinism.ask(bare)
    assert bare["XLA_FLAGS"] == "--xla_dump_to=x --xla_gpu_deterministic_ops=true"
    assert bare["NCCL_ALGO"].startswith("^NVLS")


def test_xla_knows_the_flag():
    """It ends a process at a flag that it does not know."""
    env = {**os.environ, "XLA_FLAGS": ""}
    determinism.ask(env)
    script = "import jax; print(jax.numpy.ones(2).sum())"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout == "2.0\n", done.stderr


def test_the_option_of_a_verb_sets_it_for_what_it_starts(monkeypatch, tmp_path, capsys):
    for verb in ("train", "study"):
        monkeypatch.setenv("XLA_FLAGS", "")
        monkeypatch.setenv("NCCL_ALGO", "Ring")
        words = ["--config", str(tmp_path / "none.py"), "--workdir", str(tmp_path / "run")]
        assert main([verb, "--deterministic", *words]) == 2
        assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"
    capsys.readouterr()
