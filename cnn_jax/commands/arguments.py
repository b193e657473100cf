"""What several commands are told, and how they answer."""

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

Script = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")]
Unknown = tyro.conf.Suppress[tuple[str, ...]]  # flags that are an experiment's own
DataDir = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def show(values: Mapping[str, Any], json: bool) -> None:
    if json:
        print(json_module.dumps(values))
        return
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)
