"""The run folder. It holds all that is needed to build the run again:

config.json       the experiment's name, its resolved config, options and environment
experiment.py     a copy of the script; loading the run executes it
checkpoints/      one folder for each step kept, with a copy of the two files above in it
damaged/          checkpoints that were not whole and were passed over
metrics.jsonl     means over training steps, and evaluations; repeatable byte for byte
timing.jsonl      images/s and seconds, not repeatable
tensorboard/      the same curves for TensorBoard
result.json       the final, exact evaluation
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax.atomic_write import atomic_write
from cnn_jax.errors import UserError
from cnn_jax.runs.environment import differences, environment, imported_scripts

# The content of config.json.
NAMES = (
    "experiment", "config", "dataset", "several", "imports", "options", "environment", "overridden"
)  # fmt: skip
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
    return Path(source)


def default_folder(script: Path, config: Any, several: Mapping[str, Any] | None = None) -> Path:
    """`runs/EXPERIMENT-HASH`, with a hash of the config, the script and the scripts it imports.

    So the same command resumes its run, and a changed one starts another.
    """
    described = to_json(config) | dict(several or {}) | imported_scripts(script)
    content = json.dumps(described, sort_keys=True).encode() + script.read_bytes()
    return Path("runs") / f"{script.stem}-{hashlib.sha256(content).hexdigest()[:8]}"


def identity(
    script: Path,
    config: Any,
    dataset: dict[str, Any],
    several: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run is recognized by.

    Args:
        dataset: the name, version and hashes of its data.
        several: the seeds or values that are trained side by side, if there are several.
    """
    return {
        "experiment": script.stem,
        "config": to_json(config),
        "dataset": dataset,
        "several": dict(several or {}),
        "imports": imported_scripts(script),
    }


@contextlib.contextmanager
def claim(
    folder: Path, script: Path, identity: dict[str, Any], options: Any, override: bool = False
) -> Iterator[None]:
    """Create or reopen the run folder, and lock other programs out of it inside the block.

    `override` allows another config than the folder's, which it replaces; "overridden" in
    config.json keeps the earlier ones. The fields in `ORDER` may not change.

    Raises:
        UserError: the folder holds another run or something else, is in use or cannot be written.
    """
    is_new = not (folder / "config.json").exists()
    if not is_new:
        check(folder, script, _overriding(folder, identity) if override else identity)
    elif folder.exists():
        # A start that was killed before config.json was written may be repeated.
        partial = re.compile(r"experiment\.py|\.lock|\.config\.json\..*")
        if not (folder.is_dir() and all(partial.fullmatch(p.name) for p in folder.iterdir())):
            raise UserError(f"{folder} is not a run folder and not empty: choose another --workdir")
    content = identity | {"options": to_json(options), "environment": environment()}
    content |= {"overridden": []}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends
        if is_new:
            (folder / "experiment.py").write_bytes(script.read_bytes())
            # Last, and whole or not at all, since it makes the folder a run.
            _write_config(folder, content)
        elif override:
            saved = describe(folder)
            if saved["config"] != identity["config"]:
                overridden = [*saved["overridden"], saved["config"]]
                if (result := folder / "result.json").exists():  # the run had ended
                    result.rename(folder / f"result-{len(overridden)}.json")
                _write_config(folder, saved | identity | {"overridden": overridden})
    except BlockingIOError as error:
        raise UserError(f"{folder} is in use: another program is training there") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be made a run folder: {error}") from error
    with lock:
        yield


def _overriding(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The identity with the folder's config, except for the fields that may not be overridden."""
    kept = {name: value for name, value in identity["config"].items() if name in ORDER}
    return identity | {"config": describe(folder)["config"] | kept}


def _write_config(folder: Path, content: dict[str, Any]) -> None:
    with atomic_write(folder / "config.json") as file:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())


def check(folder: Path, script: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds a run of another experiment, config, dataset or script.

    Raises:
        UserError: there are differences; it names each.
    """
    old, new = _flat(describe(folder)), _flat(identity)
    differences = [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in dict.fromkeys((*new, *old))
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise UserError(
            f"{folder} holds another run ({'; '.join(differences)}): choose another --workdir"
        )
    if (folder / "experiment.py").read_bytes() != script.read_bytes():
        raise UserError(
            f"{script} has changed since the run in {folder} began: choose another --workdir, "
            f"or take the script back from {folder / 'experiment.py'}"
        )


def load(folder: Path) -> tuple[Callable[..., Any], Any, Path | None]:
    """Import the experiment of a run folder.

    Returns:
        `(build, config, data_dir)`: `build(config, data_dir)` is the experiment as it was trained.

    Raises:
        UserError: there is no run, or its script cannot be imported here.
    """
    content = describe(folder)
    name = f"cnn_jax_run_{content['experiment']}"
    spec = importlib.util.spec_from_file_location(name, folder / "experiment.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        config = module.Config(**content["config"])
    except (ImportError, AttributeError, TypeError, SyntaxError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / 'experiment.py'} cannot be loaded here: {reason}") from error
    data_dir = content["options"]["data_dir"]
    return module.build, config, data_dir and Path(data_dir)


def steps_per_epoch(folder: Path) -> float | None:
    """The length of an epoch; None if the run's config has no batch size."""
    described = describe(folder)
    batch_size = described["config"].get("batch_size")
    return described["dataset"]["train"] / batch_size if batch_size else None


def to_json(scalars: Any) -> dict[str, Any]:
    """Turn a dataclass of scalars into what JSON returns: floats as floats, paths absolute."""

    def value_of(field: dataclasses.Field) -> Any:
        value = getattr(scalars, field.name)
        if isinstance(value, Path):
            return str(value.expanduser().absolute())
        return float(value) if field.type in (float, "float") else value

    values = {field.name: value_of(field) for field in dataclasses.fields(scalars)}
    return json.loads(json.dumps(values))


def flags(scalars: Mapping[str, Any]) -> list[str]:
    """The command-line flags that set a config or options to these values; None is left out."""
    written: list[str] = []
    for name, value in scalars.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            written.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            written += [f"--{flag}", str(value)]
    return written


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


def receipt(folder: Path, seed: int) -> dict[str, Any]:
    """What is stored with each checkpoint: config.json, the script and this process's environment.

    A run may go on in another environment than it began in. {} if the folder is not a run folder.
    """
    if not (folder / "config.json").exists():
        return {}
    script = (folder / "experiment.py").read_text(encoding="utf-8")
    return describe(folder) | {"seed": seed, "script": script, "environment": environment()}


def describe(folder: Path) -> dict[str, Any]:
    """The content of config.json. Raises UserError if there is none or it is damaged."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {name: content[name] for name in NAMES}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run folder: it has no config.json") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'} is damaged: {error}") from error


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """What is compared of two identities, by the name that messages call it."""
    return {
        "experiment": identity["experiment"],
        **identity["config"],
        **identity["several"],
        **{f"the script {name}": sha[:12] for name, sha in identity["imports"].items()},
        **{f"the dataset's {name}": value for name, value in identity["dataset"].items()},
    }
