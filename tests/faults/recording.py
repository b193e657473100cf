"""The command line of a script that tries faults and records how each ends."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cnn_jax.runs.checkpoint import quieten_orbax
from cnn_jax.runs.environment import environment


def main(
    about: str,
    name: str,
    sizes: Mapping[str, int],
    run: Callable[..., dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Make a record and write it, or print the table of one.

    Args:
        about: the script's docstring.
        name: of the experiment, in the record.
        sizes: the flags that say how many trials to make, with their defaults.
        run: called with an empty folder and the sizes by name; returns the record's own part.
        table: a record in Markdown.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for size, default in sizes.items():
        parser.add_argument(f"--{size}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="a JSON file for the record")
    parser.add_argument("--table", type=Path, help="a record to print in Markdown")
    flags = parser.parse_args()
    if flags.table:
        print(table(json.loads(flags.table.read_text())), end="")
        return
    quieten_orbax()
    started, record = time.monotonic(), {"experiment": name, "environment": environment()}
    with tempfile.TemporaryDirectory() as scratch:
        record |= run(Path(scratch), **{size: getattr(flags, size) for size in sizes})
    record["seconds"] = round(time.monotonic() - started)
    print(table(record), end="")
    if flags.out:
        flags.out.write_text(json.dumps(record, indent=2) + "\n")
