"""Ctrl-C and SIGTERM as requests: the loop asks for them where its state can be saved.

Of several processes all stop before the same step, whichever of them was asked.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from vitmed.errors import Preempted
from vitmed.parallel import processes

Asked = Callable[[int], type[BaseException] | None]
KINDS = {kind.__name__: kind for kind in (KeyboardInterrupt, Preempted)}


@contextlib.contextmanager
def stop_requests() -> Iterator[Asked]:
    """Within it ctrl-C and SIGTERM ask to save and stop; a second one of the same kind stops at once.

    Of the same kind, because one wish may come in both: a scheduler tells all processes, and a study then its workers.

    Yields a function that is called before each step, with its number, and returns the exception to raise, or None.
    """
    asked: list[type[BaseException]] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: None
        return

    def handler(kind: type[BaseException]) -> Callable:
        def handle(number, frame):
            if kind in asked:
                raise kind
            asked.append(kind)
            processes.ask_to_stop(kind.__name__)

        return handle

    former = {
        signal.SIGINT: signal.signal(signal.SIGINT, handler(KeyboardInterrupt)),
        signal.SIGTERM: signal.signal(signal.SIGTERM, handler(Preempted)),
    }

    def stop(step: int) -> type[BaseException] | None:
        if processes.count() > 1:
            return KINDS.get(processes.stop_at(step))
        return asked[0] if asked else None

    try:
        yield stop
    finally:
        for number, handle in former.items():
            signal.signal(number, handle)
