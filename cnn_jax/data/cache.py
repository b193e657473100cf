"""Keeps what was measured or decoded beside the prepared dataset, and notices when it is stale."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

FOLDER = "cnn_jax"  # inside the folder of the prepared dataset


def stamp(folder: Path) -> str:
    """A hash that changes whenever files of the prepared dataset in `folder` are rewritten."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    text = repr([(name, status.st_size, status.st_mtime_ns) for name, status in files])
    return hashlib.sha256(text.encode()).hexdigest()


def remember(
    name: str, folder: Path, file_name: str, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The result of `measure` for the dataset `name` in `folder`: computed once, then kept as JSON.

    The file lies beside the dataset, or in ~/.cache/cnn_jax if that folder cannot be written.
    """
    elsewhere = Path("~/.cache/cnn_jax").expanduser() / name / folder.name
    places = (folder / FOLDER / file_name, elsewhere / file_name)
    current_stamp = stamp(folder)
    for path in places:
        try:
            saved = json.loads(path.read_text())
            if saved.pop("stamp") == current_stamp:
                return saved
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # absent or damaged, so measured again
    measured = measure()
    text = json.dumps(measured | {"stamp": current_stamp}, indent=2) + "\n"
    for path in places:
        try:
            write(path, lambda file: file.write(text.encode()))
            break
        except OSError:
            continue  # a folder that cannot be written
    return measured


def _umask() -> int:
    """Of this process; there is no way to read it but to set it."""
    os.umask(mask := os.umask(0o077))
    return mask


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Writes `path` so that a reader, or a crash, sees all of it or none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            fill(file)
            os.fchmod(descriptor, 0o666 & ~_umask())  # others may read a dataset that is shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
