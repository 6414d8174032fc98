"""What the first process finds out, told to the others."""

import pytest

from vitmed import errors
from vitmed.parallel import processes

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_fault_of_the_first_is_the_same_fault_for_all(kind, monkeypatch):
    """Else a full disk ends the others as a fault of vitmed, with another exit code."""
    sent = []

    def as_process(number):
        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes, "index", lambda: number)
        monkeypatch.setattr(processes, "share", lambda told: sent.append(told) or [sent[0]])

    def fails():
        raise kind("why")

    for number in (0, 1):
        as_process(number)
        with pytest.raises(kind, match="why") as caught:
            processes.first(fails)
        assert type(caught.value) is kind and caught.value.exit_code == kind.exit_code
