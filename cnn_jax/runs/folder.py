"""The run folder. It holds all that is needed to build the run again:

config.json       the receipt: the experiment's name, its resolved config, options, environment
experiment.py     a copy of the script; loading the run executes it
checkpoints/      one folder for each step kept, with a copy of the receipt and of metrics.jsonl
damaged/          checkpoints that were not whole and were passed over
metrics.jsonl     means over training steps, and evaluations; repeatable byte for byte
timing.jsonl      images/s and seconds, not repeatable
tensorboard/      the same curves for TensorBoard
result.json       the final, exact evaluation
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, get_type_hints

from cnn_jax.errors import UserError, warn
from cnn_jax.errors.wording import brief, contrast, message
from cnn_jax.runs import trust
from cnn_jax.runs.environment import differences, environment, file_sha256, imported_scripts
from cnn_jax.runs.json_files import write_json
from cnn_jax.runs.receipt import (
    CONTENT,
    changes,
    describe,
    last_process,
    process_changes,
    script_text,
)
from cnn_jax.runs.settings import to_json

# Fields of a config that decide which examples a step sees, and under which random keys.
ORDER = ("dataset", "train_split", "batch_size", "seed")


def find_script(config_class: type[Any], build: Callable[..., Any]) -> Path:
    """Find the file of an experiment: the program if it defines one of the two, else `build`'s.

    Raises:
        UserError: there is no such file, or the names in it are not `Config` and `build`, which a
            copy of it is loaded by.
    """
    owners = [x.__module__ for x in (config_class, build)]
    module = sys.modules["__main__" if "__main__" in owners else build.__module__]
    named = (getattr(module, "Config", None), getattr(module, "build", None))
    if named != (config_class, build):
        raise UserError(f"{module.__name__} must name its configuration Config, its function build")
    source = getattr(module, "__file__", None)
    if source is None or not Path(source).exists():
        raise UserError("an experiment must be a file: its copy is what makes a run repeatable")
    try:
        Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8, as which runs keep it: save it as that") from error
    return Path(source)


def default_folder(script: Path, config: Any, several: Mapping[str, Any] | None = None) -> Path:
    """`runs/EXPERIMENT-HASH`, with a hash of the config, the script and the scripts it imports.

    So the same command resumes its run, and a changed one starts another.
    """
    described = to_json(config) | dict(several or {}) | imported_scripts(script)
    content = json.dumps(described, sort_keys=True).encode() + script.read_bytes()
    return Path("runs") / f"{script.stem}-{hashlib.sha256(content).hexdigest()[:8]}"


@contextlib.contextmanager
def claim(
    folder: Path, script: Path, identity: dict[str, Any], options: Any, override: bool = False
) -> Iterator[Callable[[int], None]]:
    """Create or reopen the run folder, and lock other programs out of it inside the block.

    Args:
        override: allow another config than the folder's, which it replaces; "overridden" in
            config.json keeps the earlier ones. The fields in `ORDER` may not change.

    Yields:
        a function to be called with the step at which training starts, once nothing can refuse it
        any more: it writes down the config and process with which a run goes on.

    Raises:
        UserError: the folder holds another run or something else, is in use or cannot be written.
    """
    is_new = not (folder / "config.json").exists()
    if not is_new:
        check(folder, script, identity, override)
    elif folder.exists():
        # A start that was killed before config.json was written may be repeated.
        partial_start = re.compile(r"experiment\.py|\.lock|\.config\.json\..*")
        if not (folder.is_dir() and all(partial_start.fullmatch(p.name) for p in folder.iterdir())):
            raise UserError(f"{folder} is not a run folder and not empty: choose another --workdir")
    content = identity | {
        "origin": str(script.absolute()),
        "options": to_json(options),
        "environment": environment(),
        "continued": [],
        "overridden": [],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        if is_new:
            (folder / "experiment.py").write_bytes(script.read_bytes())
            # Last, and whole or not at all, since it makes the folder a run.
            _write_config(folder, content)
    except BlockingIOError as error:
        raise UserError(f"{folder} is in use: another program is training there") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be made a run folder: {error}") from error
    with contextlib.suppress(OSError, RuntimeError):  # then opening the run will ask
        trust.remember(script, script.absolute().parent)
    with lock:
        yield partial(_begin, folder, content)


def _lock(folder: Path) -> IO[str]:
    """Lock the folder until the file that is returned is closed. Raises BlockingIOError."""
    lock = (folder / ".lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends
    except OSError as error:
        # Some cluster file systems have no locks.
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL):
            raise
        warn(f"the file system of {folder} has no locks: make sure that nothing else trains there")
    return lock


def _begin(folder: Path, content: Mapping[str, Any], step: int) -> None:
    """Write down in config.json how the run in `folder` goes on from `step`, if that is news.

    Args:
        content: what config.json would be if the run began now.
    """
    saved = describe(folder)
    updated, result = dict(saved), folder / "result.json"
    if saved["config"] != content["config"]:
        updated["config"] = content["config"]
        updated["overridden"] = [*saved["overridden"], saved["config"]]
    # The run had ended, and goes on; or the checkpoints that the result was of are gone.
    if result.exists() and (saved["config"] != content["config"] or step < _step_of(result)):
        numbers = itertools.count(1)
        unused = (folder / f"result-{number}.json" for number in numbers)
        result.rename(next(path for path in unused if not path.exists()))
    if (data_dir := content["options"]["data_dir"]) is not None:  # the same data may have moved
        updated["options"] = saved["options"] | {"data_dir": data_dir}
    process = {name: content[name] for name in ("options", "environment")}
    # A process that finds the run ended computes nothing that anybody keeps.
    if process_changes(last_process(saved), process) and not result.exists():
        updated["continued"] = [*saved["continued"], {"step": step, **process}]
    if updated != saved:
        _write_config(folder, updated)


def _step_of(result: Path) -> int:
    """The step that a result is of, 0 if it is damaged."""
    try:
        return int(json.loads(result.read_bytes())["step"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0


def _write_config(folder: Path, content: dict[str, Any]) -> None:
    write_json(folder / "config.json", {name: content[name] for name in CONTENT})


def check(folder: Path, script: Path, identity: dict[str, Any], override: bool = False) -> None:
    """Refuse a folder that holds a run of another experiment, config, dataset or script.

    Args:
        override: allow another config, but for the fields in `ORDER`.

    Raises:
        UserError: there are differences; it names them all.
    """
    if override:
        kept = {name: value for name, value in identity["config"].items() if name in ORDER}
        identity = identity | {"config": describe(folder)["config"] | kept}
    phrases = [
        "{} is {} there and {} here".format(name, *contrast(there, here))
        for name, there, here in changes(describe(folder), identity)
    ]
    if phrases:
        raise UserError(
            f"{folder} holds another run ({'; '.join(phrases)}): choose another --workdir"
        )
    if script_text(folder) != script.read_text(encoding="utf-8"):
        raise UserError(
            f"{script} has changed since the run in {folder} began: choose another --workdir, "
            f"or take the script back from {folder / 'experiment.py'}"
        )


def load(folder: Path) -> tuple[Callable[..., Any], Any, Path | None]:
    """Import the experiment of a run folder, which executes its script.

    Returns:
        `(build, config, data_dir)`: `build(config, data_dir)` is the experiment as it was trained.

    Raises:
        UserError: there is no run, or its script is not trusted or cannot be imported here.
    """
    content = describe(folder)
    script = folder / "experiment.py"
    trust.check(script)
    name = f"cnn_jax_run_{content['experiment']}"
    spec = importlib.util.spec_from_file_location(name, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    origin = Path(content["origin"]).parent
    # A stranger's receipt may name any folder, and a script that is trusted would import from it.
    # Last, so that nothing is found there that this process has elsewhere.
    if str(origin) not in sys.path and trust.has_scripts(origin):
        sys.path.append(str(origin))
    try:
        spec.loader.exec_module(module)
        config = module.Config(**content["config"])
        build = module.build
    except ImportError as error:
        raise UserError(
            f"{script} cannot be loaded here: {error}; set PYTHONPATH to the folder that has it, "
            f"or, if that is {origin}, repeat the command with --trust"
        ) from error
    except Exception as error:  # whatever a script may raise
        reason = f"{type(error).__name__}: {message(error)}"
        raise UserError(f"{script} cannot be loaded here: {reason}") from error
    if shadowed := _shadowed(content["imports"], origin):
        raise UserError(
            f"{folder} needs {shadowed[0]}, and this process has {shadowed[1]} under that name: "
            "open the runs one at a time, from another folder"
        )
    if wrong := _mistyped(config, module.Config):
        raise UserError(f"{folder / 'config.json'} is damaged: {wrong}")
    data_dir = content["options"]["data_dir"]
    return build, config, None if data_dir is None else Path(data_dir)


def _shadowed(imports: Mapping[str, str], origin: Path) -> tuple[Path, str] | None:
    """A file that the script of a run needs, and that is there, with the file in its place."""
    for name, sha256 in imports.items():
        loaded = getattr(sys.modules.get(name), "__file__", None)
        stem = origin / name.replace(".", "/")
        for needed in (stem / "__init__.py", Path(f"{stem}.py")):
            if not (loaded and needed.is_file() and Path(loaded).is_file()):
                continue
            if file_sha256(needed) == sha256 != file_sha256(Path(loaded)):
                return needed, loaded
    return None


def _mistyped(config: Any, config_class: type[Any]) -> str:
    """A field whose value is not of its declared type, in words; "" if there is none."""
    for name, kind in get_type_hints(config_class).items():
        value = getattr(config, name)
        kinds = (int, float) if kind is float else (kind,)
        if kind in (int, float, bool, str) and type(value) not in kinds:
            return f"{name} is {brief(value)}"
    return ""


def steps_per_epoch(folder: Path) -> float | None:
    """The length of an epoch; None if the run's config has no batch size."""
    described = describe(folder)
    batch_size = described["config"].get("batch_size")
    return described["dataset"]["train"] / batch_size if batch_size else None


def command(script: Path, arguments: Sequence[str]) -> list[str]:
    """The command line that runs a script with this Python."""
    return [sys.executable, str(script), *arguments]


def search_path() -> dict[str, str]:
    """The environment variable that lets a script import this package and the current folder."""
    here = [os.getcwd(), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, here))}


def environment_changes(folder: Path) -> list[str]:
    """The differences between this process's environment and the one that the run began in."""
    return differences(describe(folder)["environment"], environment())
