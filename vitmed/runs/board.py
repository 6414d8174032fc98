"""Metrics as TensorBoard reads them: one file of events a start of the run.

tensorboardX makes the events. It is not let write them: its thread ends where the disk is full, and what comes after
waits for it for ever.
"""

import socket
import struct
import time
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from vitmed.durable import Appended

_VERSION = "brain.Event:2"


class Board:
    """Appends to a new file in ``folder``; use ``flush`` after ``put``.

    Args:
        resume_step: what an earlier start wrote of later steps is hidden.
    """

    def __init__(self, folder: Path, resume_step: int = 0):
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = Appended(folder / name)
        self._put(Event(wall_time=time.time(), file_version=_VERSION))
        if resume_step:
            start = SessionLog(status=SessionLog.START)
            self._put(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))
        self._file.flush()

    def put(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._put(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        """Raises OSError where not all goes onto the disk; what does not is kept for the next time."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _put(self, event: Event) -> None:
        """A record of TFRecord: length, its checksum, the event, its checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.put(
            length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
        )
