"""Parts of the one line that a user reads: what was meant, and long or strange text made short."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known one that is like it, or all."""
    known = list(known)
    likely = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {likely[0]}?" if likely else f"there are {', '.join(known)}"


def quoted(text: str, longest: int = 60) -> str:
    """The text in quotation marks, without what comes after `longest` letters."""
    return repr(text if len(text) <= longest else f"{text[:longest]}...")


def one_line(text: str) -> str:
    """The text in one line, with what would change the terminal written as escapes."""
    letters = text.replace("\n", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in letters)
