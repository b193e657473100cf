"""Keeps what was measured or decoded beside the prepared dataset, and notices when it is stale."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cnn_jax.atomic_write import atomic_write
from cnn_jax.errors import UserError

FOLDER = "cnn_jax"  # inside the folder of the prepared dataset
_Result = TypeVar("_Result")


def stamp(folder: Path) -> str:
    """A hash that changes whenever files of the prepared dataset in `folder` are rewritten."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    text = repr([(name, status.st_size, status.st_mtime_ns) for name, status in files])
    return hashlib.sha256(text.encode()).hexdigest()


def remember(
    name: str,
    folder: Path,
    file_name: str,
    measure: Callable[[], dict[str, Any]],
    parse: Callable[[dict[str, Any]], _Result],
) -> _Result:
    """Return `parse(measure())`, measured once and then kept as JSON.

    The file lies beside the dataset `name` in `folder`, or in ~/.cache/cnn_jax if that folder
    cannot be written. A file is used only if it is intact: the dataset's files are those that were
    measured, the content has the checksum that it was written with, and `parse` raises none of
    ValueError, TypeError and KeyError, by which it refuses what no measurement gives.
    """
    places = [folder / FOLDER / file_name]
    with contextlib.suppress(RuntimeError):  # a user without a home has one place only
        home = Path("~/.cache/cnn_jax").expanduser()
        places.append(home / name / folder.name / file_name)
    current_stamp = stamp(folder)
    for path in places:
        try:
            saved = unsealed(path.read_bytes(), file_name)
            if saved.pop("stamp") == current_stamp:
                return parse(saved)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # absent or damaged, so measured again
    measured = measure()
    content = sealed(measured | {"stamp": current_stamp}, file_name)
    for path in places:
        try:
            with atomic_write(path) as file:
                file.write(content)
            break
        except OSError:
            continue  # a folder that cannot be written
    return parse(measured)


def check_description(name: str, folder: Path, description: dict[str, Any]) -> None:
    """Raise UserError if the description of a dataset changed since its first reading.

    It says how records are understood (channels, classes, examples in each file), and TFDS keeps no
    checksum of it. It is noted beside the dataset at the first reading, which for what this package
    prepares is the end of preparing.
    """
    noted_in = folder / FOLDER / "description.json"
    try:
        noted = unsealed(noted_in.read_bytes(), noted_in.name)
    except (OSError, ValueError):  # absent or damaged, so noted again
        with contextlib.suppress(OSError), atomic_write(noted_in) as file:
            file.write(sealed(description, noted_in.name))
        return
    if changed := [key for key in description if noted.get(key) != description[key]]:
        raise UserError(
            f"the {' and '.join(changed)} of dataset {name!r} in {folder} are not those of its "
            "first reading: restore its .json and .txt files, or, if the change is meant, delete "
            f"{noted_in.parent}"
        )


def sealed(values: dict[str, Any], file_name: str) -> bytes:
    """The content of the JSON file `file_name` that holds `values` and their checksum."""
    whole = values | {"checksum": _checksum(values, file_name)}
    return (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode()


def unsealed(content: bytes, file_name: str) -> dict[str, Any]:
    """The values in `content` as `sealed` wrote it.

    Raises ValueError where they were changed, and for the file of another name.
    """
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("brackets nested too deep for JSON") from error
    if not isinstance(values, dict) or values.pop("checksum", 0) != _checksum(values, file_name):
        raise ValueError(f"{file_name} does not have the checksum that it was written with")
    return values


def _checksum(values: dict[str, Any], file_name: str) -> str:
    # The name belongs to it, since files of two splits or sizes could be exchanged.
    text = json.dumps([file_name, values], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
