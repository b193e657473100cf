"""The run folder: what a run is made of, so that it can be built again from the folder alone.

config.json       the experiment's name, its resolved config, options and environment
experiment.py     the script as it was; loading a run executes this copy
checkpoints/      one folder per step kept
metrics.jsonl     training means and evaluations, repeatable byte for byte
timing.jsonl      images/s and seconds, not repeatable
tensorboard/      the same curves for TensorBoard
result.json       the final, exact evaluation
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cnn_jax.errors import UserError

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "grain",
    "numpy",
)


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


def default_folder(script: Path, config: Any) -> Path:
    """`runs/EXPERIMENT-HASH_OF_CONFIG`: the same command resumes, another starts anew."""
    digest = hashlib.sha256(json.dumps(describe(config), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{script.stem}-{digest[:8]}"


def create(folder: Path, script: Path, config: Any, options: Any) -> None:
    """Make the run folder, or check that the one there is of the same experiment and config.

    Raises:
        UserError: the folder holds another run, or something else.
    """
    described = {"experiment": script.stem, "config": describe(config)}
    if (folder / "config.json").exists():
        there = _read_config(folder)
        differences = [
            f"{name} is {old!r} there and {new!r} here"
            for name, old, new in _differences(there, described)
        ]
        if differences:
            raise UserError(
                f"{folder} holds another run ({'; '.join(differences)}): choose another --workdir"
            )
        if (folder / "experiment.py").read_bytes() != script.read_bytes():
            print(
                f"warning: {script} has changed since the run began; {folder} keeps the old one",
                file=sys.stderr,
            )
        return
    ours = {"experiment.py", ".config.json"}  # of a start that was killed here
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= ours):
        raise UserError(f"{folder} is not a run folder and not empty: choose another --workdir")
    content = described | {"options": describe(options), "environment": environment()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "experiment.py").write_bytes(script.read_bytes())
        # The config comes last and whole: it is what makes the folder a run.
        (folder / ".config.json").write_text(json.dumps(content, indent=2) + "\n")
        (folder / ".config.json").replace(folder / "config.json")
    except OSError as error:
        raise UserError(f"{folder} cannot be made a run folder: {error}") from error


def load(folder: Path) -> tuple[Callable[..., Any], Any]:
    """Import the experiment of a run folder.

    Returns:
        `(build, config)`: `build(config, data_dir)` is the experiment as it was trained.

    Raises:
        UserError: no run there, or its script cannot be imported here.
    """
    content = _read_config(folder)
    name = f"cnn_jax_run_{content['experiment']}"
    spec = importlib.util.spec_from_file_location(name, folder / "experiment.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        return module.build, module.Config(**content["config"])
    except (ImportError, AttributeError, TypeError, SyntaxError, FileNotFoundError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / 'experiment.py'} cannot be loaded here: {reason}") from error


def describe(scalars: Any) -> dict[str, Any]:
    """A dataclass of scalars as JSON values."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(scalars).items()
    }


def environment() -> dict[str, Any]:
    """Versions, devices and code revision that this process runs with."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cores": len(os.sched_getaffinity(0)),
        "processes": jax.process_count(),
        "revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """`git describe` of the package's checkout, `-dirty` when files differ; None without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text())
        return {name: content[name] for name in ("experiment", "config")}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run folder: it has no config.json") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'} is damaged: {error}") from error


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    if there["experiment"] != here["experiment"]:
        return [("experiment", there["experiment"], here["experiment"])]
    old, new = there["config"], here["config"]
    names = [*new, *(name for name in old if name not in new)]
    return [(n, old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)]
