"""Dataclasses of scalars (a config, the options) as JSON values and as command-line flags."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def to_json(scalars: Any) -> dict[str, Any]:
    """Turn a dataclass of scalars into what JSON returns: floats as floats, paths absolute."""

    def value_of(field: dataclasses.Field) -> Any:
        value = getattr(scalars, field.name)
        if isinstance(value, Path):
            return str(value.absolute())
        return float(value) if field.type in (float, "float") else value

    values = {field.name: value_of(field) for field in dataclasses.fields(scalars)}
    return json.loads(json.dumps(values))


def flags(scalars: Mapping[str, Any]) -> list[str]:
    """The command-line flags that set a config or options to these values; None is left out."""
    written: list[str] = []
    for name, value in scalars.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            written.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            written += [f"--{flag}", str(value)]
    return written
