"""Writing to a place that cannot take it ends in one sentence, and says whose it is to put right."""

import errno

import pytest

from vitmed import durable
from vitmed.errors import DiskFull, InputError, MachineError


@pytest.mark.parametrize(
    "number,fault,todo",
    [
        (errno.ENOSPC, DiskFull, "free some space"),
        (errno.EDQUOT, DiskFull, "free some space"),
        (errno.EIO, MachineError, "check the disk"),
        (errno.ENAMETOOLONG, InputError, "give the path of a folder"),
    ],
)
def test_whose_fault_it_is_that_nothing_can_be_written(tmp_path, number, fault, todo):
    """A cluster queues a job of code 3 again; of a path that no disk can take it would do so for ever."""
    with (
        pytest.raises(fault, match=f"the table .*{tmp_path}.*{todo}") as caught,
        durable.disk(tmp_path, "the table"),
    ):
        raise OSError(number, "what the system says")
    assert type(caught.value) is fault


def test_a_file_on_the_way_is_the_paths_fault(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="table.csv cannot be written to .*taken"):
        durable.write_text(tmp_path / "taken" / "table.csv", "a,b\n")
