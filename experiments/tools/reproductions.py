"""Train the ladder's records again, elsewhere or with later code, and keep the verdicts.

    python -m experiments.tools.reproductions lenet5_mnist mlp_mnist --workdir again --data-dir DIR

This is `python -m cnn_jax reproduce` for each record named. Verdicts are kept in
`experiments/results/reproductions.json` as they come; a record that is written anew loses its
verdict. `python -m experiments.tools.report table` puts them into docs/ladder.md.
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from cnn_jax.check.comparison import RETRAINED, Comparison, means
from cnn_jax.check.reproduce import reproduce
from cnn_jax.command_line.ending import exit_on_user_error
from cnn_jax.command_line.flags import parse
from cnn_jax.errors import UserError
from cnn_jax.runs.environment import environment, file_sha256
from cnn_jax.runs.json_files import write_json
from experiments import ladder

HEADER = ("error again", "verdict")


@dataclasses.dataclass(frozen=True)
class Config:
    record: Annotated[tuple[str, ...], tyro.conf.Positional]  # names of the ladder's records
    workdir: Path | None = None  # an empty or new folder for the runs
    data_dir: Path | None = None  # where prepared datasets lie


def again(config: Config) -> None:
    """Train the runs of each record again, one record after the other."""
    if not config.record:
        raise UserError(f"name the records to train again; there are {', '.join(records())}")
    if config.workdir is None:
        raise UserError("--workdir DIR is needed: the folder to train in")
    if unknown := sorted(set(config.record) - set(records())):
        raise UserError(f"no record {', '.join(unknown)}; there are {', '.join(records())}")
    for name in config.record:
        path, started = records()[name], time.monotonic()
        comparisons = reproduce(path, data_dir=config.data_dir, scratch=config.workdir / name)
        seconds = round(time.monotonic() - started)
        verdicts = {**load(), name: verdict(path, comparisons) | {"seconds": seconds}}
        record = {"experiment": "reproductions", "verdicts": verdicts}
        write_json(ladder.RECORDS / "reproductions.json", record)
        print(f"{name}: {cells(name)[1]}", flush=True)


def records() -> dict[str, Path]:
    """The paths of the ladder's records by name, in its order."""
    paths = {name: ladder.RECORDS / f"{name}.json" for name in (r.record for r in ladder.results())}
    return {name: path for name, path in paths.items() if path.exists()}


def load() -> dict[str, Any]:
    """The verdicts by record name, without those of records that have changed since."""
    path = ladder.RECORDS / "reproductions.json"
    verdicts = json.loads(path.read_text(encoding="utf-8"))["verdicts"] if path.exists() else {}
    hashes = {name: file_sha256(record) for name, record in records().items()}
    return {name: v for name, v in verdicts.items() if v["sha256"] == hashes.get(name)}


def verdict(path: Path, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Sum up the comparisons of a record's runs, as reproductions.json keeps them."""
    rows = [
        [comparison.run, row.name, row.then, row.now, row.matches]
        for comparison in comparisons
        for row in comparison.rows
    ]
    return {
        "sha256": file_sha256(path),  # of the record
        "match": all(comparison.matches for comparison in comparisons),
        "runs": len(comparisons),
        "differences": comparisons[0].differences,
        "figures": [row for row in rows if not row[-1] or len(rows) < 100],  # or mismatches only
        "matching": sum(row[-1] for row in rows),
        "compared": len(rows),
        "environment": environment(),
    }


def cells(name: str) -> tuple[str, str]:
    """A record's cells under `HEADER`: the error when trained again, the verdict."""
    summary: Mapping[str, Any] | None = load().get(name)
    if summary is None:
        return "", "not trained again yet"
    kept = [row for row in summary["figures"] if ", mean of " not in row[0]]
    again = [1 - now for _, figure, _, now, _ in kept if figure == "accuracy"]
    # By the bound of today, whatever the bound was when the record was trained again.
    judged = [row for result in judge(summary) for row in result.rows]
    absent = summary["matching"] - sum(row[-1] for row in summary["figures"])  # and they matched
    matching = absent + sum(row.matches for row in judged)
    compared = summary["compared"] - len(summary["figures"]) + len(judged)
    word = "match" if matching == compared else "mismatch"
    share = f"{matching:,} of {compared:,}"
    return ladder.percent(again) if again else "", f"{word} ({share})"


def judge(summary: Mapping[str, Any]) -> list[Comparison]:
    """Compare the figures that a verdict keeps, run by run, and their means over the runs."""
    tolerance = RETRAINED if summary["differences"] else 0.0
    names = dict.fromkeys(row[0] for row in summary["figures"])
    results = []
    for name in (name for name in names if ", mean of " not in name):
        result = Comparison(name, summary["differences"], tolerance, retrained=True)
        rows = {row[1]: row for row in summary["figures"] if row[0] == name}
        then, now = ({figure: row[k] for figure, row in rows.items()} for k in (2, 3))
        result.figures(then, now)
        for figure in (figure for figure, value in then.items() if isinstance(value, str)):
            result.same(figure, then[figure], now[figure], must=not tolerance)
        results.append(result)
    return results + means("the record", results)


if __name__ == "__main__":
    with exit_on_user_error():
        config = parse(Config, description=__doc__)
        again(config)
