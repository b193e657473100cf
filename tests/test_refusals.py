"""Every bad command of refusals.txt ends in one line and exit code 2, with nothing written."""

import functools
import inspect
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import programs
import pytest
import tiny
from PIL import Image

from cnn_jax import __main__ as program
from cnn_jax import cli
from cnn_jax.data.prepare import prepare

TABLE = Path(__file__).with_name("refusals.txt")
# The data that scripts read here in place of their own, which tests do not have.
STANDS_IN = {"mnist": "folder/grey", "usps": "folder/grey", "imagenette": "folder/colour"}
MOST_BYTES, MOST_SECONDS = 2 * 10**9, 10


class Case(NamedTuple):
    """A command, and words of the line that it ends with."""

    words: list[str]
    expected: str


def cases() -> list[Case]:
    """The lines of the table."""
    lines = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    halves = [line.partition(" => ") for line in lines]
    return [Case(shlex.split(command), expected) for command, _, expected in halves]


@pytest.fixture(scope="module")
def places(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The files and folders that the table names in capitals; nothing may change them."""
    folder = tmp_path_factory.mktemp("refusals")
    random = np.random.default_rng(0)
    pictures, texts = folder / "PICTURES", folder / "TEXTS"
    for name in ("train/a", "train/b", "test/a", "test/b", "val/a", "val/b"):
        (pictures / name).mkdir(parents=True)
        noise = random.integers(0, 256, (128, 128, 3)).astype(np.uint8)
        Image.fromarray(noise).save(pictures / name / "1.png")
    for name, size, channels in (("grey", 28, 1), ("colour", 128, 3)):
        prepare(f"folder/{name}", pictures, size=size, channels=channels)
    texts.mkdir()
    for path in (folder / "TEXT", folder / "TEXT.npy", texts / "notes.txt"):
        path.write_text("no picture, no run\n")
    picture = (pictures / "val" / "a" / "1.png").read_bytes()
    (folder / "BROKEN").write_bytes(picture[: len(picture) // 2])
    (folder / "DAMAGED" / "config").mkdir(parents=True)
    (folder / "DAMAGED" / "config" / "config.json").write_text('{"experiment": "ti')
    shutil.copytree(tiny_run, folder / "RUN")
    before = content(folder)
    yield {path.name: path for path in folder.iterdir()} | {"NOTHING": folder / "NOTHING"}
    assert content(folder) == before


def arguments_of(case: Case, places: dict[str, Path]) -> tuple[str, list[str]]:
    """The program, and its arguments with the places and the data that stand in for its own."""
    name, *words = case.words
    for place, path in places.items():
        words = [
            str(path) + word.removeprefix(place) if word.split("/")[0] == place else word
            for word in words
        ]
    stand_in = STANDS_IN.get(name.removesuffix("_adamw").split("_")[-1])
    if stand_in and "--dataset" not in words and not name.startswith("neocognitron"):
        words += ["--dataset", stand_in]
    if name == "alexnet2012_imagenet" and "--dataset" not in words:
        words += ["--dataset", "folder/colour"]
    return name, words


def call(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command does, in this process."""
    if name == "cnn_jax":
        program.main(words)
        return
    monkeypatch.setattr(sys, "argv", [name, *words])
    if name == "tiny":
        cli.main(tiny.Config, tiny.build, tiny.OPTIONS)
    else:
        monkeypatch.delitem(sys.modules, f"experiments.{name}", raising=False)
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


def content(folder: Path) -> set[tuple[str, int, int]]:
    """Every file below a folder with its size and time, so that nothing is written unseen."""
    return {
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def assert_one_line(code: Any, out: str, err: str, expected: str) -> None:
    assert code == 2, (code, out, err)
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert expected in err, err


@pytest.fixture(scope="module", autouse=True)
def quick_parsing() -> Iterator[None]:
    """The comments that tyro makes help texts of are looked up once per class."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "findsource", functools.cache(inspect.findsource))
        yield


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, which must be empty at the end."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", cases(), ids=lambda case: " ".join(case.words))
def test_a_bad_command_is_refused(
    case: Case,
    places: dict[str, Path],
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, words = arguments_of(case, places)
    with pytest.raises(SystemExit) as refusal:
        call(name, words, monkeypatch)
    said = capsys.readouterr()
    assert_one_line(refusal.value.code, said.out, said.err, case.expected)


@pytest.mark.parametrize("module", ["cnn_jax", "experiments.lenet5_digits"])
@pytest.mark.parametrize(
    ("variable", "value"), [("JAX_DEFAULT_MATMUL_PRECISION", "some"), ("JAX_ENABLE_X64", "maybe")]
)
def test_an_environment_that_jax_does_not_know_is_refused(
    module: str, variable: str, value: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(programs.ROOT), variable: value},
        capture_output=True,
        text=True,
    )
    assert_one_line(done.returncode, done.stdout, done.stderr, value)
    assert variable.lower() in done.stderr.lower()


def test_the_table_is_long_enough() -> None:
    commands = [" ".join(case.words) for case in cases()]
    assert len(set(commands)) == len(commands) >= 200


def run(
    case: Case, places: dict[str, Path], folder: Path
) -> tuple[subprocess.CompletedProcess[str], int, float]:
    """Run a command as a process in an empty folder: what it said, its memory, its seconds."""
    name, words = arguments_of(case, places)
    module = {"cnn_jax": ["-m", "cnn_jax"], "tiny": [tiny.__file__]}
    start = module.get(name, ["-m", f"experiments.{name}"])
    measured = (
        "import os, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True, timeout=120)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "sys.stdout.write(done.stdout); sys.stderr.write(done.stderr)\n"
        "sys.stderr.write(f'{used.ru_maxrss * 1024} {used.ru_utime + used.ru_stime}')\n"
        "sys.exit(done.returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", measured, sys.executable, *start, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(programs.ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    *said, numbers = done.stderr.splitlines(keepends=True)
    memory, seconds = numbers.split()
    # RUN was made with other flags of XLA, which is said besides.
    done.stderr = "".join(x for x in said if not x.startswith("warning: since this run began"))
    return done, int(memory), float(seconds)


@pytest.mark.slow
def test_processes_are_refused_soon_and_with_little_memory(
    places: dict[str, Path], tmp_path: Path
) -> None:
    """Every command as its user starts it: under 2 GB and 10 seconds of a core."""

    def failure(numbered: tuple[int, Case]) -> str | None:
        number, case = numbered
        folder = tmp_path / str(number)
        folder.mkdir()
        done, memory, seconds = run(case, places, folder)
        try:
            assert_one_line(done.returncode, done.stdout, done.stderr, case.expected)
            assert list(folder.iterdir()) == []
            assert memory <= MOST_BYTES and seconds <= MOST_SECONDS, (memory, seconds)
        except AssertionError as error:
            return f"{' '.join(case.words)}: {error}"
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        failures = [text for text in threads.map(failure, enumerate(cases())) if text]
    assert failures == []
