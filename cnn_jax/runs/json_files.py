"""Read and write the JSON files of a run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax.atomic_write import atomic_write
from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import unreadable
from cnn_jax.errors.wording import brief, message


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_write(path) as file:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())


def read_json(path: Path, fields: Mapping[str, type]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        fields: the values that it must have, by name, with their types.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
        UserError: it cannot be read, or is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {message(error)}") from error
    check_fields(path, content, fields)
    return content


def check_fields(path: Path, content: Any, fields: Mapping[str, Any]) -> None:
    """Raise UserError unless `content`, a part of a JSON file, is an object with these values.

    Args:
        fields: the types of the values by name.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is {brief(content)}, no object")
    for name, kind in fields.items():
        if name not in content:
            raise UserError(
                f"{path} is damaged, or of another version of this package: it has no {name}"
            )
        if not isinstance(content[name], kind):
            raise UserError(f"{path} is damaged: {name} is {brief(content[name])}")
