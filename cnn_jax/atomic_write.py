"""Write a file whole or not at all."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears at `path` when the block ends, folders included.

    Readers see the old file or all of the new one. Where the block raises, the old one stays; where
    the process is killed, so does the scratch file `.NAME.<random>`.

    Raises:
        OSError: there is no room or no permission to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # writers may be several
    try:
        with scratch.open("xb") as file:
            yield file
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
