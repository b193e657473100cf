"""The run folder: what a run is made of, so that it can be built again from the folder alone.

config.json       the experiment's name, its resolved config, options and environment
experiment.py     the script as it was; loading a run executes this copy
checkpoints/      one folder per step kept, each with a copy of the two above
damaged/          checkpoints that were found not to be whole, and passed over
metrics.jsonl     training means and evaluations, repeatable byte for byte
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

# Fields of a config that decide which examples a step sees, and under which keys.
ORDER = ("dataset", "train_split", "batch_size", "seed")


def find_script(config_class: type[Any], build: Callable[..., Any]) -> Path:
    """The experiment's file: the program itself if one of the two is defined there, else `build`'s.

    Raises:
        UserError: there is no such file, or it does not name the two `Config` and `build`, by which
            a copy of it is loaded again.
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
    """`runs/EXPERIMENT-HASH`, of config and script, and of the scripts that it imports: the same
    resumes, another starts anew.
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
    """What makes a run the run that it is; `dataset` says of which data, `several` how often it is
    trained side by side, if more than once.
    """
    own = {"experiment": script.stem, "config": to_json(config), "dataset": dataset}
    return own | {"several": dict(several or {}), "imports": imported_scripts(script)}


@contextlib.contextmanager
def claim(
    folder: Path, script: Path, identity: dict[str, Any], options: Any, override: bool = False
) -> Iterator[None]:
    """Make the run folder, or go on with it, and keep other programs out of it meanwhile.

    `override` lets it go on with another config, which is then the run's; "overridden" in
    config.json keeps the ones before. What is in `ORDER` must stay.

    Raises:
        UserError: the folder holds another run or something else, is in use or cannot be written.
    """
    is_new = not (folder / "config.json").exists()
    if not is_new:
        check(folder, script, _overriding(folder, identity) if override else identity)
    elif folder.exists():
        # What a start that was killed here left.
        ours = re.compile(r"experiment\.py|\.lock|\.config\.json\..*")
        if not (folder.is_dir() and all(ours.fullmatch(path.name) for path in folder.iterdir())):
            raise UserError(f"{folder} is not a run folder and not empty: choose another --workdir")
    content = identity | {"options": to_json(options), "environment": environment()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes when the process does
        if is_new:
            (folder / "experiment.py").write_bytes(script.read_bytes())
            # The config comes last and whole: it is what makes the folder a run.
            _write_config(folder, content)
        elif override:
            there = describe(folder)
            if there["config"] != identity["config"]:
                before = [*there["overridden"], there["config"]]
                if (result := folder / "result.json").exists():  # of the end that it had
                    result.rename(folder / f"result-{len(before)}.json")
                _write_config(folder, there | identity | {"overridden": before})
    except BlockingIOError as error:
        raise UserError(f"{folder} is in use: another program is training there") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be made a run folder: {error}") from error
    with lock:
        yield


def _overriding(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The identity with the folder's own config, but for what may not be overridden."""
    kept = {name: value for name, value in identity["config"].items() if name in ORDER}
    return identity | {"config": describe(folder)["config"] | kept}


def _write_config(folder: Path, content: dict[str, Any]) -> None:
    with atomic_write(folder / "config.json") as file:
        file.write(f"{json.dumps(content, indent=2)}\n".encode())


def check(folder: Path, script: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder whose run is of another experiment, config, dataset or script.

    Raises:
        UserError: it names each difference.
    """
    there = describe(folder)
    if there["imports"] is None:  # of a version that did not note them
        identity = identity | {"imports": None}
    old, new = _flat(there), _flat(identity)
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
        UserError: no run there, or its script cannot be imported here.
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
    """Of a run whose config has a batch size; None of others."""
    described = describe(folder)
    batch_size = described["config"].get("batch_size")
    return described["dataset"]["train"] / batch_size if batch_size else None


def to_json(scalars: Any) -> dict[str, Any]:
    """A dataclass of scalars as JSON gives it back: floats as floats, paths absolute."""

    def value_of(field: dataclasses.Field) -> Any:
        value = getattr(scalars, field.name)
        if isinstance(value, Path):
            return str(value.expanduser().absolute())
        return float(value) if field.type in (float, "float") else value

    values = {field.name: value_of(field) for field in dataclasses.fields(scalars)}
    return json.loads(json.dumps(values))


def flags(scalars: Mapping[str, Any]) -> list[str]:
    """Command-line flags that give a script's config or options these values, None left out."""
    written: list[str] = []
    for name, value in scalars.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            written.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            written += [f"--{flag}", str(value)]
    return written


def command(script: Path, arguments: Sequence[str]) -> list[str]:
    """The command line that runs a script as a program, by this Python."""
    return [sys.executable, str(script), *arguments]


def search_path() -> dict[str, str]:
    """The variable with which a script finds this package and what lies in the current folder."""
    here = [os.getcwd(), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, here))}


def environment_changes(folder: Path) -> list[str]:
    """Where this process's environment differs from the one that the run began in."""
    return differences(describe(folder)["environment"], environment())


def receipt(folder: Path, seed: int) -> dict[str, Any]:
    """What each checkpoint of a run says: its config.json, the script, and where it runs now.

    The environment is that of this process; a run may go on elsewhere than it began. {} for a
    folder that is not a run's.
    """
    if not (folder / "config.json").exists():
        return {}
    script = (folder / "experiment.py").read_text()
    return describe(folder) | {"seed": seed, "script": script, "environment": environment()}


def describe(folder: Path) -> dict[str, Any]:
    """The content of config.json. Raises UserError if there is none or it is damaged."""
    try:
        content = json.loads((folder / "config.json").read_text())
        names = ("experiment", "config", "dataset", "options", "environment")
        return {name: content[name] for name in names} | {
            "several": content.get("several", {}),
            "overridden": content.get("overridden", []),
            "imports": content.get("imports"),
        }
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run folder: it has no config.json") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'} is damaged: {error}") from error


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """One level of names; of different experiments only the names matter."""
    dataset = {f"the dataset's {name}": value for name, value in identity["dataset"].items()}
    own = {**identity["config"], **identity["several"]}
    own |= {f"the script {name}": sha[:12] for name, sha in (identity["imports"] or {}).items()}
    return {"experiment": identity["experiment"], **own, **dataset}
