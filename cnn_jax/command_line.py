"""What all command lines share: flags are read, and a program ends in one clear line.

tyro reads the flags. Of its errors, which are boxes of several lines, only what happened is used.
"""

import atexit
import contextlib
import difflib
import io
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import tyro
from tyro import _errors as events  # private, so that requirements.txt names the versions
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from cnn_jax.errors import Stopped, UserError
from cnn_jax.errors.machine_limits import chain, limit_reached, out_of_place
from cnn_jax.errors.wording import nearest, one_line, quoted
from cnn_jax.runs.checkpoint import quieten_orbax

KINDS = {int: "a whole number", float: "a number"}


# ---- reading flags ----


def parse(form: Any, arguments: Sequence[str] | None = None, **about: Any) -> Any:
    """Read a command line: flags are made of a dataclass or a function, paths by `local_path`.

    Args:
        arguments: without them, those that the program was called with.
        about: `prog` and `description`, for --help.

    Raises:
        UserError: a flag is unknown, misses its value, or has one of another type.
    """
    value, unknown = parse_known(form, arguments, **about)
    refuse_unknown(form, _words(arguments), unknown)
    return value


def parse_known(
    form: Any, arguments: Sequence[str] | None = None, **about: Any
) -> tuple[Any, list[str]]:
    """Do what `parse` does, but return what is not known beside the value."""
    words = _words(arguments)
    for before, word in zip(["", *words], words, strict=False):
        if word == "" or re.fullmatch("--[a-z_-]+=", word):
            flag = (word or before).rstrip("=")
            raise UserError(f"{flag if flag[:2] == '--' else 'an argument'} is empty")

    def refuse(event: events.ParseErrorEvent) -> None:
        if sentence := _sentence(event, form, words):
            raise UserError(sentence)

    box = io.StringIO()
    try:
        with events.on_parse_error(refuse), contextlib.redirect_stderr(box):
            return tyro.cli(form, args=words, return_unknown_args=True, registry=_paths(), **about)
    except _NotLocal as error:
        raise UserError(str(error)) from None
    except SystemExit as error:
        if not error.code:  # --help
            raise
        text = re.sub("[╭╮╰╯│─]", " ", box.getvalue())
        raise UserError(" ".join(text.split())) from None


def refuse_unknown(form: Any, words: Sequence[str], unknown: Sequence[str]) -> None:
    """Raise a UserError about the words of a command line that `parse_known` did not know."""
    if unknown:
        raise UserError(_unknown(form, words, unknown))


class _NotLocal(Exception):
    """A path is none on this machine. tyro would swallow a ValueError."""


def local_path(text: str) -> Path:
    """The path that a user wrote, with `~` and `~name` replaced by that home.

    Raises:
        UserError: it is a URL, or names a home that is not known.
    """
    try:
        return _local_path(text)
    except _NotLocal as error:
        raise UserError(str(error)) from None


def _local_path(text: str) -> Path:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise _NotLocal(f"{text} is a URL: give a path of this machine's file system")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        home = text.split("/")[0]
        raise _NotLocal(
            f"{text}: the home {home} is not known; write the path out, or ./{text} for a folder "
            "of that name"
        ) from None


def _paths() -> ConstructorRegistry:
    """The rule by which tyro makes a path."""
    rules = ConstructorRegistry()

    @rules.primitive_rule
    def path(info: Any) -> PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda words: _local_path(words[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda value: [str(value)],
        )

    return rules


def _words(arguments: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if arguments is None else arguments)


# ---- usage errors ----


def _unknown(form: Any, words: Sequence[str], unknown: Sequence[str]) -> str:
    """What to say of unknown words of the command line, which may follow unknown flags."""
    word = next((word for word in unknown if word.startswith("-")), unknown[0])
    if not word.startswith("-"):
        return f"unexpected {quoted(word)}: nothing takes this value"
    flag = word.split("=")[0]
    before = words[: words.index(word)] if word in words else []
    (likely, *_) = [*difflib.get_close_matches(flag, _flags(form, before), n=1), ""]
    hint = f"did you mean {likely}?" if likely else "--help lists the flags"
    return f"there is no flag {flag}: {hint}"


def _flags(form: Any, words: Sequence[str]) -> list[str]:
    """The flags that --help lists after these words of a command line."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        parse_known(form, [*words, "--help"])
    lines = re.findall(r"^\W*(--[a-z].*)", re.sub("[│╭]", " ", shown.getvalue()), re.MULTILINE)
    return [flag for line in lines for flag in re.findall(r"^--[\w-]+|(?<=, )--[\w-]+", line)]


def _sentence(event: events.ParseErrorEvent, form: Any, words: Sequence[str]) -> str:
    """What a user did wrong; empty for what tyro itself must say."""
    match event:
        case events.MissingSubcommand():
            known = list(event.subcommand_spec.parser_from_name)
            depth = len(event.subcommand_spec.prog_suffix.split())
            plain = [word for word in words if not word.startswith("-")][depth:]
            if plain:
                return f"there is no command {quoted(plain[0])}: {nearest(plain[0], known)}"
            return f"name a command: {', '.join(known)}"
        case events.MissingArgs(unrecognized_tokens=[_, *_] as unknown):
            return _unknown(form, words, unknown)
        case events.MissingArgs():
            missing = [_invocation(context.arg) for context in event.missing_arguments]
            verb = "is" if len(missing) == 1 else "are"
            return f"{' and '.join(missing)} {verb} missing"
        case events.BadValue(argument=argument, reason="too_few_values"):
            return f"{_name(argument)} needs a value: {_kind(argument)}"
        case events.InvalidChoice(argument=argument):
            hint = nearest(event.value, event.choices)
            return f"{_name(argument)} cannot be {quoted(event.value)}: {hint}"
        case events.InstantiationFailure(argument=argument) if argument is not None:
            value = _value(argument, words)
            if value:
                return f"{_name(argument)} takes {_kind(argument)}, not {quoted(value)}"
    return ""


def _name(argument: Any) -> str:
    return argument.display_name()


def _invocation(argument: Any) -> str:
    metavar = str(argument.lowered.metavar)
    return metavar if argument.is_positional() else f"{_name(argument)} {metavar}"


def _kind(argument: Any) -> str:
    """What an argument takes, in words, or as --help shows it."""
    kinds = get_args(argument.field.type_stripped) or (argument.field.type_stripped,)
    (kind, *others) = [kind for kind in kinds if kind is not NoneType]
    return KINDS[kind] if kind in KINDS and not others else str(argument.lowered.metavar)


def _value(argument: Any, words: Sequence[str]) -> str:
    """The words that follow an argument's flag, the last time that it is given."""
    value = ""
    for place, word in enumerate(words):
        flag, equals, rest = word.partition("=")
        if flag.replace("_", "-") in argument.lowered.name_or_flags:
            ends = (i for i, w in enumerate(words) if i > place and w.startswith("--"))
            value = rest if equals else " ".join(words[place + 1 : next(ends, len(words))])
    return value


# ---- the end of a program ----


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
