"""Turn finished runs into records, and records into README's table of results.

    python -m experiments.report collect runs/lenet5_mnist-*
    python -m experiments.report table

`collect` writes `experiments/results/EXPERIMENT.json` from runs that differ in their seed only;
`table` writes the table between the marks in README.md. A test holds the two together.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
MARKS = ("<!-- results: python -m experiments.report table -->\n", "<!-- end of results -->\n")


def collect(folders: list[Path]) -> Path:
    """Write one record of several runs of one experiment.

    Raises:
        ValueError: they are not finished, uninterrupted runs of one configuration and machine.
    """
    records, common = [], []
    for folder in folders:
        described = json.loads((folder / "config.json").read_text())
        result = json.loads((folder / "result.json").read_text())
        seed = described["config"].pop("seed")
        if result.pop("resumed_from"):
            raise ValueError(f"{folder} was interrupted: its time is not that of the whole run")
        common.append({k: described[k] for k in ("experiment", "config", "environment")})
        common[-1] |= {k: result.pop(k) for k in ("parameters", "step", "split", "count")}
        records.append({"seed": seed, **result})
    if any(c != common[0] for c in common):
        raise ValueError("the runs differ in more than their seed")
    path = RESULTS / f"{common[0]['experiment']}.json"
    path.parent.mkdir(exist_ok=True)
    records.sort(key=lambda r: r["seed"])
    path.write_text(json.dumps(common[0] | {"runs": records}, indent=2) + "\n")
    return path


def table() -> str:
    """The Markdown table of all records, in order of parameters."""
    lines = [
        "| experiment | parameters | accuracy | seeds | training time | on |",
        "|---|---|---|---|---|---|",
    ]
    records = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    for record in sorted(records, key=lambda r: (r["parameters"], r["experiment"])):
        lines.append("| " + " | ".join(_cells(record)) + " |")
    return "\n".join(lines) + "\n"


def accuracy(record: dict[str, Any]) -> str:
    """Mean and, of several seeds, standard deviation, in per cent: as scripts claim it."""
    accuracies = [100 * run["accuracy"] for run in record["runs"]]
    text = f"{statistics.mean(accuracies):.2f} %"
    if len(accuracies) > 1:
        text += f" ± {statistics.stdev(accuracies):.2f}"
    return text


def _cells(record: dict[str, Any]) -> list[str]:
    name, environment, runs = record["experiment"], record["environment"], record["runs"]
    seconds = statistics.median(run["seconds"] for run in runs)
    cores = f", {environment['cores']} cores" if environment["platform"] == "cpu" else ""
    return [
        f"[`{name}`](experiments/{name}.py)",
        f"{record['parameters']:,}",
        f"{accuracy(record)} of {record['count']:,}",
        str(len(runs)),
        f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min",
        f"{environment['devices']} × {environment['device']}{cores}",
    ]


def write_table() -> None:
    """Replace README's table."""
    text = README.read_text()
    before, rest = text.split(MARKS[0])
    README.write_text(before + MARKS[0] + table() + MARKS[1] + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect").add_argument("run", type=Path, nargs="+")
    commands.add_parser("table")
    flags = parser.parse_args()
    if flags.command == "table":
        write_table()
    else:
        try:
            print(collect(flags.run))
        except (OSError, KeyError, ValueError) as error:
            sys.exit(f"error: {error}")
