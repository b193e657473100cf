"""What is compiled once is kept: the second start of a run compiles nothing, for the same bits."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import programs
import pytest

from cnn_jax.devices import process

CONFIG: Any = jax.config
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)
# tiny.py, which says at the end how often JAX looked for a program and had to compile it.
COUNTING = """
import collections, runpy, sys
import jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(counts["compile_requests_use_cache"], counts["cache_hits"])
"""


def train(home: Path, run: str) -> tuple[int, int, str]:
    """In a process of its own, whose user lives in `home`: requests, hits, final parameters."""
    environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-c", COUNTING, *programs.TINY, "--steps", "3"]
    command += ["--workdir", str(home / run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    requests, hits = map(int, done.stdout.splitlines()[-1].split())
    result = json.loads((home / run / "result.json").read_text())
    return requests, hits, result["parameters_sha256"]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A user's home after a first start; how many programs it compiled, and the parameters."""
    home = tmp_path_factory.mktemp("home")
    requests, hits, parameters = train(home, "first")
    assert hits == 0 < requests
    return home, requests, parameters


def test_a_second_start_compiles_nothing(started: tuple[Path, int, str]) -> None:
    home, requests, parameters = started
    assert train(home, "second") == (requests, requests, parameters)


@pytest.mark.slow
def test_a_file_that_a_kill_has_cut_is_no_obstacle(started: tuple[Path, int, str]) -> None:
    home, requests, parameters = started
    kept = list((home / ".cache" / "cnn_jax" / "compiled").glob("*/*-cache"))
    assert len(kept) == requests
    for path in kept:
        path.write_bytes(path.read_bytes()[:-20])
    assert train(home, "third") == (requests, 0, parameters)


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that JAX is told of unless its own variables say otherwise."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(process, "CACHE", tmp_path / "kept")
    yield tmp_path / "kept"
    for name, value in before.items():
        jax.config.update(name, value)


def chosen() -> str | None:
    process.keep_compiled_programs()
    return CONFIG.jax_compilation_cache_dir


def test_each_processor_and_number_of_cores_has_a_folder(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    for processor in ("old", "new"):
        monkeypatch.setattr(process, "processor", lambda name=processor: name)
        for cores in (2, 16):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
            jax.config.update("jax_compilation_cache_dir", None)
            folders.append(chosen())
    assert len(set(folders)) == 4 and {Path(f or "").parent for f in folders} == {ours}


def test_jaxs_own_variables_go_first(ours: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    assert chosen() == "elsewhere"
    assert CONFIG.jax_persistent_cache_min_compile_time_secs == 7.0
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    assert chosen() is None and not ours.exists()


def test_where_nothing_can_be_written_nothing_is_kept(ours: Path) -> None:
    ours.write_text("a file, not a folder")
    assert chosen() is None


def test_what_is_older_than_a_month_is_removed(ours: Path) -> None:
    folder = Path(chosen() or "")
    old, young = folder / "old-cache", folder / "young-cache"
    for path, days in ((old, 31), (young, 29)):
        path.write_bytes(b"")
        then = path.stat().st_mtime - days * 24 * 3600
        os.utime(path, (then, then))
    jax.config.update("jax_compilation_cache_dir", None)
    assert Path(chosen() or "") == folder
    assert list(folder.iterdir()) == [young]
