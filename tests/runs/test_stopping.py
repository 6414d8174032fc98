"""Ctrl-C and SIGTERM: a wish that comes twice in two forms is one, and one that comes twice in one form is meant."""

import signal

import pytest

from vitmed.errors import Preempted
from vitmed.runs.stopping import stop_requests


def test_sigterm_to_all_and_then_a_studys_ctrl_c_is_one_wish():
    """Otherwise a worker leaves without saving wherever a scheduler tells every process and not only the first."""
    with stop_requests() as stop:
        assert stop(0) is None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop(1) is Preempted


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)]
)
def test_who_asks_again_is_not_kept_waiting(number, kind):
    with stop_requests() as stop:
        signal.raise_signal(number)
        assert stop(1) is kind
        with pytest.raises(kind):
            signal.raise_signal(number)
