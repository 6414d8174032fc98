"""All processes of a training as one: how they start, agree, stop and end. Alone, a process agrees with itself.

``cluster.py`` knows who is to come, ``line.py`` is how they talk; here JAX is started among them. What only one may do
(files, a fit on the host) the first does, and the others are told the result.
"""

import importlib.metadata
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vitmed import durable, errors, source
from vitmed.errors import InputError, MachineError, Preempted, VitmedError
from vitmed.parallel.cluster import place
from vitmed.parallel.line import Line
from vitmed.pool import bound

PARTING = 30.0  # seconds that a process waits for the others when all is done
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")

_line: Line | None = None


def start() -> None:
    """Finds the other processes, where a launcher started several, and starts JAX among them. Once a process.

    Raises:
        InputError: a launcher's variables that make no sense, or processes of other versions.
        MachineError: they did not all come within a minute.
    """
    global _line
    here = place(os.environ)
    if here is None or _line is not None:
        return
    import jax  # late, here and below: those who only read run folders do without its 200 MB

    line = Line(here, {"host": socket.gethostname(), "pid": os.getpid()})
    _line = line
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    agree("versions", {**versions, "python": sys.version.split()[0], "vitmed's source": source.mark()})
    _room_for_sums()
    port = first(_free_port)
    jax.config.update("jax_enable_preemption_service", False)  # a SIGTERM is for stop_requests
    host = here.address[0]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    jax.distributed.initialize(
        address, here.count, here.index, here.devices, cluster_detection_method="deactivate"
    )


def index() -> int:
    """This process's number, from 0."""
    return _line.place.index if _line else 0


def count() -> int:
    """How many processes there are."""
    return _line.place.count if _line else 1


def share(value: Any) -> list[Any]:
    """What every process gives for this same call, by index: values that JSON holds."""
    return _line.share(value) if _line else [value]


def first(make: Callable[[], Any]) -> Any:
    """``make()`` of process 0, for all; so is the fault it raises. The value is one that JSON holds.

    Raises:
        VitmedError: as ``make`` did.
    """
    if _line is None:
        return make()
    told: Any = None
    fault: Exception | None = None
    if index() == 0:
        try:
            told = {"value": make()}
        except VitmedError as error:
            told, fault = {"fault": type(error).__name__, "text": str(error)}, error
    told = share(told)[0]
    if fault is not None:
        raise fault
    if "fault" in told:
        kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
        raise next(kind for kind in kinds if kind.__name__ == told["fault"])(told["text"])
    return told["value"]


def agree(what: str, values: dict[str, Any]) -> None:
    """Refuses processes that were not started alike.

    Args:
        what: the values are, for the message.
        values: flat, and such as JSON holds; the same on every process, if all is well.

    Raises:
        InputError: which process has other values than process 0, and which they are.
    """
    if _line is None:
        return
    everyone = share(values)
    values = everyone[0]
    for number, other in enumerate(everyone):
        different = [name for name in sorted({**values, **other}) if values.get(name) != other.get(name)]
        if different:
            told = "; ".join(
                f"{n} is {other.get(n)!r} there and {values.get(n)!r} here" for n in different[:5]
            )
            raise InputError(
                f"{_line.name(number)} has other {what} than {_line.name(0)}: {told}; start all processes alike"
            )


def check_shared_folder(folder: Any) -> None:
    """Refuses a folder that is not the same one for all processes; process 0 has made it.

    Raises:
        InputError: which processes do not see in it what process 0 wrote.
    """
    if _line is None:
        return
    sign = folder / ".shared"

    def write() -> str:
        mark = f"{_line.name(0)}, {time.time()}"
        durable.write_text(sign, mark)
        return mark

    mark = first(write)
    seen = share(_reads(sign, mark))
    first(lambda: sign.unlink(missing_ok=True))
    if not all(seen):
        blind = ", ".join(_line.name(number) for number, saw in enumerate(seen) if not saw)
        raise InputError(
            f"--workdir {folder} is not shared: {blind} does not see what {_line.name(0)} writes there; give a folder "
            "on a file system that all of them mount"
        )


def ask_to_stop(kind: str) -> None:
    """Asks all processes to stop before one and the same step; may be called where a signal is handled."""
    if _line is not None:
        threading.Thread(target=_line.ask_to_stop, args=(kind,), daemon=True).start()


def stop_at(step: int) -> str | None:
    """What all processes were asked to stop by, if they do so before ``step``; asked before every step."""
    return _line.stop_at(step) if _line else None


def leave(code: int, why: str = "") -> int:
    """The end of this process with an exit code, which it returns where it is the only one.

    Where all end alike they wait for one another: process 0 may be saving. When it has, nothing is left to lose, and
    nothing may hold an end up: neither another process, nor JAX's farewell, which waits for minutes, nor a library's
    threads, for which Python would wait for ever. From a fault of one process alone it ends at once and the others are
    told ``why``.
    """
    if _line is None:
        return code
    if code == 0 or (_line.stopping and code in (Preempted.exit_code, 130)):
        try:
            _line.share(None, patience=None if index() else PARTING)
        except MachineError as error:
            print(f"vitmed: all is saved, but {error}; not waiting for it", file=sys.stderr)
        _line.leave(0)
        import jax

        farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        farewell.start()
        farewell.join(PARTING)
    else:
        _line.leave(code, why)
        _line.linger()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait_for_news(seconds: float = 5.0) -> None:
    """After a fault that may be another process's: if one is lost, the line ends this process within this time."""
    if _line is not None:
        time.sleep(seconds)


def from_first(tree: Any) -> Any:
    """The host arrays of process 0, for all; the others give a tree of the same shapes."""
    if _line is None:
        return tree
    import jax
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def _room_for_sums() -> None:
    """Has XLA start more threads where this process has several devices of its processor.

    A sum with other processes holds a thread of each device until they come to it. With as many threads as cores, the sums
    of a process that runs ahead take them all, and what the others wait for finds none: a deadlock (seen with two
    devices on two cores, within a few steps; four threads a device were enough).
    """
    import jax

    found = re.search(r"host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = max(jax.config.jax_num_cpu_devices, int(found[1]) if found else 1)
    if devices > 1:
        os.environ.setdefault("NPROC", str(max(4 * devices, bound())))  # read as XLA starts


def _free_port() -> int:
    with socket.create_server(("", 0)) as door:
        return door.getsockname()[1]


def _reads(sign: Any, mark: str, seconds: float = 10.0) -> bool:
    """Whether ``sign`` holds ``mark``, for which a network's file system gets some time."""
    ends = time.monotonic() + seconds
    while True:
        try:
            if sign.read_text() == mark:
                return True
        except OSError:
            pass
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
