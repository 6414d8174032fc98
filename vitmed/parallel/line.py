"""A line between the processes of a training, beside the accelerators' own: who is there, what they agree on, who is lost.

Process 0 is the hub: the others connect to it by TCP, and each message is one line of JSON. It is there before JAX starts
and does not hang when a peer is gone, as a sum over devices may: a process that dies closes its connection, one that
hangs falls silent, and either way the others end with a sentence that names it.
"""

import json
import os
import socket
import sys
import threading
import time
from typing import Any

from vitmed.errors import InputError, MachineError
from vitmed.parallel.cluster import Place

MEET = 50.0  # seconds within which all processes must have come
BEAT = 2.0  # seconds between signs of life
SILENCE = 40.0  # seconds without one after which a process is lost
GRACE = 3.0  # seconds in which a process that would end for the same reason as another says so itself
LOST = MachineError.exit_code
_AGAIN = "the same command goes on from the last checkpoint"


class Line:
    """Connected to all; ``share`` and ``stop_at`` are for the main thread of every process alike.

    Args:
        place: of this process.
        hello: told to the others on coming, such as the host's name.

    Attributes:
        people: what each process said on coming, by its index.

    Raises:
        MachineError: not all came, or process 0 cannot be reached; with what was tried.
        InputError: two processes of one index.
    """

    def __init__(self, place: Place, hello: dict[str, Any], meet: float | None = None):
        self.place = place
        meet = MEET if meet is None else meet
        self._changed = threading.Condition()
        self._shared: dict[int, dict[int, Any]] = {}  # round -> index -> value
        self._round = 0
        self._position, self._limit, self._stop = -1, None, None
        self._limits: dict[int, int] = {}
        self._asked: str | None = None
        self._closing = False
        self._sending = threading.Lock()
        self._peers: dict[int, socket.socket] = {}
        hello = {"index": place.index, "count": place.count, **hello}
        try:
            self.people = self._join(hello, meet) if place.index else self._gather(hello, meet)
        except BaseException:
            for peer in self._peers.values():
                peer.close()
            raise
        self._heard = dict.fromkeys(self._peers, time.monotonic())
        self._open = set(self._peers)
        for index in self._peers:
            threading.Thread(target=self._listen, args=(index,), name=f"line {index}", daemon=True).start()
        threading.Thread(target=self._beat, name="line", daemon=True).start()

    def share(self, value: Any, patience: float | None = None) -> list[Any]:
        """What every process gave for this same call, by index; values are JSON.

        Raises:
            MachineError: not all came within ``patience`` seconds; None waits for those who show signs of life.
        """
        number, self._round = self._round, self._round + 1
        value = json.loads(json.dumps(value))  # as it comes to the others
        self._take_share(number, self.place.index, value)
        if self.place.index:
            self._send({"share": number, "of": self.place.index, "value": value})
        with self._changed:
            self._changed.wait_for(lambda: len(self._shared.get(number, ())) == self.place.count, patience)
            found = self._shared.pop(number)
        missing = [self.name(index) for index in range(self.place.count) if index not in found]
        if missing:
            raise MachineError(f"{', '.join(missing)} did not answer within {patience:.0f} s")
        return [found[index] for index in range(self.place.count)]

    def ask_to_stop(self, kind: str) -> None:
        """Asks all processes to stop alike; ``stop_at`` says where."""
        self._send({"stop": kind}) if self.place.index else self._halt(kind)

    def stop_at(self, step: int) -> str | None:
        """Called before each step: what all have been asked to stop by, if they stop before ``step``; else None.

        All stop before the same step, or some would wait for the others' sums for ever. Whoever is asked halts two steps
        on and says so; the furthest of these steps is where all stop. Nobody has to answer from within a step.
        """
        with self._changed:
            self._position = step
            if self._limit is None or step < self._limit:
                return None
            self._changed.wait_for(lambda: self._stop is not None)
            return self._asked if step >= self._stop else None

    @property
    def stopping(self) -> bool:
        """Whether all know where they stop."""
        return self._stop is not None

    def leave(self, code: int, why: str = "") -> None:
        """Tells the others that this process ends."""
        with self._changed:
            self._closing = True
        self._send({"gone": code, "why": why, "of": self.place.index})

    def linger(self) -> None:
        """Process 0, which has told the others of a fault, waits for them to say so and end.

        Otherwise they are cut short: JAX aborts every process whose coordinator, which lives in process 0, is gone.
        """
        if self.place.index == 0:
            with self._changed:
                self._changed.wait_for(lambda: not self._open, timeout=2 * GRACE)

    def name(self, index: int) -> str:
        """``process 1 of 4 (HOST, pid 77)``."""
        about = self.people[index]
        return f"process {index} of {self.place.count} ({about['host']}, pid {about['pid']})"

    # -- coming together

    def _gather(self, hello: dict, meet: float) -> list[dict]:
        host, port = self.place.address
        found: dict[int, dict] = {0: hello}
        try:
            door = socket.create_server(("", port), backlog=self.place.count)
        except OSError as error:
            raise MachineError(
                f"process 0 cannot wait for the others at port {port}: {error.strerror}; choose another port in "
                "JAX_COORDINATOR_ADDRESS"
            ) from None
        ends = time.monotonic() + meet
        with door:
            while len(found) < self.place.count:
                door.settimeout(max(ends - time.monotonic(), 0.01))
                try:
                    peer, _ = door.accept()
                    peer.settimeout(5)
                    said = json.loads(peer.makefile().readline())
                    index, count = said["index"], said["count"]
                except TimeoutError:
                    if time.monotonic() < ends:
                        continue
                    missing = ", ".join(str(k) for k in range(self.place.count) if k not in found)
                    raise MachineError(
                        f"process 0 waited {meet:.0f} s at {host}:{port}, and of {self.place.count} processes these did "
                        f"not come: {missing}; see their logs, and that they can reach {host}:{port}"
                    ) from None
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # something that is not ours knocked
                if index in found or count != self.place.count:
                    raise InputError(
                        f"a process came as number {index} of {count} (from {said.get('host')}), but there are "
                        f"{self.place.count} and these are here: {', '.join(map(str, sorted(found)))}; start every process once"
                    )
                peer.settimeout(None)
                found[index], self._peers[index] = said, peer
        people = [found[index] for index in range(self.place.count)]
        self._send({"people": people})
        return people

    def _join(self, hello: dict, meet: float) -> list[dict]:
        host, port = self.place.address
        began, tries, why = time.monotonic(), 0, ""
        while time.monotonic() < began + meet:
            tries += 1
            try:
                peer = socket.create_connection((host, port), timeout=5)
                self._peers[0] = peer
                self._send(hello)
                peer.settimeout(max(began + meet + 5 - time.monotonic(), 1))
                line = peer.makefile().readline()
                if line:
                    peer.settimeout(None)
                    return json.loads(line)["people"]
                why = "the connection was closed before all had come"
            except OSError as error:
                why = error.strerror or str(error)
            time.sleep(0.3)
        raise MachineError(
            f"process {self.place.index} could not reach process 0 at {host}:{port}: tried {tries} times in {meet:.0f} s, "
            f"at last: {why}; see that process 0 runs, that JAX_COORDINATOR_ADDRESS names its host, and that no firewall "
            "stands between"
        )

    # -- messages

    def _send(self, message: dict, but: int | None = None) -> None:
        data = (json.dumps(message) + "\n").encode()
        with self._sending:
            for index, peer in self._peers.items():
                if index != but:
                    try:
                        peer.sendall(data)
                    except OSError:
                        pass  # whoever listens to it finds out

    def _listen(self, index: int) -> None:
        gone = False
        try:
            for text in self._peers[index].makefile():
                self._heard[index] = time.monotonic()
                message = json.loads(text)
                gone = gone or "gone" in message
                if message:
                    self._take(message, index)
        except (OSError, ValueError):
            pass
        with self._changed:
            self._open.discard(index)
            self._changed.notify_all()
        if not gone:
            self._end(index, LOST, f"was lost: its connection closed without a word; {_AGAIN}")

    def _take(self, message: dict, sender: int) -> None:
        if self.place.index == 0 and ("share" in message or message.get("gone")):
            self._send(message, but=sender)
        if "share" in message:
            self._take_share(message["share"], message["of"], message["value"])
        elif "gone" in message and message["gone"]:
            time.sleep(GRACE)
            why = message["why"] or f"ended with exit code {message['gone']}"
            self._end(message["of"], message["gone"], f"ended: {why}")
        elif "stop" in message:
            self._halt(message["stop"])
        elif "halt" in message:
            self._halted(message["halt"])
        elif "limit" in message:
            self._take_limit(sender, message["limit"])
        elif "stop_at" in message:
            with self._changed:
                self._stop = message["stop_at"]
                self._changed.notify_all()

    def _take_share(self, number: int, index: int, value: Any) -> None:
        if self.place.index == 0 and index == 0:
            self._send({"share": number, "of": 0, "value": value})
        with self._changed:
            self._shared.setdefault(number, {})[index] = value
            self._changed.notify_all()

    # -- stopping alike

    def _halt(self, kind: str) -> None:
        """Process 0 has been asked: all are told to halt."""
        with self._changed:
            if self._asked is not None:
                return
        self._send({"halt": kind})
        self._halted(kind)

    def _halted(self, kind: str) -> None:
        with self._changed:
            self._asked = kind
            self._limit = self._position + 2
        if self.place.index:
            self._send({"limit": self._limit})
        else:
            self._take_limit(0, self._limit)

    def _take_limit(self, index: int, limit: int) -> None:
        with self._changed:
            self._limits[index] = limit
            if len(self._limits) < self.place.count:
                return
            self._stop = max(self._limits.values())
            self._changed.notify_all()
        self._send({"stop_at": self._stop})

    # -- losing one another

    def _beat(self) -> None:
        while not self._closing:
            self._send({})
            for index, heard in list(self._heard.items()):
                silent = time.monotonic() - heard
                if silent > SILENCE:
                    self._end(index, LOST, f"was lost: not heard of for {silent:.0f} s; {_AGAIN}")
            time.sleep(BEAT)

    def _end(self, index: int, code: int, what: str) -> None:
        """Ends this process, whose main thread may be waiting in a sum that never comes."""
        if self._closing:
            return
        if self.place.index == 0 or index == 0:
            self.leave(code, f"{self.name(index)} {what}")
        print(f"vitmed: {self.name(index)} {what}", file=sys.stderr, flush=True)
        self.linger()
        os._exit(code)
