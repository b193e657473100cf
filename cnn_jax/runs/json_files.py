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
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is {brief(content)}, no object")
    for name, kind in fields.items():
        if not isinstance(content.get(name), kind):
            there = f"{name} is {brief(content[name])}" if name in content else f"it has no {name}"
            raise UserError(f"{path} is damaged: {there}")
    return content
