import errno
import os

import numpy as np
import pytest

from vitmed.errors import MachineError
from vitmed.runs import metrics


def test_values_read_back_to_the_same_bits(tmp_path):
    """Else curves and tables show other numbers than training saw."""
    value = float(np.float32(0.1))
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(10, {"loss": value, "odd, name": 1e-30})
        writer.write(20, {"loss": float("nan"), "val/loss": 2.0})
    found = metrics.read(tmp_path)
    assert found["loss"][0].tolist() == [10, 20]
    assert found["loss"][1][0] == value and np.isnan(found["loss"][1][1])
    assert found["odd, name"][1].tolist() == [1e-30] and found["val/loss"][0].tolist() == [20]
    assert list((tmp_path / "tensorboard").iterdir())


def test_every_write_is_in_the_file_at_once(tmp_path):
    """Else a killed run loses the metrics of steps that it has checkpoints for."""
    writer = metrics.MetricsWriter(tmp_path)
    writer.write(1, {"loss": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == "step,name,value\n1,loss,0.5\n"
    writer.close()


def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(tmp_path):
    """Else steps done twice are drawn twice."""
    for name, stops in (("whole", [40]), ("resumed", [30, 40])):
        (tmp_path / name).mkdir()
        begin = 0
        for stop in stops:
            with metrics.MetricsWriter(tmp_path / name, resume_step=begin) as writer:
                for step in range(begin + 10, stop + 1, 10):
                    writer.write(step, {"loss": 1 / step})
            with open(tmp_path / name / "metrics.csv", "a") as file:
                file.write("50,loss,0.01234\n5")  # a line torn by a kill
            begin = 20
    assert metrics.read(tmp_path / "resumed")["loss"][0].tolist() == [10, 20, 30, 40, 50]
    texts = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "resumed")]
    assert texts[0] == texts[1]


def test_a_full_disk_is_a_machine_error(tmp_path):
    """Else training ends in a traceback instead of a sentence."""

    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with metrics.MetricsWriter(tmp_path) as writer:
        kept, writer._csv = writer._csv, Full()
        with pytest.raises(MachineError, match=rf"disk is full: metrics.csv does not fit in {tmp_path}"):
            writer.write(1, {"loss": 1.0})
        writer._csv = kept


def test_no_metrics_yet(tmp_path):
    """Else a report on a run that has just begun fails."""
    assert metrics.read(tmp_path) == {}
