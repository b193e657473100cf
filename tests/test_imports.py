"""Imports run one way, leaves never import each other, third parties stay behind their fences."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module imports from the rows above its own, never from its own.
ROWS: list[set[str]] = [
    {"errors", "receipt", "arrays"},
    {"models", "data", "losses", "metrics", "scores", "optim", "parallel", "checkpoint", "record"}
    | {"runs", "interrupt", "figures", "compiled", "allocator"},
    {"experiment", "ladder"},
    {"step", "feed"},
    {"several"},
    {"evaluate", "advance"},
    {"train", "predict"},
    {"preflight", "reproduce", "verify_resume", "summary", "shift", "assess", "see", "page"},
    {"cli"},
    {"commands"},
    {"__main__"},
]
FENCES = {  # which modules may import a package
    "flax": {"models", "experiments"},
    "tensorflow": set(),
    "tensorflow_datasets": {"data"},
    "array_record": {"data"},
    "PIL": {"data", "figures", "experiments"},
    "simplejpeg": {"data", "experiments"},
    "h5py": {"data"},
    "orbax": {"checkpoint"},
    "safetensors": {"arrays", "checkpoint"},
    "matplotlib": {"figures"},
    "scipy": {"scores", "summary"},
    "torch": {"experiments"},  # the peer of experiments/speed, and nothing else
}
FILES = [*sorted((ROOT / "cnn_jax").rglob("*.py")), *sorted((ROOT / "experiments").rglob("*.py"))]


def module_of(path: Path) -> str:
    """The name in ROWS that a file belongs to."""
    top, *inside = path.relative_to(ROOT).with_suffix("").parts
    return "experiments" if top == "experiments" else inside[0]


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_row() -> None:
    modules = {module_of(path) for path in FILES} - {"experiments", "__init__"}
    assert modules == set.union(*ROWS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards_and_stay_inside_the_fences(path: Path) -> None:
    module = module_of(path)
    row = next((i for i, names in enumerate(ROWS) if module in names), None)
    below = set().union(*ROWS[:row]) if module != "__init__" else set()
    for name in imports(path):
        package, *inside = name.split(".")
        assert module in FENCES.get(package, {module}), f"{name} is fenced out of {module}"
        if package == "cnn_jax":
            assert inside[0] in below | {module}, f"{module} must not import {name}"
        assert package != "experiments" or module == "experiments"
        assert package != "tests"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_parallel_says_pmap(path: Path) -> None:
    names = {name.split(".")[-1] for name in imports(path)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
    assert ("pmap" in names) == (module_of(path) == "parallel")
