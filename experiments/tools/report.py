"""Turn finished runs into records, and records into README's table.

    python -m experiments.tools.report collect runs/lenet5_mnist-*
    python -m experiments.tools.report collect runs/ciresan2010_* --name ciresan2010_mnist-1
    python -m experiments.tools.report table

`collect` writes `experiments/results/NAME.json` from runs that differ in their seed only; NAME is
the script's, unless it has several records. `table` writes the table of
`python -m experiments.ladder` between the marks in README.md. A test holds the two together.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from cnn_jax import runs
from cnn_jax.check.reproduce import chosen
from cnn_jax.cli import exit_on_user_error, usage_errors_in_one_line
from cnn_jax.errors import UserError
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.runs.environment import environment
from cnn_jax.runs.journal import write_json
from experiments import ladder

README = Path(__file__).parents[2] / "README.md"
MARKS = (
    "<!-- ladder: python -m experiments.tools.report table -->\n",
    "<!-- end of the ladder -->\n",
)


def collect(folders: list[Path], name: str | None = None, split: str | None = None) -> Path:
    """Write one record of several runs of one experiment, of `split` if they did not end with it.

    Raises:
        ValueError: they are not finished runs of one configuration and machine.

    A run that was stopped and resumed counts like any other, but its seconds, which are those since
    it was resumed, are left out.
    """
    records, common = [], []
    for folder in folders:
        described = json.loads((folder / "config.json").read_text())
        result = json.loads((folder / "result.json").read_text())
        if described.get("several") or described.get("overridden"):
            raise ValueError(f"{folder} is of several trainings, or of more than one config")
        seed = described["config"].pop("seed")
        if result.pop("resumed_from"):
            result["seconds"] = None
        if split is not None:
            result |= evaluate_run(folder, split)
            del result["run"]
        common.append({k: described[k] for k in ("experiment", "config", "environment")})
        common[-1] |= {"options": chosen(described["options"])}
        common[-1] |= {k: result.pop(k) for k in ("parameters", "step", "split", "count")}
        records.append({"seed": seed, **result})
    if any(c != common[0] for c in common):
        raise ValueError("the runs differ in more than their seed")
    path = ladder.RECORDS / f"{name or common[0]['experiment']}.json"
    path.parent.mkdir(exist_ok=True)
    records.sort(key=lambda r: r["seed"])
    path.write_text(json.dumps(common[0] | {"runs": records}, indent=2) + "\n")
    return path


def program(config_class: type[Any], run: Callable[[Any], dict[str, Any]]) -> None:
    """The command line of a script that makes its record itself, being no gradient descent.

    Args:
        config_class: with a field `out`, and `data_dir` if it needs data; paths are left out of
            the record.
        run: takes the config, returns what the record holds besides config and environment.
    """
    script = sys.modules[config_class.__module__]
    with exit_on_user_error():
        with usage_errors_in_one_line():
            config = tyro.cli(config_class, description=script.__doc__)
        if config.out is not None and config.out.exists():
            raise UserError(f"{config.out} is there already: choose another --out, or remove it")
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
    """The ladder in Markdown."""
    return markdown([ladder.HEADER, *ladder.rows()])


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """A table, its header first."""
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_table() -> None:
    """Replace README's table."""
    text = README.read_text()
    before, rest = text.split(MARKS[0])
    README.write_text(before + MARKS[0] + table() + MARKS[1] + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    collector = commands.add_parser("collect")
    collector.add_argument("run", type=Path, nargs="+")
    collector.add_argument("--name", help="of the record, without .json")
    collector.add_argument("--split", help="to evaluate, where training evaluated another")
    commands.add_parser("table")
    flags = parser.parse_args()
    if flags.command == "table":
        write_table()
    else:
        try:
            print(collect(flags.run, flags.name, flags.split))
        except (OSError, KeyError, ValueError) as error:
            sys.exit(f"error: {error}")
