"""Code, versions, devices, settings: what a run's numbers depend on besides its experiment."""

import ast
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax.extend.backend import get_backend
from packaging.requirements import Requirement

from cnn_jax.errors.wording import change

ROOTS = ("jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "pillow", "simplejpeg")
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_allow_f16_reductions",
    "jax_disable_jit",
    "jax_disable_most_optimizations",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
)
# A difference that is not reported: the revision says less than the hash of the source. The number
# of cores does count, since XLA splits sums between them.
HARMLESS = ("revision",)


def environment() -> dict[str, Any]:
    """Everything outside the experiment that decides the numbers of this process, as JSON values.

    The packages are `ROOTS` and all that they require. `source_sha256` is a hash of this package's
    files: unlike `revision` it needs no git and changes with every edit.
    """
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "source_sha256": _source_of_process(),
        "revision": _git_revision(),
        "platform": devices[0].platform,
        "platform_version": " ".join(get_backend().platform_version.split()),
        "device": devices[0].device_kind,
        "processor": processor(),
        "devices": len(devices),
        "cores": len(os.sched_getaffinity(0)),
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "jax_settings": {name: _jax_setting(name) for name in JAX_SETTINGS},
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each difference of two environments; none if the numbers should be the same.

    A field that one of them lacks is not compared: older records have fewer.
    """

    def flat(environment: Mapping[str, Any]) -> dict[str, Any]:
        levels = {name: value for name, value in environment.items() if isinstance(value, Mapping)}
        inner = {key: value for level in levels.values() for key, value in level.items()}
        return {k: v for k, v in environment.items() if k not in (*levels, *HARMLESS)} | inner

    old, new = flat(then), flat(now)
    if "source_sha256" not in old:
        old["revision"], new["revision"] = then.get("revision"), now.get("revision")
    return [
        change(name, old[name], new[name]) for name in old if name in new and old[name] != new[name]
    ]


def _jax_setting(name: str) -> Any:
    """The value of one of JAX's settings; None if this version of JAX has no such setting."""
    values: Any = jax.config.values  # which has all, but not what a context manager changed
    return getattr(jax.config, name, values.get(name))


def source_sha256(folder: Path = Path(__file__).parents[1]) -> str:
    """Hash the names and contents of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hash the content of a file. Raises OSError if it cannot be read."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache  # files that are edited while a run trains are not what this process has imported
def _source_of_process() -> str:
    return source_sha256()


def imported_scripts(script: Path) -> dict[str, str]:
    """Hash the scripts that a script imports, directly or not: {module: SHA-256}.

    Those are the files and packages beside it or in `experiments/`; a recipe may be another
    script's. They are read from the text, so that it does not matter what else this process has
    loaded.
    """
    folders, hashes, waiting = (script.parent, Path(__file__).parents[2]), {}, [("", script)]
    while waiting:
        for name in _imported(*waiting.pop()):
            stem = name.replace(".", "/")
            files = [
                folder / file
                for folder in folders
                for file in (f"{stem}/__init__.py", f"{stem}.py")
            ]
            path = next(filter(Path.is_file, files), None)
            if path is not None and name not in hashes and not _is_ours(name):
                hashes[name] = file_sha256(path)
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                waiting.append((package, path))
    return dict(sorted(hashes.items()))


def _is_ours(name: str) -> bool:
    """Whether a module holds no recipe: those of this package, and the one around our recipes."""
    return name == "experiments" or name.split(".")[0] == "cnn_jax"


def _imported(package: str, path: Path) -> set[str]:
    """The names that a file of a package ("" for none) imports; not all need be modules."""
    try:
        tree = ast.parse(path.read_bytes())  # bytes, which may name their encoding
    except (SyntaxError, ValueError):
        return set()  # nor can Python import it
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            module = ".".join(filter(None, [*(above if node.level else ()), node.module]))
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    # A package is executed before what lies in it.
    return {name[:end] for name in names for end in (*_dots(name), len(name))} - {""}


def _dots(name: str) -> list[int]:
    return [place for place, letter in enumerate(name) if letter == "."]


@cache  # asked for several times by a process, and a fifth of a small network's start
def _versions() -> Mapping[str, str]:
    """The versions of `ROOTS` and of all that they require on this machine, by package."""
    versions: dict[str, str] = {}
    waiting: list[str] = list(ROOTS)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in versions:
            continue
        try:
            package = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a dependency that is optional after all
        versions[name] = package["Version"]
        for line in package.get_all("Requires-Dist") or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return dict(sorted(versions.items()))


def processor() -> str:
    """The CPU's model: its vector instructions decide how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git_revision() -> str | None:
    """`git describe` of the package's checkout, `-dirty` when files differ; None without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        process = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            encoding="utf-8",
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
