"""Ctrl-C and SIGTERM as requests: the loop asks for them where its state can be saved."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from vitmed.errors import Preempted

Asked = Callable[[], type[BaseException] | None]


@contextlib.contextmanager
def stop_requests() -> Iterator[Asked]:
    """Within it ctrl-C and SIGTERM ask to save and stop; a second one stops at once.

    Yields a function that returns the exception to raise, or None.
    """
    asked: list[type[BaseException]] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def handler(kind: type[BaseException]) -> Callable:
        def handle(number, frame):
            if asked:
                raise kind
            asked.append(kind)

        return handle

    former = {
        signal.SIGINT: signal.signal(signal.SIGINT, handler(KeyboardInterrupt)),
        signal.SIGTERM: signal.signal(signal.SIGTERM, handler(Preempted)),
    }
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handle in former.items():
            signal.signal(number, handle)
