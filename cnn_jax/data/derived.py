"""What is derived from stored examples and kept beside them: whole or absent, fresh or rebuilt."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

FOLDER = "cnn_jax"  # inside the folder of the prepared dataset


def stamp(folder: Path) -> str:
    """Changes whenever the files of the prepared dataset in `folder` are written anew."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    text = repr([(name, status.st_size, status.st_mtime_ns) for name, status in files])
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Writes `path` so that a reader, or a crash, sees all of it or none. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            fill(file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
