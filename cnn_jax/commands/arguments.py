"""What several commands are told, and how they answer."""

import json as json_module
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnn_jax.errors import UserError

Script = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")]
Unknown = tyro.conf.Suppress[tuple[str, ...]]  # flags that are an experiment's own
Runs = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
DataDir = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Out = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def check_out(folder: Path | None) -> None:
    """Refuse a folder that holds something or cannot be made, before anything is computed.

    Raises:
        UserError: that is so.
    """
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--out {folder} is not empty: choose another, or remove it")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(f"--out {folder} cannot be made: {there} cannot be written to")


def layer_table(rows: Mapping[str, Sequence[str]], *columns: str) -> Table:
    """A line per layer, its name first."""
    table = Table("layer", *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name, cells in rows.items():
        table.add_row(escape(name), *cells)
    return table


def show(values: Mapping[str, Any], json: bool) -> None:
    if json:
        print(json_module.dumps(values))
        return
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)
