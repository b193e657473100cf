"""Read the flags of a program.

tyro reads them. Of its errors, which are boxes of several lines, only what happened is used.
"""

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import tyro
from tyro import _errors as events  # private, so that requirements.txt names the versions
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from cnn_jax.errors import UserError
from cnn_jax.errors.wording import brief, message, nearest

KINDS = {int: "a whole number", float: "a number"}


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
        raise UserError(message(text)) from None


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
    path = Path(text)
    if not text.startswith("~"):
        # `Path` drops the "./" of ./~name, which would then be taken for a home.
        return path.absolute() if str(path).startswith("~") else path
    try:
        return path.expanduser()
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
    """Describe unknown words of the command line, which may follow unknown flags."""
    word = next((word for word in unknown if word.startswith("-")), unknown[0])
    if not word.startswith("-"):
        return f"unexpected {brief(word)}: nothing takes this value"
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
    """Describe a user's mistake in one sentence; empty where tyro's own words must do."""
    match event:
        case events.MissingSubcommand():
            known = list(event.subcommand_spec.parser_from_name)
            depth = len(event.subcommand_spec.prog_suffix.split())
            plain = [word for word in words if not word.startswith("-")][depth:]
            if plain:
                return f"there is no command {brief(plain[0])}: {nearest(plain[0], known)}"
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
            return f"{_name(argument)} cannot be {brief(event.value)}: {hint}"
        case events.InstantiationFailure(argument=argument) if argument is not None:
            value = _value(argument, words)
            if value:
                return f"{_name(argument)} takes {_kind(argument)}, not {brief(value)}"
    return ""


def _name(argument: Any) -> str:
    return argument.display_name()


def _invocation(argument: Any) -> str:
    metavar = str(argument.lowered.metavar)
    return metavar if argument.is_positional() else f"{_name(argument)} {metavar}"


def _kind(argument: Any) -> str:
    """Name the kind of value that an argument takes, in words or as --help shows it."""
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
