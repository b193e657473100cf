"""Check that a finished run, or a record of runs, gives again what it recorded.

A run folder is evaluated again from its checkpoint, or trained again from its receipt; the runs of
a record are always trained again. comparison.py has the verdict.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax import runs
from cnn_jax.check.comparison import EVALUATED, RETRAINED, Comparison, means
from cnn_jax.devices import process
from cnn_jax.errors import UserError
from cnn_jax.errors.wording import message
from cnn_jax.evaluate.exact import evaluate_run, evaluate_trained
from cnn_jax.models import count_parameters
from cnn_jax.runs import trust
from cnn_jax.runs.arrays import sha256
from cnn_jax.runs.checkpoint import Damaged
from cnn_jax.runs.environment import differences, environment
from cnn_jax.runs.json_files import check_fields, read_json
from cnn_jax.trained import Restored, describe_data, restore

# What a record holds, and one of an experiment's trainings besides.
RECORD: Mapping[str, type] = {"experiment": str, "config": dict, "environment": dict, "runs": list}
OF_TRAININGS: Mapping[str, type] = {"parameters": int, "step": int, "split": str, "count": int}


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
    process.check_devices()
    record = {} if target.is_dir() else _read_record(target)
    if scratch is None:
        raise UserError("training again needs a folder to train in: --workdir DIR")
    if not record:
        return [_train_again(target, data_dir, scratch)]
    script = script_of(target)
    trust.check(script)
    if "step" not in record:
        return [_make_record_again(record, script, data_dir, scratch)]
    entries = record["runs"]
    results = [_train_entry(record, entry, script, data_dir, scratch) for entry in entries]
    return results + means(record["experiment"], results)


def script_of(target: Path) -> Path:
    """The script that reproducing a run folder or a record executes.

    Raises:
        UserError: `target` is neither.
    """
    if target.is_dir():
        return target / "experiment.py"
    return target.resolve().parents[1] / f"{_read_record(target)['experiment']}.py"


def _read_record(path: Path) -> dict[str, Any]:
    """A record of runs. Raises UserError if the file is none."""
    try:
        record = read_json(path, RECORD)
        if "step" in record:
            check_fields(path, record, OF_TRAININGS)
            for run in record["runs"]:
                check_fields(path, run, {"seed": int})
        if record["runs"]:
            return record
        reason: object = "it has no runs"
    except (OSError, UserError) as error:
        reason = error
    raise UserError(f"{path} is neither a run folder nor a record of runs: {message(reason)}")


def _evaluate_again(folder: Path, data_dir: Path | None) -> Comparison:
    content, result = runs.finished(folder)
    last = runs.last_process(content)
    if last["options"].get("deterministic"):
        process.choose_deterministic_kernels()
    process.check_devices()
    changes = differences(last["environment"], environment())
    comparison = Comparison(str(folder), changes, EVALUATED if changes else 0.0)
    restored = _compare_folder(comparison, folder, content, result, data_dir)
    if restored is None:
        return comparison
    now = sha256(restored.state.params)
    comparison.same("parameters sha256", result.get("parameters_sha256"), now)
    trained = restored.on_devices(str(folder))
    batch_size, feed = last["options"]["eval_batch_size"], last["options"]["feed"]
    again = evaluate_trained(trained, result["split"], batch_size, feed)
    comparison.figures(result, again | {"parameters": _parameters(restored)})
    return comparison


def _train_again(folder: Path, data_dir: Path | None, scratch: Path) -> Comparison:
    content, result = runs.finished(folder)
    if content["overridden"]:
        raise UserError(f"{folder} cannot be trained again: its config was overridden on the way")
    trust.check(folder / "experiment.py")
    comparison = _train(
        folder / "experiment.py",
        {**content["config"], **content["several"], **runs.chosen(content["options"])},
        data_dir or content["options"]["data_dir"],
        scratch,
        content["environment"],
        result,
        runs.continuations(content),
    )
    comparison.run = str(folder)
    restored = _compare_folder(comparison, folder, content, result, data_dir)
    _, new = runs.finished(scratch)
    if restored is not None and new.get("parameters_sha256") != result.get("parameters_sha256"):
        params = restored.state.params, restore(scratch, new["step"], data_dir).state.params
        distance = _distance(*params)
        comparison.same("largest difference of a parameter", 0.0, distance, must=False)
    return comparison


def _compare_folder(
    comparison: Comparison,
    folder: Path,
    content: Mapping[str, Any],
    result: Mapping[str, Any],
    data_dir: Path | None,
) -> Restored | None:
    """Compare what lies in a run folder with the last checkpoint; None if that is damaged."""
    try:
        restored = restore(folder, result["step"], data_dir)
    except Damaged as error:
        comparison.same("checkpoint", "whole", str(error))
        return None
    data = describe_data(restored.experiment)
    comparison.same("training data sha256", content["dataset"].get("sha256"), data["sha256"])
    recorded = content["dataset"].get("eval_sha256")
    comparison.same("evaluation data sha256", recorded, data["eval_sha256"])
    receipt = restored.about["receipt"]
    changes = restored.changes + runs.process_changes(receipt, runs.last_process(content))
    comparison.same("receipt", "unchanged", "; ".join(changes) or "unchanged")
    lines = folder / "metrics.jsonl"
    unchanged = lines.exists() and lines.read_bytes() == restored.about["metrics_jsonl"].encode()
    comparison.same("metrics.jsonl", "unchanged", "unchanged" if unchanged else "changed")
    return restored


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
    continuations: Sequence[str] = (),
) -> Comparison:
    """Train with `flags` in `folder`, and compare with a recorded environment and result.

    Args:
        continuations: how the recorded run went on otherwise than it began, in words.
    """
    _run(script, [*runs.flags({**flags, "workdir": folder, "data_dir": data_dir})])
    described, new = runs.finished(folder)
    if new["split"] != result["split"]:  # a record may be of another split than training evaluates
        new |= evaluate_run(folder, result["split"])
    changes = [*continuations, *differences(environment, described["environment"])]
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
    comparison.figures(_numbers(record["runs"]), _numbers(again["runs"]))
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


def _parameters(restored: Restored) -> int:
    """The number of a network's parameters, as result.json counts them."""
    members = restored.experiment.members
    return count_parameters(restored.state.params) // (len(members.seeds) if members else 1)


def _distance(one: Any, two: Any) -> float:
    """The largest difference of any parameter between two networks."""
    largest = jax.tree.map(lambda a, b: np.abs(a.astype(float) - b).max(initial=0), one, two)
    return float(max(jax.tree.leaves(largest)))


def _numbers(tree: Any) -> dict[str, float]:
    """All numbers in nested lists and dictionaries by their path, except times."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return {n: v for n, v in named.items() if isinstance(v, (int, float)) and "seconds" not in n}
