"""SIGTERM, SIGHUP and SIGINT ask a run to stop where it can be resumed."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from cnn_jax.errors import Stopped

StopAsked = Callable[[int], bool]


@contextlib.contextmanager
def stop_requests() -> Iterator[StopAsked]:
    """Inside, the first of these signals only makes `stop_asked` true; a second SIGINT interrupts.

    Until `stop_asked` is called for the first time nothing can be lost, and a signal raises
    `Stopped` at once. A second SIGINT ends the program with one line and exit code 130. SIGHUP
    stays ignored if it was, as under nohup.

    Yields:
        `stop_asked(count)`, to be called with 0, 1, 2, … at places where stopping is safe. With
        several processes, a signal to any of them makes it true in all at the same count.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda count: False  # Python delivers signals to the main thread
        return
    received: list[int] = []
    calls: list[int] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if jax.distributed.is_initialized():
            # JAX has taken SIGTERM over, and agrees on the place with the other processes.
            os.kill(os.getpid(), signal.SIGTERM)
        elif not calls:
            raise Stopped("stopped before the first step: the same command starts again")

    def stop_asked(count: int) -> bool:
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(count)
        calls.append(count)
        return bool(received)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop_asked
    except KeyboardInterrupt:
        print("interrupted: the last checkpoint, if any, is from before", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        for number, handler in before.items():
            if not (number == signal.SIGTERM and jax.distributed.is_initialized()):
                signal.signal(number, handler)
