"""The command line of an experiment script, which ends in `main(Config, build)`."""

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console

from cnn_jax import runs
from cnn_jax.check import preflight as costs
from cnn_jax.check.start import check_start
from cnn_jax.command_line.ending import exit_on_user_error, outliving_readers
from cnn_jax.command_line.flags import parse
from cnn_jax.devices import agreement, group, parallel, process
from cnn_jax.devices.signals import StopAsked, stop_requests
from cnn_jax.errors import Stopped, UserError, warn
from cnn_jax.errors.ranges import check_finite
from cnn_jax.experiment import Experiment
from cnn_jax.options import Options
from cnn_jax.runs.environment import file_sha256, imported_scripts
from cnn_jax.seeds import Several, Variant, folder_name, stack, unstacked
from cnn_jax.train import train
from cnn_jax.trained import describe_data

Build = Callable[[Any, Path | None], Experiment]

# Options that each process of a run may have for itself.
OF_PROCESS = (
    "workdir", "data_dir", "readers", "distributed", "coordinator", "num_processes", "process_id"
)  # fmt: skip


@dataclass(frozen=True)
class Preflight:
    """The flags that ask for a run's cost before it starts."""

    preflight: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the work, memory and disk that the run will take, and exit without training."""
    preflight_json: tyro.conf.FlagCreatePairsOff[bool] = False
    """The same, printed as JSON."""


def main(
    config_class: type[Any],
    build: Build,
    options: Options = Options(),  # noqa: B008 (frozen)
    arguments: Sequence[str] | None = None,
) -> Any:
    """Train the experiment that the command line describes, or resume it.

    Every field of the script's `Config`, of `options.Options`, `seeds.Several` and `Preflight` is a
    flag; `options` holds the defaults where the script wants others. A `UserError` ends the program
    with one line and exit code 2, a `Stopped` with one line and exit code 75.

    Returns:
        the final evaluation; a list of them if trainings ran one after the other; None if only the
        cost was asked for.
    """
    with (
        exit_on_user_error(),
        outliving_readers(),
        stop_requests() as stop_asked,
        process.usual_promotion(),
    ):
        script = runs.find_script(config_class, build)
        config, options, several, cost = _parse(script, config_class, options, arguments)
        options.check()
        variants = several.variants(config)
        for variant in variants:
            check_finite(dataclasses.replace(config, **variant))
        asks_for_cost = cost.preflight or cost.preflight_json
        if asks_for_cost and variants != [{}]:
            raise UserError("--preflight is for one training: leave out --seeds and --sweep")

        command = _in_common(script, config, options, several, cost)
        with _prepared_process(options, command, compiles=not asks_for_cost):
            if asks_for_cost:
                folder = options.workdir or runs.default_folder(script, config)
                _print_cost(build(config, options.data_dir), options, folder, cost.preflight_json)
                return None
            if variants == [{}]:
                experiment = build(config, options.data_dir)
                return _train(script, config, experiment, options, None, stop_asked)
            return _train_variants(script, config, build, options, several, variants, stop_asked)


def _parse(
    script: Path, config_class: type[Any], options: Options, arguments: Sequence[str] | None
) -> tuple[Any, Options, Several, Preflight]:
    """Read the flags of a script; without `arguments`, those that it was called with."""
    flags = dataclasses.make_dataclass(
        "Flags",
        [
            ("recipe", tyro.conf.OmitArgPrefixes[config_class], config_class()),
            ("run", tyro.conf.OmitArgPrefixes[Options], options),
            ("seeds", tyro.conf.OmitArgPrefixes[Several], Several()),
            ("preflight", tyro.conf.OmitArgPrefixes[Preflight], Preflight()),
        ],
    )
    about = (sys.modules[config_class.__module__].__doc__ or "").strip()
    parsed = parse(flags, arguments, description=about, prog=called_as(script))
    return parsed.recipe, parsed.run, parsed.seeds, parsed.preflight


def called_as(script: Path) -> str:
    """The command that runs a script, as it was called, to be pasted into a shell."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # None if a file was started
    if spec is not None and spec.origin == str(script):
        return f"python -m {spec.name}"
    here = Path.cwd()
    path = script.relative_to(here) if here in script.parents else script
    return shlex.join(["python", str(path)])


def _in_common(
    script: Path, config: Any, options: Options, several: Several, cost: Preflight
) -> dict[str, Any]:
    """List what must be the same in the commands of all processes of a run: {name: JSON value}."""
    hashes = {script.stem: file_sha256(script)} | imported_scripts(script)
    values: dict[str, Any] = {}
    for part in (config, options, several, cost):
        values |= runs.to_json(part)
    flags = {name: value for name, value in values.items() if name not in OF_PROCESS}
    return {
        **{f"--{name.replace('_', '-')}": value for name, value in flags.items()},
        **{f"the script {name}": sha for name, sha in hashes.items()},
    }


@contextlib.contextmanager
def _prepared_process(
    options: Options, command: Mapping[str, Any], compiles: bool
) -> Iterator[None]:
    """Make the settings that must precede JAX's first use of a device; join other processes.

    Args:
        command: what must be the same in all of them.
    """
    if options.deterministic:
        process.choose_deterministic_kernels()
    if compiles:
        process.keep_compiled_programs()
    process.raise_file_limit()
    place = group.find_place(
        options.distributed, options.coordinator, options.num_processes, options.process_id
    )
    with group.together(place, {**command, **(agreement.surroundings() if place else {})}):
        process.check_devices()
        if place is not None:
            agreement.check_same(agreement.equipment())
        process.keep_freed_memory()
        yield


def _print_cost(experiment: Experiment, options: Options, folder: Path, as_json: bool) -> None:
    """Print what training in `folder` would take, once for all processes."""
    report = costs.preflight(experiment, options, folder)
    if not parallel.is_primary():
        return
    if as_json:
        print(json.dumps(report))
    else:
        Console().print(costs.table(report))


def _train_variants(
    script: Path,
    config: Any,
    build: Build,
    options: Options,
    several: Several,
    variants: Sequence[Variant],
    stop_asked: StopAsked,
) -> Any:
    """Train every variant of `config` and summarise them: side by side in one run folder if they
    can be stacked, else one after the other in a run folder each.
    """
    flags = dataclasses.asdict(several)
    folder = options.workdir or runs.default_folder(script, config, flags)
    options = dataclasses.replace(options, workdir=folder)
    stacked = stack(build, config, variants, options.data_dir, options.feed)
    if stacked is not None:
        result = _train(script, config, stacked, options, flags, stop_asked)
        folders, results = [folder], unstacked(result)
    else:
        folders = [folder / folder_name(variant) for variant in variants]
        for variant in variants:  # all of them, before the first is trained for hours
            check_start(build(dataclasses.replace(config, **variant), options.data_dir), options)
        result = results = _train_in_turn(
            script, config, build, options, variants, folders, stop_asked
        )
    if parallel.is_primary() and options.stop_at is None:
        # Imports Matplotlib and SciPy, which takes seconds that a single training is spared.
        from cnn_jax.evaluate.summary import sum_up

        sum_up(folder, folders, variants, results)
    return result


def _train_in_turn(
    script: Path,
    config: Any,
    build: Build,
    options: Options,
    variants: Sequence[Variant],
    folders: Sequence[Path],
    stop_asked: StopAsked,
) -> list[Any]:
    """Train the variants one after the other, each in its folder.

    Raises:
        Stopped: a signal came, even if it was too late to stop the training that it came in.
    """
    results = []
    for variant, folder in zip(variants, folders, strict=True):
        varied = dataclasses.replace(config, **variant)
        experiment = build(varied, options.data_dir)
        where = dataclasses.replace(options, workdir=folder)
        results.append(_train(script, varied, experiment, where, None, stop_asked))
        # Several processes would have to agree on the place, which they do inside trainings.
        if folder is not folders[-1] and jax.process_count() == 1 and stop_asked(0):
            raise Stopped(f"stopped after {folder}: the same command continues with the next one")
    return results


def _train(
    script: Path,
    config: Any,
    experiment: Experiment,
    options: Options,
    several: Mapping[str, Any] | None,
    stop_asked: StopAsked,
) -> Any:
    """Train in the run folder, or resume there if it holds this experiment's run."""
    check_start(experiment, options)
    folder = options.workdir or runs.default_folder(script, config)
    identity = runs.identity(script, config, describe_data(experiment), several)
    agreement.check_same({f"the dataset's {name}": x for name, x in identity["dataset"].items()})
    with _claimed(folder, script, identity, options) as begin:

        def say_and_begin(step: int) -> None:
            if parallel.is_primary():
                print(f"run folder: {folder}", flush=True)
            begin(step)

        return train(experiment, folder, options, stop_asked, say_and_begin)


@contextlib.contextmanager
def _claimed(
    folder: Path, script: Path, identity: dict[str, Any], options: Options
) -> Iterator[Callable[[int], None]]:
    """Hold the run folder: the first process makes or locks it, and all end if it may not.

    Yields `begin` of `runs.claim`, which in the other processes does nothing.
    """

    begin: Callable[[int], None] = lambda step: None  # noqa: E731
    with contextlib.ExitStack() as held:
        refusal = ""
        if parallel.is_primary():
            try:
                claim = runs.claim(folder, script, identity, options, options.override_config)
                begin = held.enter_context(claim)
            except UserError as error:
                refusal = str(error)
        if refusal := parallel.from_primary(refusal):
            raise UserError(refusal)
        # In every process: its --workdir may be another folder, which the first does not see.
        runs.check(folder, script, identity, options.override_config)
        if parallel.is_primary():
            for change in runs.environment_changes(folder):
                warn(f"since this run began, {change}")
        yield begin
