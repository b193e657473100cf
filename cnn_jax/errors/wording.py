"""Parts of the one line that a user reads: what was meant, and long or strange text made short."""

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known one that is like it, or all."""
    known = list(known)
    likely = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {likely[0]}?" if likely else f"there are {', '.join(known)}"


def brief(value: Any) -> str:
    """A value as Python writes it, a text in quotes: cut if it is long, a SHA-256 to 12 digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return repr(_cut(value, 60)) if isinstance(value, str) else _cut(repr(value), 60)


def contrast(one: Any, two: Any) -> tuple[str, str]:
    """Two values that differ, each cut short around the first place where they do."""
    whole, short = (repr(one), repr(two)), (brief(one), brief(two))
    if short[0] != short[1]:
        return short
    start = len(os.path.commonprefix(whole)) - 20
    first, second = (f"...{_cut(text[start:], 57)}" for text in whole)
    return first, second


def change(name: str, then: Any, now: Any) -> str:
    """A phrase for a value that is no longer what it was."""
    return "{} was {}, is {}".format(name, *contrast(then, now))


def message(error: object) -> str:
    """An error's message without line breaks, or its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def one_line(text: str) -> str:
    """The text in one line, with what would change the terminal written as escapes."""
    letters = text.replace("\n", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in letters)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
