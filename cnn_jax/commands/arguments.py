"""Arguments that several commands take, with their help texts, and how commands print results."""

import json as json_module
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnn_jax.check.reproduce import script_of
from cnn_jax.errors import UserError
from cnn_jax.runs.trust import remember


def argument(metavar: str, text: str | None = None, default: str | None = None) -> Any:
    """How an argument appears in --help.

    Args:
        text: None takes it from the command's docstring.
        default: in words, for what None stands for.
    """
    hint = f"(default: {default})" if default else None
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint=hint)


# A flag without --no-FLAG; its hint would only say that it is off by default.
Flag = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help_behavior_hint="")]
Run = Annotated[tyro.conf.Positional[Path], argument("RUN", "Run folder.")]
Runs = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="RUN...", help="Run folders.", help_behavior_hint="(required)"),
]
Names = Annotated[
    tuple[str, ...],
    argument("NAME...", "Names to show for the runs, one for each.", "their folders' names"),
]
Layers = Annotated[tuple[str, ...], argument("LAYER...", "Names of layers.", "all")]
Member = Annotated[
    int, argument("NUMBER", "Which network of those trained side by side (--seeds), from 0.")
]
Split = Annotated[
    str | None,
    argument("SPLIT", "Split of the run's dataset.", "the one evaluated during training"),
]
Step = Annotated[
    int | Literal["best"] | None,
    argument("STEP|best", "Checkpoint to use: its step, or the best one.", "the last"),
]
RunDataDir = Annotated[
    Path | None, argument("DIR", "Folder of the prepared datasets.", "where the run had them")
]
DataDir = Annotated[
    Path | None,
    argument(
        "DIR", "Folder of the prepared datasets.", "$TFDS_DATA_DIR, else ~/tensorflow_datasets"
    ),
]
BatchSize = Annotated[
    int, argument("INT", "Examples at a time; affects speed and memory, not the result.")
]
Out = Annotated[Path | None, argument("DIR", default="write no files")]
Trust = Annotated[
    tyro.conf.FlagCreatePairsOff[bool],
    tyro.conf.arg(
        help="Opening a run executes its experiment.py: do so although it was never run here. Read "
        "the script first.",
        help_behavior_hint="",
    ),
]


def check_out(out: Path | None, suffixes: Sequence[str] = (), flag: str = "--out") -> None:
    """Check, before anything is computed, that `out` can be written and overwrites nothing.

    Args:
        suffixes: those of the file that will be written; without any it is a folder, new or empty.

    Raises:
        UserError: it cannot, or would.
    """
    if out is None:
        return
    if suffixes and out.suffix not in suffixes:
        wanted = " or ".join(", ".join(suffixes).rsplit(", ", 1))
        raise UserError(f"{flag} must end in {wanted}, got {out}")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{flag} {out} is a link to nothing: remove it, or choose another")
    if out.exists() and suffixes:
        raise UserError(f"{flag} {out} exists: choose another, or remove it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{flag} {out} is not a folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{flag} {out} is not empty: choose another, or remove it")
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"{flag} {out} cannot be made in {there}: {error.strerror}") from error


def trust_scripts(trust: bool, targets: Sequence[Path]) -> None:
    """Let the scripts of run folders, or of records, be executed from now on, if `trust` says so.

    Raises:
        UserError: that cannot be noted.
    """
    for script in [script_of(target) for target in targets if trust]:
        try:
            remember(script)
        except (OSError, RuntimeError) as error:
            if isinstance(error, OSError) and error.filename == str(script):
                continue  # opening the run says what is wrong with it
            reason = error.strerror if isinstance(error, OSError) else "there is no home"
            raise UserError(
                f"--trust: {script} cannot be noted as trusted ({reason}): set XDG_STATE_HOME to a "
                "folder that you can write"
            ) from error


def layer_table(rows: Mapping[str, Sequence[str]], *columns: str) -> Table:
    """A table with one row per layer: its name, then the cells of `columns`."""
    table = Table("layer", *columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name, cells in rows.items():
        table.add_row(escape(name), *cells)
    return table


def show(values: Mapping[str, Any], json: bool) -> None:
    """Print named values as a table or as one line of JSON."""
    if json:
        print(json_module.dumps(values))
        return
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)
