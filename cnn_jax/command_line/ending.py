"""End a program: in one clear line and with an exit code, also where nobody reads its output."""

import atexit
import contextlib
import io
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from cnn_jax.errors import Stopped, UserError
from cnn_jax.errors.machine_limits import chain, limit_reached, out_of_place
from cnn_jax.errors.wording import one_line
from cnn_jax.runs.checkpoint import quieten_orbax


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program with one line and an exit code on `UserError`, `Stopped`, Ctrl-C, or at a
    limit of the machine: disk, memory, open files, permissions.

    Where nobody reads the output any more, as with `| head`, it ends without a word.
    """
    quieten_orbax()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a letter is no reason to end
            stream.reconfigure(errors="backslashreplace")
    try:
        with _limits_said_once():
            try:
                yield
            finally:
                _flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except Stopped as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(Stopped.EXIT_CODE) from None
    except (Exception, SystemExit) as error:
        ended = isinstance(error, SystemExit)  # by rich, which then writes to nowhere
        if any(isinstance(e, BrokenPipeError) for e in chain(error)) and (ended or _nobody_reads()):
            _drop_output()
            raise SystemExit(128 + signal.SIGPIPE) from None
        limit = limit_reached(error) or out_of_place(error)
        text = str(error) if isinstance(error, UserError) else limit
        if ended or not text:
            raise
        print(f"error: {one_line(text)}", file=sys.stderr, flush=True)
        try:
            _flush()
        except OSError:
            _drop_output()
        # Threads that wait for what will not come any more end with tracebacks when Python does.
        atexit.register(setattr, threading, "excepthook", lambda event: None)
        raise SystemExit(2) from None


def _flush() -> None:
    if sys.stdout is not None:  # as where a program is started without an output
        sys.stdout.flush()


def _drop_output() -> None:
    """Let what was printed, and cannot be written, go to nowhere, or Python would try at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def _limits_said_once() -> Iterator[None]:
    """Leave what is said of a limit to the line at the end.

    Threads of Orbax, TensorStore and tensorboardX that meet a full disk print tracebacks, besides
    the error that the main thread raises.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    of_threads, of_others = threading.excepthook, sys.unraisablehook

    def thread_failed(event: Any) -> None:
        if not limit_reached(event.exc_value):
            of_threads(event)

    def other_failed(event: Any) -> None:
        if event.exc_value is None or not limit_reached(event.exc_value):
            of_others(event)

    threading.excepthook, sys.unraisablehook = thread_failed, other_failed
    try:
        yield
    finally:
        threading.excepthook = of_threads  # the other one is also for what is met when Python ends


@contextlib.contextmanager
def outliving_readers() -> Iterator[None]:
    """Inside, a program goes on without output where nobody reads it any more, as with `| head`."""
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
                stream.flush()
                settings = {k: getattr(stream, k) for k in ("encoding", "errors", "line_buffering")}
                raw = _OutlivesItsReader(stream.fileno(), "w", closefd=False)
                setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), **settings))
                stack.callback(setattr, sys, name, stream)
                stack.callback(getattr(sys, name).flush)
        yield


class _OutlivesItsReader(io.FileIO):
    """A file whose content is thrown away from the moment when nobody reads it any more."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes


def _nobody_reads() -> bool:
    """Whether the other end of the output is closed."""
    try:
        poll = select.poll()
        poll.register(1, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, AttributeError):  # there is no output, or no such call
        return True
