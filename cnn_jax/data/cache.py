"""Keeps what was measured or decoded beside the prepared dataset, and notices when it is stale."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnn_jax.atomic_write import atomic_write

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
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved.pop("stamp") == current_stamp:
                return saved
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # absent or damaged, so measured again
    measured = measure()
    text = json.dumps(measured | {"stamp": current_stamp}, indent=2) + "\n"
    for path in places:
        try:
            with atomic_write(path) as file:
                file.write(text.encode())
            break
        except OSError:
            continue  # a folder that cannot be written
    return measured
