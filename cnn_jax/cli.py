"""The command line of an experiment script, which ends in `main(Config, build)`."""

import contextlib
import dataclasses
import errno
import importlib.util
import io
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import tyro
from absl import logging as absl_logging

from cnn_jax import runs
from cnn_jax.data import content_sha256
from cnn_jax.devices import parallel, process
from cnn_jax.devices.signals import late_request
from cnn_jax.errors import Stopped, UserError
from cnn_jax.experiment import Experiment
from cnn_jax.seeds import Several, folder_name, stack, unstacked
from cnn_jax.step import init_state
from cnn_jax.train import Options, train

Build = Callable[[Any, Path | None], Experiment]
Instead = Callable[[Experiment, Options, Path], Any]

_instead: ContextVar[Instead | None] = ContextVar("instead", default=None)


def main(
    config_class: type[Any],
    build: Build,
    options: Options = Options(),  # noqa: B008 (frozen)
    arguments: Sequence[str] | None = None,
) -> Any:
    """Train the experiment that the command line describes, or go on with it.

    Every field of the script's `Config`, of `train.Options` and of `several.Several` is a flag;
    `options` holds the defaults where the script wants others. A `UserError` ends the program with
    one line and exit code 2, a `Stopped` with one and 75.

    Returns:
        the final evaluation; a list of them where trainings were made one after the other.
    """
    with exit_on_user_error():
        script = runs.find_script(config_class, build)
        config, options, several = _parse(config_class, options, arguments)
        options.check()
        if options.deterministic:
            process.choose_deterministic_kernels()
        if _instead.get() is None:
            process.keep_compiled_programs()
        parallel.initialise_processes(
            options.distributed, options.coordinator, options.num_processes, options.process_id
        )
        process.keep_freed_memory()
        variants = several.variants(config)
        if variants == [{}]:
            experiment = build(config, options.data_dir)
            return _train(script, config, experiment, options)
        if _instead.get() is not None:
            raise UserError("this is of one training: leave out --seeds and --sweep")
        described = dataclasses.asdict(several)
        folder = options.workdir or runs.default_folder(script, config, described)
        stacked = stack(build, config, variants, options.data_dir, options.feed)
        if stacked is not None:
            where = dataclasses.replace(options, workdir=folder)
            result = _train(script, config, stacked, where, described)
            folders, each = [folder], unstacked(result)
        else:
            result, folders = [], [folder / folder_name(variant) for variant in variants]
            for variant, own in zip(variants, folders, strict=True):
                one = dataclasses.replace(config, **variant)
                experiment = build(one, options.data_dir)
                where = dataclasses.replace(options, workdir=own)
                with late_request() as came:
                    result.append(_train(script, one, experiment, where))
                if came() and own is not folders[-1]:
                    raise Stopped(f"stopped after {own}: the same command goes on with the next")
            each = result
        if parallel.is_primary() and options.stop_at is None:
            # Matplotlib and SciPy take seconds to import, which a single training is spared.
            from cnn_jax.evaluate.summary import sum_up

            sum_up(folder, folders, variants, each)
        return result


def _train(
    script: Path,
    config: Any,
    experiment: Experiment,
    options: Options,
    several: Mapping[str, Any] | None = None,
) -> Any:
    """Train in the run folder, or go on there, if it is this experiment's."""
    parallel.check_divides(experiment.batch_size, options.accumulate)
    jax.eval_shape(lambda: init_state(experiment))  # images too small are refused here
    folder = options.workdir or runs.default_folder(script, config)
    if (instead := _instead.get()) is not None:
        return instead(experiment, options, folder)
    identity = runs.identity(script, config, _describe_data(experiment), several)
    with contextlib.ExitStack() as held:
        refusal = ""
        if parallel.is_primary():
            try:
                claim = runs.claim(folder, script, identity, options, options.override_config)
                held.enter_context(claim)
                print(f"run folder: {folder}", flush=True)
            except UserError as error:
                refusal = str(error)
        if refusal := parallel.from_primary(refusal):
            raise UserError(refusal)
        runs.check(folder, script, identity)  # in every process: flags that differ are found
        if parallel.is_primary():
            for changed in runs.environment_changes(folder):
                print(f"warning: since this run began, {changed}", file=sys.stderr)
        return train(experiment, folder, options)


def find_experiment(name: str) -> Path:
    """The file of an experiment: `experiments.lenet5_mnist`, or a path that ends in .py.

    Raises:
        UserError: there is no such file.
    """
    try:
        found = None if name.endswith(".py") else importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    path = Path(name if found is None or found.origin is None else found.origin)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"no experiment {name}: give a module (experiments.lenet5_mnist) or a file")
    return path


def run_script(script: Path, arguments: Sequence[str], instead: Instead) -> None:
    """Run a script as a program, but call `instead(experiment, options, folder)` where it would
    train.

    Raises:
        UserError: it never comes to that.
    """
    reached: list[bool] = []

    def note(*found: Any) -> None:
        reached.append(True)
        instead(*found)

    token, argv = _instead.set(note), sys.argv
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        _instead.reset(token)
        sys.argv = argv
    if not reached:
        raise UserError(f"{script} is not an experiment: it does not call cnn_jax.cli.main")


def _describe_data(experiment: Experiment) -> dict[str, Any]:
    """Which examples a run is of: an unknown split is refused here."""
    data = experiment.dataset
    return {
        "name": data.name,
        "version": data.version,
        "sha256": data.statistics.sha256,  # of the pixels and labels of "train"
        "eval_sha256": content_sha256(data, experiment.eval_split),
        "train": data.num_examples(experiment.train_split),
        "eval": data.num_examples(experiment.eval_split),
    }


@contextlib.contextmanager
def usage_errors_in_one_line() -> Iterator[None]:
    """Around a call of tyro: what is wrong with the flags becomes a `UserError`, not a box."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as error:
        if not error.code:  # --help
            raise
        words = "".join(c if c not in "╭╮╰╯│─" else " " for c in said.getvalue()).split()
        raise UserError(" ".join(words)) from None


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn `UserError`, `Stopped` and a full disk into one line and their exit code."""
    _quieten_libraries()
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: the disk is full ({error}): make room, then go on", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(Stopped.EXIT_CODE) from None


def _quieten_libraries() -> None:
    """Orbax logs the traceback of every error that it then raises."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


def _parse(config_class: type[Any], options: Options, arguments: Sequence[str] | None) -> Any:
    flags = dataclasses.make_dataclass(
        "Flags",
        [
            ("recipe", tyro.conf.OmitArgPrefixes[config_class], config_class()),
            ("run", tyro.conf.OmitArgPrefixes[Options], options),
            ("several", tyro.conf.OmitArgPrefixes[Several], Several()),
        ],
    )
    about = (sys.modules[config_class.__module__].__doc__ or "").strip()
    with usage_errors_in_one_line():
        parsed: Any = tyro.cli(flags, args=arguments, description=about)
    return parsed.recipe, parsed.run, parsed.several
