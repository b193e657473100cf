"""Compiled programs are kept, for the same bits; memory and devices are those that are there."""

import json
import os
import pwd
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import programs
import pytest
import tiny

from cnn_jax import cli
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


@pytest.mark.usefixtures("ours")
def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_user(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(process, "CACHE", Path("~/kept"))
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    assert chosen() is None


def test_the_oldest_of_too_many_programs_are_removed(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CACHE_BYTES", 25)
    for age, name in enumerate(("a/first", "b/inside/second", "a/third", "b/fourth"), start=1):
        path = ours / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10))
        then = path.stat().st_mtime - age * 24 * 3600
        os.utime(path, (then, then))
    assert chosen()
    assert {path.name for path in ours.rglob("*") if path.is_file()} == {"first", "second"}


MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("groups", "limits", "memory"),
    [
        ("0::/", {}, MACHINE),
        ("0::/", {"memory.max": "max"}, MACHINE),
        ("0::/", {"memory.max": "1000"}, 1000),
        ("0::/job/step", {"job/memory.max": "2000", "job/step/memory.max": "max"}, 2000),
        ("0::/job/step", {"job/memory.max": "2000", "job/step/memory.max": "500"}, 500),
        ("0::/of/the/host", {"memory.max": "1000"}, 1000),  # in a container
        ("4:cpu:/\n9:memory:/docker/1f", {"memory/memory.limit_in_bytes": "3000"}, 3000),
        ("9:cpuset,memory:/a/b", {"memory/a/memory.limit_in_bytes": "4000"}, 4000),
        ("9:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("9:memory:/a\n0::/a", {"memory/a/memory.limit_in_bytes": "7", "memory.max": "9"}, 7),
        ("8:name=systemd:/a:b", {"memory.max": "1"}, MACHINE),
        (None, {"memory.max": "1"}, MACHINE),
    ],
)
def test_a_containers_limit_is_the_memory(
    groups: str | None, limits: dict[str, str], memory: int, tmp_path: Path
) -> None:
    files = {f"sys/fs/cgroup/{name}": f"{limit}\n" for name, limit in limits.items()}
    files |= {} if groups is None else {"proc/self/cgroup": f"{groups}\n"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert process.machine_memory(tmp_path) == memory


UNKNOWN = RuntimeError("Unable to initialize backend 'tpu': no libtpu.so (set JAX_PLATFORMS='')")
COMMANDS = {
    "convolve": ["digits:test:3", "--kernel", "top-edge"],
    "evaluate": ["run"],
    "maps": ["run"],
    "reproduce": ["run"],
    "shift": ["run"],
}


@pytest.fixture(params=[AssertionError(), UNKNOWN], ids=["cuda", "tpu"])
def no_devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """JAX as it is where JAX_PLATFORMS asks for a GPU, or TPU, and there is none."""

    def devices() -> None:
        raise request.param

    monkeypatch.setattr(jax, "devices", devices)
    why = " (Unable to initialize backend 'tpu': no libtpu.so)" if str(request.param) else ""
    return (
        f"error: JAX finds no devices of JAX_PLATFORMS=cpu{why}: unset JAX_PLATFORMS, or set it "
        "to cpu\n"
    )


def test_a_training_names_devices_that_are_not_there(
    no_devices: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        cli.main(tiny.Config, tiny.build, arguments=["--workdir", str(tmp_path / "run")])
    assert refusal.value.code == 2 and not (tmp_path / "run").exists()
    assert capsys.readouterr().err == no_devices


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_devices_that_are_not_there(
    command: str, no_devices: str, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.assert_refused([command, *COMMANDS[command]], no_devices, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("platforms", ["cuda", "tpu", "nonsense"])
def test_a_fresh_process_names_devices_that_are_not_there(platforms: str, tmp_path: Path) -> None:
    command = [sys.executable, *programs.TINY, "--workdir", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(programs.ROOT), "JAX_PLATFORMS": platforms}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2 and not (tmp_path / "run").exists()
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and f"JAX_PLATFORMS={platforms}" in line


def test_the_limit_of_open_files_is_raised() -> None:
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before, 512), hard))
    try:
        process.raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
