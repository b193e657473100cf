"""`reproduce` and `verify-resume`: runs against what they recorded, and against themselves."""

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
from cnn_jax.commands.arguments import DataDir, Script, Unknown
from cnn_jax.errors import UserError


def reproduce(
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_OR_RECORD")],
    retrain: bool = False,
    workdir: Path | None = None,
    data_dir: DataDir = None,
    json: bool = False,
) -> None:
    """Evaluate a finished run again, or train it again, and compare with what it recorded.

    Exit code 0 says match, 1 mismatch. In the environment of the receipt all figures and parameters
    must be the same to the last bit; where the environment differs, it says so and in what, and
    holds evaluations to 0.0001 and retrained runs to 0.005 or two standard errors.

    Args:
        run: Run folder, or a record such as experiments/results/lenet5_digits.json, whose runs are
            always trained again.
        retrain: Train again from the receipt and compare the parameters too.
        workdir: Folder for what is trained again; it stays. Needed for that only.
        data_dir: Where prepared datasets lie. Default: where the run had them.
        json: Print JSON instead of tables.
    """
    comparisons = reproduction.reproduce(run, retrain, data_dir, workdir)
    for found in comparisons:
        if json:
            print(json_module.dumps({**dataclasses.asdict(found), "match": found.matches}))
            continue
        for difference in found.differences:
            Console().print(f"environment: {difference}", highlight=False, soft_wrap=True)
        table = Table("", "recorded", "now", "", title=found.run)
        for name, then, now, matches in found.rows:
            table.add_row(name, *map(_brief, (then, now)), "match" if matches else "MISMATCH")
        Console().print(table)
        print("match" if found.matches else "mismatch")
    if not all(found.matches for found in comparisons):
        raise SystemExit(1)


def verify_resume(
    experiment: Script,
    kills: int = 3,
    scratch: Path | None = None,
    *,
    flags: Unknown = (),
) -> None:
    """Train an experiment straight, and again with kills at random instants, and compare the two.

    Parameters, optimizer state, metrics and results must be the same, bit for bit: exit code 0,
    else 1. All other flags are the experiment's own; a few epochs are enough.

    Args:
        experiment: A module, experiments.lenet5_digits, or a file.
        kills: How often the second run is killed; every second time while it saves.
        scratch: Folder for the two runs; it stays. Default: one that goes.
    """
    script = _find_script(experiment)
    with contextlib.ExitStack() as stack:
        where = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = verification.verify_resume(script, flags, kills, where)
    for name in found.differing:
        print(f"differs: {name}")
    print(f"{'identical' if found.identical else 'NOT identical'} after {found.steps} steps")
    if not found.identical:
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
