"""The faults a user can meet, each with the exit code its verb ends with.

A message is one sentence that names the file or key, what was found there and what to do.
"""


class VitmedError(Exception):
    """A fault of vitmed itself: anything that is neither the input's nor the machine's."""

    exit_code = 1


class InputError(VitmedError):
    """Bad input: a path, a file, a label, a config key or a shape that does not fit."""

    exit_code = 2


class MachineError(VitmedError):
    """The environment failed: no disk left, a checkpoint cannot be read, a peer was lost."""

    exit_code = 3


class DiskFull(MachineError):
    """The disk has no room left for what was to be written."""


class Preempted(VitmedError):
    """Told to stop by the cluster; state is saved and the job wants to be queued again."""

    exit_code = 75
