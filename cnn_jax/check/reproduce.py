"""Check that a finished run, or a record of runs, gives again what it recorded.

A run folder is evaluated again from its checkpoint, or trained again from its receipt; the runs of
a record are always trained again. In the environment of the receipt every figure and every
parameter must be the same to the last bit. In another one float32 sums are rounded in another
order: an evaluation must then agree within `EVALUATED`, and a training, which amplifies such
changes, within `RETRAINED` or two standard errors, whichever is more.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import runs
from cnn_jax.data import content_sha256
from cnn_jax.devices import process
from cnn_jax.errors import UserError
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.runs.arrays import sha256
from cnn_jax.runs.checkpoint import Damaged
from cnn_jax.runs.environment import differences, environment, imported_scripts
from cnn_jax.trained import load_experiment, restore

EVALUATED = 1e-4  # allowed in each mean: one example of 10,000
RETRAINED = 5e-3
# Options that decide where a run takes place and not what it computes.
PLACES = ("workdir", "data_dir", "stop_at", "override_config") + (
    ("distributed", "coordinator", "num_processes", "process_id")
)


@dataclass
class Comparison:
    """What a run recorded, what it gives now, and whether the two match."""

    run: str
    differences: list[str]  # between the environments, in words
    tolerance: float  # allowed in the figures; 0 in the same environment
    retrained: bool = False  # if there is a tolerance, two standard errors are then allowed as well
    rows: list[tuple[str, Any, Any, bool]] = field(default_factory=list)  # name, then, now, match

    @property
    def matches(self) -> bool:
        return bool(self.rows) and all(row[-1] for row in self.rows)

    def figures(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Compare all numbers of an evaluation, counts included."""
        for name, value in then.items():
            if not isinstance(value, (int, float)) or name in ("seconds", "resumed_from", "seed"):
                continue
            new = now.get(name, float("nan"))
            slack = self.tolerance * max(1.0, abs(value)) * isinstance(value, float)
            if self.retrained and self.tolerance:
                slack = max(slack, 2 * standard_error(name, then))
            self.rows.append((name, value, new, bool(abs(new - value) <= slack)))

    def same(self, name: str, then: Any, now: Any, must: bool = True) -> None:
        """Compare two values without tolerance; if not `must`, a difference is only shown."""
        self.rows.append((name, then, now, then == now or not must))


def standard_error(name: str, result: Mapping[str, Any]) -> float:
    """The standard error of a figure of an evaluation of `count` examples; 0 for other numbers.

    Trainings that are rounded differently end as different networks, as those of two seeds do. With
    few test images their accuracies differ by more than `RETRAINED`. Most of a mean loss comes from
    the errors, so its relative uncertainty is taken to be that of their number.
    """
    value, count, right = (result.get(key, 0) for key in (name, "count", "accuracy"))
    if name in ("accuracy", "top5") and count:
        return math.sqrt(value * (1 - value) / count)
    if name == "loss" and count and right < 1:
        return value * math.sqrt(right / ((1 - right) * count))
    return 0.0


def reproduce(
    target: Path,
    retrain: bool = False,
    data_dir: Path | None = None,
    scratch: Path | None = None,
) -> list[Comparison]:
    """Check a run folder (one comparison) or a record in JSON (one for each of its runs).

    Args:
        retrain: train again instead of evaluating the checkpoint; always done for a record.
        data_dir: where prepared datasets lie; None is where the run had them.
        scratch: the folder to train in: new, empty, or left by an interrupted call, which is then
            resumed. Needed only for training.

    Raises:
        UserError: `target` is no finished run and no record, or its script fails.
    """
    if target.is_dir() and not retrain:
        return [_evaluate_again(target, data_dir)]
    record = {} if target.is_dir() else _read_record(target)
    if scratch is None:
        raise UserError("training again needs a folder to train in: --workdir DIR")
    if not record:
        return [_train_again(target, data_dir, scratch)]
    script = target.resolve().parents[1] / f"{record['experiment']}.py"
    if "step" not in record:
        return [_make_record_again(record, script, data_dir, scratch)]
    return [_train_entry(record, entry, script, data_dir, scratch) for entry in record["runs"]]


def _read_record(path: Path) -> dict[str, Any]:
    """A record of runs. Raises UserError if the file is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if {"experiment", "runs"} <= record.keys():
            return record
        reason = "it has no experiment or no runs"
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error)
    raise UserError(f"{path} is neither a run folder nor a record of runs: {reason}")


def _evaluate_again(folder: Path, data_dir: Path | None) -> Comparison:
    described, result = _finished(folder)
    if described["options"].get("deterministic"):
        process.choose_deterministic_kernels()
    now = environment()
    changes = differences(described["environment"], now)
    comparison = Comparison(str(folder), changes, EVALUATED if changes else 0.0)
    data = load_experiment(folder, data_dir).dataset
    recorded = described["dataset"]
    comparison.same("training data sha256", recorded["sha256"], data.statistics.sha256)
    eval_sha256 = content_sha256(data, result["split"])
    comparison.same("evaluation data sha256", recorded.get("eval_sha256", eval_sha256), eval_sha256)
    try:
        restored = restore(folder, result["step"], data_dir)
        script = (folder / "experiment.py").read_text(encoding="utf-8")
        comparison.same("script", restored.receipt.get("script", script) == script, True)
        if (imports := described["imports"]) is not None:
            now = imported_scripts(folder / "experiment.py")
            comparison.same("imported scripts", imports, now, True)
        comparison.same(
            "parameters sha256", result["parameters_sha256"], sha256(restored.state.params)
        )
        again = evaluate_run(
            folder,
            result["split"],
            result["step"],
            data_dir,
            described["options"]["eval_batch_size"],
            described["options"]["feed"],
        )
    except Damaged as error:
        comparison.same("checkpoint", "whole", str(error))
        return comparison
    comparison.figures({name: result[name] for name in again if name in result}, again)
    return comparison


def _train_again(folder: Path, data_dir: Path | None, scratch: Path) -> Comparison:
    described, result = _finished(folder)
    if described["overridden"]:
        raise UserError(f"{folder} cannot be trained again: its config was overridden on the way")
    comparison = _train(
        folder / "experiment.py",
        {**described["config"], **described["several"], **chosen(described["options"])},
        data_dir or described["options"]["data_dir"],
        scratch,
        described["environment"],
        result,
    )
    comparison.run = str(folder)
    _, new = _finished(scratch)
    if new.get("parameters_sha256") != result["parameters_sha256"]:
        comparison.same(
            "largest difference of a parameter", 0.0, _distance(folder, scratch, data_dir), False
        )
    return comparison


def _train_entry(
    record: Mapping[str, Any],
    entry: Mapping[str, Any],
    script: Path,
    data_dir: Path | None,
    scratch: Path,
) -> Comparison:
    """Train one of the runs of a record again."""
    flags = {**record["config"], **record.get("options", {}), "seed": entry["seed"]}
    result = {**entry, **{name: record[name] for name in ("parameters", "step", "split", "count")}}
    folder = scratch / f"seed-{entry['seed']}"
    comparison = _train(script, flags, data_dir, folder, record["environment"], result)
    comparison.run = f"{record['experiment']}, seed {entry['seed']}"
    return comparison


def _train(
    script: Path,
    flags: Mapping[str, Any],
    data_dir: Path | str | None,
    folder: Path,
    environment: Mapping[str, Any],
    result: Mapping[str, Any],
) -> Comparison:
    """Train with `flags` in `folder`, and compare with a recorded environment and result."""
    _run(script, [*runs.flags({**flags, "workdir": folder, "data_dir": data_dir})])
    described, new = _finished(folder)
    if new["split"] != result["split"]:  # a record may be of another split than training evaluates
        new |= evaluate_run(folder, result["split"])
    changes = differences(environment, described["environment"])
    comparison = Comparison("", changes, RETRAINED if changes else 0.0, retrained=True)
    comparison.figures(result, new)
    if "parameters_sha256" in result:
        old, now = result["parameters_sha256"], new["parameters_sha256"]
        comparison.same("parameters sha256", old, now, must=not changes)
    return comparison


def _make_record_again(
    record: Mapping[str, Any], script: Path, data_dir: Path | None, scratch: Path
) -> Comparison:
    """Run an experiment that is a program of its own and writes its record itself."""
    scratch.mkdir(parents=True, exist_ok=True)
    out = scratch / f"{script.stem}.json"
    folders = {"data_dir": data_dir, "workdir": scratch / "runs"}  # new, not the default one
    folders = {name: folder for name, folder in folders.items() if name in record["config"]}
    _run(script, runs.flags({**record["config"], **folders, "out": out}))
    again = json.loads(out.read_text(encoding="utf-8"))
    changes = differences(record["environment"], again["environment"])
    tolerance = RETRAINED if changes else 0.0
    comparison = Comparison(record["experiment"], changes, tolerance, retrained=True)
    for name, then in _numbers(record["runs"]).items():
        comparison.figures({name: then}, _numbers(again["runs"]))
    return comparison


def _run(script: Path, arguments: Sequence[str]) -> None:
    """Run a script as its user would, with its output on stderr."""
    done = subprocess.run(
        runs.command(script, arguments),
        env={**os.environ, **runs.search_path()},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{script} ended with exit code {done.returncode}: see above")


def _finished(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of config.json and result.json of a run that reached its last step."""
    described = runs.describe(folder)
    try:
        return described, json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not finished: it has no result.json") from error
    except ValueError as error:
        raise UserError(f"{folder / 'result.json'} is damaged: {error}") from error


def chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those of `PLACES`."""
    return {name: value for name, value in options.items() if name not in PLACES}


def _distance(one: Path, other: Path, data_dir: Path | None) -> float:
    """The largest difference in any parameter between two finished runs of one experiment."""
    params = [
        restore(folder, _finished(folder)[1]["step"], data_dir).state.params
        for folder in (one, other)
    ]
    largest = jax.tree.map(lambda a, b: np.abs(a.astype(float) - b).max(initial=0), *params)
    return float(max(jax.tree.leaves(largest)))


def _numbers(tree: Any) -> dict[str, float]:
    """All numbers in nested lists and dictionaries by their path, except times."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return {n: v for n, v in named.items() if isinstance(v, (int, float)) and "seconds" not in n}
