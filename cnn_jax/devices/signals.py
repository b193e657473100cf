"""SIGTERM and SIGINT ask a run to stop where it can go on from."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
from jax.experimental import multihost_utils

Requested = Callable[[int], bool]
_late: ContextVar[list[int] | None] = ContextVar("late", default=None)


@contextlib.contextmanager
def late_request() -> Iterator[Callable[[], bool]]:
    """Around a training that others follow: yields whether a signal came, to this process alone.

    One that comes with the last step or after it has nothing left to stop there.
    """
    heard: list[int] = []
    token = _late.set(heard)
    try:
        yield lambda: bool(heard) and jax.process_count() == 1
    finally:
        _late.reset(token)


@contextlib.contextmanager
def stop_requests() -> Iterator[Requested]:
    """Inside, the first SIGTERM or SIGINT only makes `requested` true; a second SIGINT interrupts.

    Yields:
        `requested(count)`, to be called with 0, 1, 2 ... at places where stopping is safe. With
        several processes a signal to any of them makes it true in all at the same count.
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
        if (heard := _late.get()) is not None:
            heard.append(number)
        if not alone:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX tells the other processes of

    # With several processes JAX's own handler of SIGTERM agrees on the place with the others.
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
