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
import inspect
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


def default_folder(config: Any) -> Path:
    """`runs/<experiment>-<hash of the config>`: the same command resumes, another starts anew."""
    digest = hashlib.sha256(json.dumps(describe(config), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{experiment_name(config)}-{digest[:8]}"


def experiment_name(config: Any) -> str:
    return _script(config).stem


def create(folder: Path, config: Any, options: Any) -> bool:
    """Make the run folder, or check that the one there is of the same experiment and config.

    Returns:
        True where a run was there already.

    Raises:
        UserError: the folder holds another run, or something else.
    """
    described = {"experiment": experiment_name(config), "config": describe(config)}
    if (folder / "config.json").exists():
        there = json.loads((folder / "config.json").read_text())
        differences = [
            f"{name} is {old!r} there and {new!r} here"
            for name, old, new in _differences(there, described)
        ]
        if differences:
            raise UserError(
                f"{folder} holds another run ({'; '.join(differences)}): choose another --workdir"
            )
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not a run folder and not empty: choose another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.py").write_bytes(_script(config).read_bytes())
    # The config comes last: a folder that has it is whole.
    content = described | {
        "config_class": type(config).__qualname__,
        "options": describe(options),
        "environment": environment(),
    }
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
    return False


def load(folder: Path) -> tuple[Callable[..., Any], Any]:
    """Import the experiment of a run folder.

    Returns:
        `(build, config)`: `build(config, data_dir)` is the experiment as it was trained.

    Raises:
        UserError: no run there, or its script cannot be imported here.
    """
    try:
        content = json.loads((folder / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is not a run folder: it has no config.json") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'config.json'} is damaged: {error}") from error
    name = f"cnn_jax_run_{content['experiment']}"
    spec = importlib.util.spec_from_file_location(name, folder / "experiment.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        config_class = getattr(module, content["config_class"])
        return module.build, config_class(**content["config"])
    except (ImportError, AttributeError, TypeError, FileNotFoundError) as error:
        raise UserError(f"{folder / 'experiment.py'} cannot be loaded here: {error}") from error


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


def _script(config: Any) -> Path:
    source = inspect.getsourcefile(type(config))
    if source is None or not Path(source).exists():
        raise UserError("an experiment must be a file: its copy is what makes a run repeatable")
    return Path(source)


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    if there["experiment"] != here["experiment"]:
        return [("experiment", there["experiment"], here["experiment"])]
    old, new = there["config"], here["config"]
    names = [*new, *(name for name in old if name not in new)]
    return [(n, old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)]
