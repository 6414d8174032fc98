"""The line between processes, here between threads: meeting, agreeing, and stopping before one and the same step."""

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vitmed.errors import InputError, MachineError
from vitmed.parallel.cluster import Place
from vitmed.parallel.line import Line


def port():
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


def joined(count, indices=None, meet=10.0):
    address = ("127.0.0.1", port())
    with ThreadPoolExecutor(count) as pool:
        made = [
            pool.submit(Line, Place(i, count, address), {"host": f"h{i}", "pid": i}, meet)
            for i in (range(count) if indices is None else indices)
        ]
    return made


@pytest.fixture
def lines():
    made = [one.result() for one in joined(4)]
    yield made
    for line in made:
        line.leave(0)


def together(lines, function):
    with ThreadPoolExecutor(len(lines)) as pool:
        return list(pool.map(function, lines))


def test_all_learn_what_each_says_in_the_order_of_their_numbers(lines):
    """Else processes act on different answers, and wait for one another."""
    for turn in range(20):
        found = together(
            lines, lambda line, turn=turn: line.share({"turn": turn, "of": (line.place.index, 1)})
        )
        assert found == [[{"turn": turn, "of": [i, 1]} for i in range(4)]] * 4
    assert {line.name(2) for line in lines} == {"process 2 of 4 (h2, pid 2)"}


def test_who_does_not_answer_in_time_is_named(lines):
    """Else a process that has saved all there is waits for ever for one that hangs."""
    with pytest.raises(
        MachineError, match=r"process 1 of 4 \(h1, pid 1\), process 3 .* did not answer within 1 s"
    ):
        together([lines[0], lines[2]], lambda line: line.share(None, patience=1.0))


@pytest.mark.parametrize("seed", range(6))
def test_all_stop_before_the_same_step_whoever_is_asked_and_when(lines, seed):
    """Steps end with all of them, as sums do: a process that stops by itself would leave the others waiting."""
    draw, step_ends, stopped = random.Random(seed), threading.Barrier(4), {}
    asked = draw.sample(range(4), draw.choice([1, 1, 2]))
    delays = [draw.uniform(0, 0.02) for _ in range(4)]

    def train(line):
        for step in range(1, 200):
            step_ends.wait(20)
            time.sleep(delays[line.place.index])
            if kind := line.stop_at(step):
                stopped[line.place.index] = step
                return kind
        return None

    def ask():
        for index in asked:
            time.sleep(draw.uniform(0, 0.1))
            lines[index].ask_to_stop("Preempted")

    threading.Thread(target=ask).start()
    assert together(lines, train) == ["Preempted"] * 4
    assert len(set(stopped.values())) == 1


def test_nobody_waits_for_ever_for_those_who_do_not_come():
    """What was tried, where, and who is missing."""
    first, third = (one.exception() for one in joined(3, indices=(0, 2), meet=1.0))
    assert isinstance(first, MachineError) and "these did not come: 1" in str(first)
    assert isinstance(third, MachineError) and "the connection was closed" in str(third)
    with pytest.raises(
        MachineError,
        match=r"process 1 could not reach process 0 at 127.0.0.1:\d+: tried \d+ times .* refused",
    ):
        Line(Place(1, 2, ("127.0.0.1", port())), {}, meet=0.7)


def test_a_number_that_is_taken_is_refused():
    """Else two processes read the same rows, and a third's are missing."""
    found = [one.exception() for one in joined(3, indices=(0, 1, 1), meet=3.0)]
    assert isinstance(found[0], InputError) and "start every process once" in str(found[0])
