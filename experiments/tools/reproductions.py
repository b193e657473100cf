"""Train the records of the ladder again, elsewhere or with later code, and keep what came of it.

    python -m experiments.tools.reproductions lenet5_mnist mlp_mnist --workdir again --data-dir DIR
    python -m experiments.tools.reproductions table

The first is `python -m cnn_jax reproduce` for each record named, the verdicts kept in
`experiments/results/reproductions.json` as they come; a record that is written anew loses its
verdict. The second puts them into docs/reproducing.md.
"""

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from cnn_jax.check.reproduce import Comparison, reproduce
from cnn_jax.cli import exit_on_user_error, usage_errors_in_one_line
from cnn_jax.errors import UserError
from cnn_jax.runs.environment import environment
from cnn_jax.runs.journal import write_json
from experiments import ladder
from experiments.tools.report import markdown

PAGE = Path(__file__).parents[2] / "docs" / "reproducing.md"
MARKS = (
    "<!-- reproductions: python -m experiments.tools.reproductions table -->\n",
    "<!-- end -->",
)
HEADER = ("record", "runs", "error then", "error again", "figures that match", "differs", "verdict")


@dataclasses.dataclass(frozen=True)
class Config:
    record: Annotated[tuple[str, ...], tyro.conf.Positional]  # of the ladder, or only: table
    workdir: Path | None = None  # an empty or new folder for the runs
    data_dir: Path | None = None  # where prepared datasets lie


def again(config: Config) -> None:
    """Train each record's runs again, one record after the other."""
    if not config.record:
        raise UserError(f"say which records; there are {', '.join(records())}")
    if config.workdir is None:
        raise UserError("training again needs a folder for it: --workdir DIR")
    if unknown := sorted(set(config.record) - set(records())):
        raise UserError(f"no record {', '.join(unknown)}; there are {', '.join(records())}")
    for name in config.record:
        path, started = records()[name], time.monotonic()
        found = reproduce(path, data_dir=config.data_dir, scratch=config.workdir / name)
        seconds = round(time.monotonic() - started)
        verdicts = {**load(), name: verdict(path, found) | {"seconds": seconds}}
        kept = {"experiment": "reproductions", "verdicts": verdicts}
        write_json(ladder.RECORDS / "reproductions.json", kept)
        print(f"{name}: {'match' if all(c.matches for c in found) else 'mismatch'}", flush=True)


def records() -> dict[str, Path]:
    """The records that the ladder shows, in its order."""
    named = [result.record for rung in ladder.RUNGS for result in rung.results]
    paths = {name: ladder.RECORDS / f"{name}.json" for name in named}
    return {name: path for name, path in paths.items() if path.exists()}


def load() -> dict[str, Any]:
    """The verdicts by record, without those of records that have changed since."""
    path = ladder.RECORDS / "reproductions.json"
    verdicts = json.loads(path.read_text())["verdicts"] if path.exists() else {}
    there = records()
    return {n: v for n, v in verdicts.items() if n in there and v["sha256"] == _sha256(there[n])}


def verdict(path: Path, found: Sequence[Comparison]) -> dict[str, Any]:
    """What is kept of the comparisons of a record's runs."""
    rows = [[c.run, *row] for c in found for row in c.rows]
    return {
        "sha256": _sha256(path),  # of the record
        "match": all(c.matches for c in found),
        "runs": len(found),
        "differences": found[0].differences,
        "figures": [row for row in rows if not row[-1] or len(rows) < 100],  # or mismatches only
        "matching": sum(row[-1] for row in rows),
        "compared": len(rows),
        "environment": environment(),
    }


def table() -> str:
    """The verdicts in Markdown; records without one too."""
    verdicts = load()
    return markdown([HEADER, *((name, *_cells(verdicts.get(name))) for name in records())])


def write_table() -> None:
    """Replace the table in docs/reproducing.md."""
    before, rest = PAGE.read_text().split(MARKS[0])
    PAGE.write_text(before + MARKS[0] + table() + MARKS[1] + rest.split(MARKS[1], 1)[1])


def _cells(found: Mapping[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return ("",) * 5 + ("not trained again yet",)
    pairs = [row[2:4] for row in found["figures"] if row[1] == "accuracy"]
    means = [f"{100 * (1 - statistics.mean(p)):.2f} %" for p in zip(*pairs, strict=True)]
    differs = [line.split(" was ")[0] for line in found["differences"]]
    return (
        str(found["runs"]),
        *(means or ("", "")),
        f"{found['matching']:,} of {found['compared']:,}",
        ", ".join(differs) or "nothing",
        "match" if found["match"] else "mismatch",
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    with exit_on_user_error():
        with usage_errors_in_one_line():
            config = tyro.cli(Config, description=__doc__)
        if config.record == ("table",):
            write_table()
        else:
            again(config)
