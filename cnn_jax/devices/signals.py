"""SIGTERM and SIGINT ask a run to stop where it can be resumed."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

StopAsked = Callable[[int], bool]


@contextlib.contextmanager
def stop_requests() -> Iterator[StopAsked]:
    """Inside, the first SIGTERM or SIGINT only makes `stop_asked` true; a second SIGINT interrupts.

    Yields:
        `stop_asked(count)`, to be called with 0, 1, 2, … at places where stopping is safe. With
        several processes, a signal to any of them makes it true in all at the same count.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda count: False  # Python delivers signals to the main thread
        return
    received: list[int] = []
    alone = jax.process_count() == 1

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX passes on to the other processes

    # With several processes, JAX's own handler of SIGTERM agrees on the place with the others.
    numbers = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        if alone:
            yield lambda count: bool(received)
        else:
            yield multihost_utils.reached_preemption_sync_point
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
