"""What several commands are told, and how they answer."""

import json as json_module
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from cnn_jax.assess import check_folder
from cnn_jax.errors import UserError

Script = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")]
Unknown = tyro.conf.Suppress[tuple[str, ...]]  # flags that are an experiment's own
DataDir = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
Out = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def check_out(folder: Path | None) -> None:
    """Refuse a folder that holds something or cannot be made, before anything is computed.

    Raises:
        UserError: that is so.
    """
    if folder is None:
        return
    check_folder(folder)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(f"--out {folder} cannot be made: {there} cannot be written to")


def show(values: Mapping[str, Any], json: bool) -> None:
    if json:
        print(json_module.dumps(values))
        return
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)
