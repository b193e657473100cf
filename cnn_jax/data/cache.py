"""What is derived from stored examples and kept beside them: whole or absent, fresh or rebuilt."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_jax.atomic_write import atomic_write

FOLDER = "cnn_jax"  # inside the folder of the prepared dataset


def stamp(folder: Path) -> str:
    """Changes whenever the files of the prepared dataset in `folder` are written anew."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    text = repr([(name, status.st_size, status.st_mtime_ns) for name, status in files])
    return hashlib.sha256(text.encode()).hexdigest()


def remember(
    name: str, folder: Path, file_name: str, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `measure` returns of the dataset `name` in `folder`, kept as JSON from then on.

    The file lies beside the dataset, or in ~/.cache/cnn_jax where that folder cannot be written.
    """
    elsewhere = Path("~/.cache/cnn_jax").expanduser() / name / folder.name
    places = (folder / FOLDER / file_name, elsewhere / file_name)
    now = stamp(folder)
    for path in places:
        try:
            saved = json.loads(path.read_text())
            if saved.pop("stamp") == now:
                return saved
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # absent, or not ours: measured again
    measured = measure()
    text = json.dumps(measured | {"stamp": now}, indent=2) + "\n"
    for path in places:
        try:
            with atomic_write(path) as file:
                file.write(text.encode())
            break
        except OSError:
            continue  # a folder that is not ours to write in
    return measured
