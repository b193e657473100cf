"""`reproduce` and `verify-resume`: check a run against its record, and the resume law."""

import contextlib
import dataclasses
import importlib.util
import json as json_module
import tempfile
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from cnn_jax.check import reproduce as reproduction
from cnn_jax.check import resume as verification
from cnn_jax.command_line.flags import local_path
from cnn_jax.commands.arguments import (
    Flag,
    RunDataDir,
    Trust,
    argument,
    check_out,
    trust_script,
    trust_scripts,
)
from cnn_jax.errors import UserError


def reproduce(
    run: Annotated[tyro.conf.Positional[Path], argument("RUN_OR_RECORD")],
    retrain: Flag = False,
    workdir: Annotated[Path | None, argument("DIR", default="none; training needs one")] = None,
    data_dir: RunDataDir = None,
    trust: Trust = False,
    json: Flag = False,
) -> None:
    """Evaluate a finished run again, or train it again, and compare.

    The results are compared with those that the run recorded. In the same environment all figures
    and parameters must agree to the last bit. Where the environment differs, the differences are
    printed, and evaluations must agree within 0.0001, retrained runs within twice the standard
    error of a difference between two networks on that many examples. The exit code is 0 for a
    match, 1 for a mismatch.

    Args:
        run: Run folder; or a record such as experiments/results/lenet5_digits.json, whose runs are
            always trained again.
        retrain: Train again from the receipt and compare the parameters too.
        workdir: Folder for the runs that are trained again; it is kept.
        json: Print JSON instead of tables.
    """
    trust_scripts(trust, (run,))
    comparisons = reproduction.reproduce(run, retrain, data_dir, workdir)
    for comparison in comparisons:
        if json:
            described = dataclasses.asdict(comparison) | {"match": comparison.matches}
            print(json_module.dumps(described))
            continue
        for difference in comparison.differences:
            Console().print(f"environment: {difference}", highlight=False, soft_wrap=True)
        table = Table("", "recorded", "now", "allowed", "", title=comparison.run)
        for name, then, now, allowed, matches in comparison.rows:
            bound = f"± {allowed:.2g}" if allowed else ""
            verdict = "match" if matches else "MISMATCH"
            table.add_row(name, *map(_brief, (then, now)), bound, verdict)
        Console().print(table)
        print("match" if comparison.matches else "mismatch")
    if not all(comparison.matches for comparison in comparisons):
        raise SystemExit(1)


def verify_resume(
    experiment: Annotated[tyro.conf.Positional[str], argument("EXPERIMENT")],
    kills: Annotated[int, argument("INT")] = 3,
    scratch: Annotated[Path | None, argument("DIR", default="a temporary one")] = None,
    *,
    flags: tyro.conf.Suppress[tuple[str, ...]] = (),
) -> None:
    """Check that a run with kills ends bit-identical to one without.

    The experiment is trained twice. Parameters, optimizer state, metrics and results are compared;
    the exit code is 0 if all are the same, else 1. All other flags are passed to the experiment; a
    few epochs are enough.

    Args:
        experiment: A module such as experiments.lenet5_digits, or a file.
        kills: Number of kills, at random instants; every second one hits a checkpoint being saved.
        scratch: New or empty folder for the two runs; it is kept.
    """
    check_out(scratch, flag="--scratch")
    script = _find_script(str(local_path(experiment)))
    trust_script(script, script.absolute().parent)  # which training notes too, where it can
    with contextlib.ExitStack() as stack:
        folder = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        verdict = verification.verify_resume(script, flags, kills, folder)
    for name in verdict.differing:
        print(f"differs: {name}")
    print(f"{'identical' if verdict.identical else 'NOT identical'} after {verdict.steps} steps")
    if not verdict.identical:
        raise SystemExit(1)


def _find_script(name: str) -> Path:
    """The file of an experiment, named as a module or as a file.

    Raises:
        UserError: there is no such file.
    """
    try:
        spec = None if name.endswith(".py") else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    path = Path(name if spec is None or spec.origin is None else spec.origin)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"no experiment {name}: give a module (experiments.lenet5_mnist) or a file")
    return path


def _brief(value: Any) -> str:
    text = repr(value) if isinstance(value, float) else str(value)
    return text if len(text) < 60 or " " in text else f"{text[:16]}..."
