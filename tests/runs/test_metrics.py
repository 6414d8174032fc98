import errno
import os
import struct

import numpy as np
import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from vitmed.errors import DiskFull, InputError
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


class NoRoom:
    """Stands for a file of a disk that takes ``room`` bytes more."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._file.write(data[: self.room])
        self.room -= written
        return written

    def close(self):
        self._file.close()


def test_a_full_disk_is_a_machine_error(tmp_path):
    """Else training ends in a traceback instead of a sentence."""
    with metrics.MetricsWriter(tmp_path) as writer:
        kept, writer._csv._file = writer._csv._file, NoRoom(None, 0)
        with pytest.raises(DiskFull, match=rf"disk is full: metrics.csv does not fit in {tmp_path}"):
            writer.write(1, {"loss": 1.0})
        writer._csv._file = kept


def test_with_patience_rows_wait_for_room(tmp_path, capsys):
    """Else a run that may go on over a full disk loses rows, or has torn ones in the middle."""
    writer = metrics.MetricsWriter(tmp_path, patient=True)
    board = next((tmp_path / "tensorboard").iterdir())
    for appended in (writer._csv, writer._board._file):
        appended._file = NoRoom(appended._file, 5)
    for step in (1, 2):
        writer.write(step, {"loss": step / 2})
    assert (tmp_path / "metrics.csv").read_text() == "step,name,value\n1,los"
    assert capsys.readouterr().err.count("rows of it wait for room") == 1
    assert not writer.written(must=False)
    for appended in (writer._csv, writer._board._file):
        appended._file.room = 10**6
    writer.write(3, {"loss": 1.5})
    assert metrics.read(tmp_path)["loss"][1].tolist() == [0.5, 1.0, 1.5]
    assert [(e.step, e.summary.value[0].simple_value) for e in events(board)[1:]] == [
        (1, 0.5),
        (2, 1),
        (3, 1.5),
    ]
    writer.close()


def test_rows_that_find_no_room_at_the_end_are_told(tmp_path):
    writer = metrics.MetricsWriter(tmp_path, patient=True)
    writer._csv._file = NoRoom(writer._csv._file, 0)
    writer.write(1, {"loss": 1.0})
    with pytest.raises(DiskFull, match="metrics.csv does not fit"):
        writer.close()


def events(path):
    """The events of a file, each told by its length and followed by a checksum."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        event, end = data[12 : 12 + length], 12 + length + 4
        assert struct.unpack("<I", data[end - 4 : end])[0] == masked_crc32c(event)
        found.append(Event.FromString(event))
        data = data[end:]
    return found


def test_tensorboard_is_given_what_its_own_writer_would(tmp_path):
    """Else curves are missing there, or steps that were done twice are drawn twice."""
    (tmp_path / "run").mkdir()
    with metrics.MetricsWriter(tmp_path / "run", resume_step=20) as writer:
        writer.write(30, {"loss": 0.5, "val/loss": float("nan")})
    with SummaryWriter(str(tmp_path / "theirs"), purge_step=21) as theirs:
        theirs.add_scalar("loss", 0.5, 30)
        theirs.add_scalar("val/loss", float("nan"), 30)

    def told(folder):
        made = [
            (e.step, e.session_log.status, [(v.tag, str(v.simple_value)) for v in e.summary.value])
            for e in events(next(folder.iterdir()))
        ]
        return [one for one in made if one[1] or one[2]]

    assert told(tmp_path / "run" / "tensorboard") == told(tmp_path / "theirs")


def test_a_table_that_a_spreadsheet_saved_otherwise_is_named(tmp_path):
    (tmp_path / "metrics.csv").write_text("step;name;value\n1;loss;0,5\n")
    with pytest.raises(InputError, match="metrics.csv holds 'step;name;value' in line 1"):
        metrics.read(tmp_path)


def test_no_metrics_yet(tmp_path):
    """Else a report on a run that has just begun fails."""
    assert metrics.read(tmp_path) == {}
