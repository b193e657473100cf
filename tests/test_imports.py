"""Imports run one way, neighbours never import each other, third parties stay behind fences."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A room imports from the rows above its own, and within its own; never from its neighbours.
ROWS: list[set[str]] = [
    {"errors", "atomic_write", "ops", "figures", "losses", "metrics"},
    {"models", "optim", "data", "runs"},
    {"augment", "devices", "command_line"},
    {"experiment"},
    {"step", "options"},
    {"seeds"},
    {"trained"},
    {"evaluate"},
    {"train", "see"},
    {"check"},
    {"cli"},
    {"commands"},
    {"__main__"},
]
FENCES = {  # which rooms may import a package
    "flax": {"models", "ops", "see", "experiments"},
    "tensorflow": set(),
    "tensorflow_datasets": {"data"},
    "array_record": {"data"},
    "PIL": {"data", "figures", "experiments"},
    "simplejpeg": {"data", "experiments"},
    "h5py": {"data"},
    "orbax": {"runs/checkpoint"},
    "matplotlib": {"figures"},
    "scipy": {"evaluate"},
    "torch": {"experiments"},  # the peer of experiments/bench/speed, and nothing else
}
FILES = [*sorted((ROOT / "cnn_jax").rglob("*.py")), *sorted((ROOT / "experiments").rglob("*.py"))]


def room_of(path: Path) -> str:
    """The name in ROWS that a file belongs to; "experiments" for all scripts."""
    top, *inside = path.relative_to(ROOT).with_suffix("").parts
    return "experiments" if top == "experiments" else inside[0]


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_a_row() -> None:
    rooms = {room_of(path) for path in FILES} - {"experiments", "__init__"}
    assert rooms == set.union(*ROWS)


def test_imports_run_downwards() -> None:
    for path in FILES:
        room = room_of(path)
        row = next((i for i, names in enumerate(ROWS) if room in names), len(ROWS))
        below = set().union(*ROWS[:row])
        for name in imports(path):
            package, *inside = name.split(".")
            if package == "cnn_jax":
                assert inside[0] in below | {room, "__version__"}, f"{path} must not import {name}"
            assert package != "experiments" or room == "experiments", f"{path} imports {name}"
            assert package != "tests"


def test_third_parties_stay_inside_their_fences() -> None:
    for path in FILES:
        file = module_of(path).removeprefix("cnn_jax.").replace(".", "/")
        for name in imports(path):
            fence = FENCES.get(name.split(".")[0])
            assert fence is None or {room_of(path), file} & fence, f"{path} imports {name}"


def test_no_two_modules_need_each_other() -> None:
    modules = {module_of(path): path for path in FILES}
    needs: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {name if name in modules else name.rpartition(".")[0] for name in imports(path)}
        needs[module] = names & modules.keys() - {module}
    list(TopologicalSorter(needs).static_order())  # CycleError names the modules


def test_only_parallel_says_pmap() -> None:
    for path in FILES:
        names = {name.split(".")[-1] for name in imports(path)}
        tree = ast.walk(ast.parse(path.read_text()))
        names |= {node.attr for node in tree if isinstance(node, ast.Attribute)}
        assert ("pmap" in names) == (module_of(path) == "cnn_jax.devices.parallel"), path
