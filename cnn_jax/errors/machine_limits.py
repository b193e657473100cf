"""Tell whether an error is a limit of the machine: disk, memory, open files, permissions."""

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cnn_jax.errors import UserError
from cnn_jax.errors.wording import message

LIMITS = {  # by errno; the braces stand for a file
    errno.ENOSPC: "the disk is full, so that {} cannot be written: free some space, then repeat "
    "the command",
    errno.EDQUOT: "the disk quota is used up, so that {} cannot be written: free some space, then "
    "repeat the command",
    errno.EFBIG: "{} would be larger than files may be here: raise the limit (ulimit -f)",
    errno.EMFILE: "{} cannot be opened, since too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "{} cannot be opened, since this machine has too many files open",
    errno.EACCES: "{} cannot be read or written: permission denied",
    errno.EPERM: "{} cannot be read or written: permission denied",
    errno.EROFS: "{} cannot be written: its file system can only be read",
    errno.ENAMETOOLONG: "{} cannot be opened: its name is too long",
    errno.ELOOP: "{} cannot be opened: it is a link that leads back to itself",
    errno.EIO: "{} cannot be read or written: the disk or the network failed",
}

OUT_OF_PLACE = {  # by errno: what lies where something else belongs
    errno.EISDIR: "{} is a folder where a file belongs: move it away",
    errno.EEXIST: "{} is in the way: move it away",
    errno.ENOTDIR: "{} cannot be read or written, since a part of its path is a file: move it away",
}


def limit_reached(error: BaseException) -> str:
    """Describe the limit that an error, or one that led to it, is about; empty if it is none."""
    return next(filter(None, map(_limit, chain(error))), "")


def out_of_place(error: BaseException) -> str:
    """Describe the file or folder that an error is about and that lies where another belongs;
    empty if it is about none.
    """
    numbered = [e for e in chain(error) if isinstance(e, OSError) and e.errno in OUT_OF_PLACE]
    return _said(OUT_OF_PLACE, numbered[0], numbered[0].errno) if numbered else ""


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it.

    An error that comes while another one is handled, as when a file that was half written is
    closed, would hide that one.
    """
    waiting, seen = [error], set()
    while waiting:
        error = waiting.pop(0)
        if id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += [e for e in (error.__cause__, error.__context__) if e is not None]
            waiting += getattr(error, "exceptions", ())  # of a group


def unreadable(path: Path | str, error: OSError) -> UserError:
    """The refusal of a file that cannot be read, with the system's reason."""
    return UserError(f"{path} cannot be read: {error.strerror or message(error)}")


def _limit(error: BaseException) -> str:
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    # TensorStore raises ValueError: RESOURCE_EXHAUSTED: ... [os_error_code='28'].
    if number is None and (named := re.search(r"os_error_code='(\d+)'|OS error (\d+)", text)):
        number = int(named[1] or named[2])
    if number is None and "No space left on device" in text:
        number = errno.ENOSPC
    if number in LIMITS:
        return _said(LIMITS, error, number)
    if number == errno.ENOMEM or isinstance(error, MemoryError) or _is_of_xlas_memory(text):
        told = f" ({message(error)[:160]})" if text else ""
        return (
            f"the memory is used up{told}: lower the batch size, or read the data as they are "
            "needed (--feed stream)"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return "no more threads can be started: raise the limits (ulimit -u and -v)"
    return ""


def _said(sentences: Mapping[int, str], error: BaseException, number: int | None) -> str:
    name = str(getattr(error, "filename", None) or "a file")
    return sentences[number or 0].format(name if len(name) < 200 else f"{name[:100]}...")


def _is_of_xlas_memory(text: str) -> bool:
    return "RESOURCE_EXHAUSTED" in text and "os_error_code" not in text or "Out of memory" in text
