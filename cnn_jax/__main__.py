"""What is done to datasets, before a run and to finished ones.

python -m cnn_jax data prepare mnist
python -m cnn_jax preflight experiments.lenet5_mnist --batch-size 256
python -m cnn_jax evaluate runs/lenet5_digits-1a2b3c4d
python -m cnn_jax reproduce runs/lenet5_digits-1a2b3c4d
"""

import contextlib
import dataclasses
import functools
import json as json_module
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from cnn_jax import data, ladder
from cnn_jax import preflight as preflights
from cnn_jax import reproduce as reproduction
from cnn_jax import verify_resume as verification
from cnn_jax.cli import (
    exit_on_user_error,
    find_experiment,
    run_script,
    usage_errors_in_one_line,
)
from cnn_jax.errors import UserError
from cnn_jax.evaluate import evaluate_run
from cnn_jax.experiment import Experiment
from cnn_jax.feed import Kind
from cnn_jax.train import Options

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
Script = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EXPERIMENT")]
Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
Unknown = tyro.conf.Suppress[tuple[str, ...]]
DataDir = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def preflight(experiment: Script, json: bool = False, *, flags: Unknown = ()) -> None:
    """Say what training will cost, in seconds and without training: work, memory, disk.

    All other flags are the experiment's own.

    Args:
        experiment: A module, experiments.lenet5_mnist, or a file.
        json: Print JSON instead of a table.
    """

    def report(experiment: Experiment, options: Options, folder: Path) -> None:
        found = preflights.preflight(experiment, options, folder)
        print(json_module.dumps(found)) if json else Console().print(preflights.table(found))

    run_script(find_experiment(experiment), flags, report)


def evaluate(
    run: Run,
    split: str | None = None,
    step: int | Literal["best"] | None = None,
    data_dir: DataDir = None,
    batch_size: int = 250,
    feed: Kind = "auto",
    json: bool = False,
) -> None:
    """Rebuild a run from its folder and evaluate a checkpoint: loss, top-1, top-5 and the count.

    Args:
        run: Run folder.
        split: Split of the run's dataset. Default: the one evaluated while training.
        step: Which checkpoint: a step, or best. Default: the last.
        data_dir: Where prepared datasets lie. Default: where the run had them.
        batch_size: Examples per batch; changes speed and memory, not the result.
        feed: Hold the split on the device, or stream it from disk.
        json: Print JSON instead of a table.
    """
    _show(evaluate_run(run, split, step, data_dir, batch_size, feed), json)


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
    holds evaluations to 0.0001 and retrained runs to 0.005.

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
    script = find_experiment(experiment)
    with contextlib.ExitStack() as stack:
        where = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = verification.verify_resume(script, flags, kills, where)
    for name in found.differing:
        print(f"differs: {name}")
    print(f"{'identical' if found.identical else 'NOT identical'} after {found.steps} steps")
    if not found.identical:
        raise SystemExit(1)


def data_prepare(
    name: Name,
    manual_dir: Path | None = None,
    data_dir: DataDir = None,
    size: int | None = None,
    channels: int = 3,
) -> None:
    """Prepare a dataset once, so that it can be read without network or TensorFlow.

    Args:
        name: mnist, fashion_mnist, usps, a TFDS name, or folder/NAME for a directory or tar of
            split/class/*.jpg.
        manual_dir: Folder of the original files, instead of a download.
        data_dir: Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        size: For folder/NAME: store photographs as SIZE × SIZE pixels.
        channels: For folder/NAME: 3 for colour, 1 for grey.
    """
    data.prepare(name, manual_dir, data_dir, size, channels)
    _show(data.describe(name, data_dir), json=False)


def data_list(data_dir: DataDir = None) -> None:
    """List the datasets that are prepared, and those that can be.

    Args:
        data_dir: Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """
    table = Table("dataset", "version", "splits")
    for name, version, splits in data.list_datasets(data_dir):
        table.add_row(name, version, splits)
    Console().print(table)


def data_info(name: Name, data_dir: DataDir = None, json: bool = False) -> None:
    """Describe a prepared dataset: splits, classes, image shape, mean and deviation.

    Args:
        name: Dataset, as `data list` shows it.
        data_dir: Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
        json: Print JSON instead of a table.
    """
    _show(data.describe(name, data_dir), json)


def ladder_command() -> None:
    """Print the ladder: every network's size and published error beside ours.

    Our figures come from the records in experiments/results, each made by the script it is named
    after.
    """
    table = Table(*ladder.HEADER, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in ladder.rows():
        table.add_row(*row)
    # Lines that a narrow terminal wraps are easier to read than cells that are cut.
    width = Console(width=1000).measure(table).maximum
    Console(width=max(Console().width, width)).print(table)


def _show(values: Mapping[str, Any], json: bool) -> None:
    if json:
        print(json_module.dumps(values))
        return
    table = Table(show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)


def _brief(value: Any) -> str:
    text = repr(value) if isinstance(value, float) else str(value)
    return text if len(text) < 60 or " " in text else f"{text[:16]}..."


def _one_of(commands: Mapping[str, Callable[..., Any]]) -> Any:
    """A type that tyro reads as sub-commands; the call comes back unmade, so that all flags
    are checked before anything runs.
    """

    def later(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def bind(*args: Any, **kwargs: Any) -> Callable[[], Any]:
            return functools.partial(command, *args, **kwargs)

        return bind

    return Union[  # noqa: UP007 (made of a table)
        tuple(
            Annotated[Any, tyro.conf.subcommand(name, constructor=later(command))]
            for name, command in commands.items()
        )
    ]


DataCommand = _one_of({"prepare": data_prepare, "list": data_list, "info": data_info})


def data_command(
    command: tyro.conf.OmitArgPrefixes[tyro.conf.OmitSubcommandPrefixes[DataCommand]],  # pyright: ignore
) -> None:
    """Prepare datasets, list them, describe one."""
    command()


COMMANDS = {
    "preflight": preflight,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "verify-resume": verify_resume,
    "data": data_command,
    "ladder": ladder_command,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sub-command that the command line names."""
    with exit_on_user_error():
        with usage_errors_in_one_line():
            run, others = tyro.cli(
                _one_of(COMMANDS),
                prog="python -m cnn_jax",
                description=__doc__,
                args=arguments,
                return_unknown_args=True,
            )
            if "flags" in run.keywords:
                run = functools.partial(run, flags=others)
            elif others:
                raise UserError(f"Unrecognized options: {' '.join(others)}")
        run()


if __name__ == "__main__":
    main()
