"""Turn finished runs into records, and records into the tables of README and docs/ladder.md.

    python -m experiments.tools.report collect runs/lenet5_mnist-*
    python -m experiments.tools.report collect runs/ciresan2010_* --name ciresan2010_mnist-1
    python -m experiments.tools.report table

`collect` writes `experiments/results/NAME.json` from runs that differ in their seed only; NAME is
the script's unless the script has several records. `table` writes the ladder between the marks in
README.md (one result per network) and docs/ladder.md (all results, and what came of training them
again).
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from cnn_jax import runs
from cnn_jax.command_line.ending import exit_on_user_error
from cnn_jax.command_line.flags import parse
from cnn_jax.commands.arguments import check_out
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_finite
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.runs.environment import environment
from cnn_jax.runs.json_files import write_json
from experiments import ladder
from experiments.tools import reproductions

ROOT = Path(__file__).parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "ladder.md"
MARKS = (
    "<!-- ladder: python -m experiments.tools.report table -->\n",
    "<!-- end of the ladder -->\n",
)


def collect(folders: list[Path], name: str | None = None, split: str | None = None) -> Path:
    """Write one record of several finished runs of one experiment; return the record's path.

    The seconds of a resumed run are left out, since they count from where it was resumed.

    Args:
        folders: run folders that differ in their seed only.
        name: of the record; default: the script's.
        split: evaluate this split instead of the one that training evaluated.

    Raises:
        UserError: a run is not finished, or they differ in more than their seed.
    """
    records, common = [], []
    for folder in folders:
        described, result = runs.finished(folder)
        if described["several"] or described["overridden"]:
            raise UserError(f"{folder} is of several trainings, or of more than one config")
        seed = described["config"].pop("seed")
        if result.pop("resumed_from"):
            result["seconds"] = None
        if split is not None:
            result |= evaluate_run(folder, split)
            del result["run"]
        common.append({k: described[k] for k in ("experiment", "config", "environment")})
        common[-1] |= {"options": runs.chosen(described["options"])}
        common[-1] |= {k: result.pop(k) for k in ("parameters", "step", "split", "count")}
        records.append({"seed": seed, **result})
    if any(c != common[0] for c in common):
        raise UserError("the runs differ in more than their seed")
    path = ladder.RECORDS / f"{name or common[0]['experiment']}.json"
    records.sort(key=lambda r: r["seed"])
    write_json(path, common[0] | {"runs": records})
    return path


def program(config_class: type[Any], run: Callable[[Any], dict[str, Any]]) -> None:
    """Run the command line of a script that makes its record itself, instead of training a network.

    Args:
        config_class: has a field `out`, and `data_dir` if it needs data; the record leaves paths
            out.
        run: takes the config; returns what the record holds besides config and environment.
    """
    script = sys.modules[config_class.__module__]
    with exit_on_user_error():
        config = parse(config_class, description=script.__doc__)
        check_finite(config)
        check_out(config.out, (".json",))
        if config.out is not None:  # before what may take hours
            config.out.parent.mkdir(parents=True, exist_ok=True)
        result = run(config)
        print(json.dumps(result))
        places = [name for name, value in vars(config).items() if isinstance(value, Path)]
        settings = runs.to_json(dataclasses.replace(config, **dict.fromkeys(places)))
        place = Path(script.__file__ or "").resolve()
        place = place.parent if place.stem == "__main__" else place.with_suffix("")
        name = place.relative_to(ladder.RECORDS.parent).as_posix()
        record = {"experiment": name, "config": settings}
        if config.out is not None:
            write_json(config.out, record | {"environment": environment()} | result)


def table() -> str:
    """All results in Markdown, each with its error when trained again and the verdict."""
    results = zip(ladder.results(), ladder.rows(), strict=True)
    rows = [cells + reproductions.cells(result.record) for result, cells in results]
    return markdown([ladder.HEADER + reproductions.HEADER, *rows])


def short_table() -> str:
    """README's table: one result per network."""
    return markdown([ladder.SHORT_HEADER, *ladder.short_rows()])


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is the header."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_tables() -> None:
    """Replace the tables of README and docs/ladder.md."""
    for path, text in ((README, short_table()), (PAGE, table())):
        before, _, after = split_at_marks(path)
        path.write_text(before + MARKS[0] + text + MARKS[1] + after, encoding="utf-8")


def split_at_marks(path: Path) -> tuple[str, str, str]:
    """The text before a page's table, the table, and the text after it."""
    before, rest = path.read_text(encoding="utf-8").split(MARKS[0])
    table, after = rest.split(MARKS[1])
    return before, table, after


@dataclasses.dataclass(frozen=True)
class Collect:
    """Write one record of several finished runs that differ in their seed only."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    name: str | None = None  # of the record, without .json; default: the script's
    split: str | None = None  # evaluate this split instead of the one that training evaluated


@dataclasses.dataclass(frozen=True)
class Table:
    """Write the tables of README.md and docs/ladder.md."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the command line names."""
    with exit_on_user_error():
        command = parse(
            Annotated[Collect, tyro.conf.subcommand("collect")]
            | Annotated[Table, tyro.conf.subcommand("table")],
            arguments,
            description=__doc__,
        )
        if isinstance(command, Table):
            write_tables()
            return
        if not command.runs:
            raise UserError("give at least one run folder")
        print(collect(list(command.runs), command.name, command.split))


if __name__ == "__main__":
    main()
