"""Run the programs as a user would, and read what they leave behind."""

import atexit
import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tiny

from cnn_jax import __main__ as program
from cnn_jax import cli
from cnn_jax.devices import parallel
from cnn_jax.runs.arrays import to_stored
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runs.json_files import write_json
from cnn_jax.trained import restore

ROOT = Path(__file__).parents[1]
TINY = (str(ROOT / "tests" / "tiny.py"),)


class Finished(NamedTuple):
    code: int
    out: str
    err: str


class Program:
    """A Python program in a process of its own, with the interface of `subprocess.Popen`.

    It is forked from a server that has imported the libraries but started no JAX backend, which
    spares each program the seconds that importing takes.
    """

    _server = multiprocessing.get_context("forkserver")
    _server.set_forkserver_preload(["cnn_jax.__main__"])

    def __init__(self, arguments: list[str], environment: Mapping[str, str], devices: int | None):
        """Start `python *arguments` on that many of its simulated devices, or on all (None)."""
        self._folder = tempfile.TemporaryDirectory(prefix="program-")
        self.out, self.err = (Path(self._folder.name) / name for name in ("out", "err"))
        self._process = self._server.Process(
            target=_run_program,
            args=(arguments, dict(environment), str(self.out), str(self.err), devices),
        )
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("program", timeout or 0)
        return self._process.exitcode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, number)


def _run_program(
    arguments: list[str], environment: Mapping[str, str], out: str, err: str, devices: int | None
) -> None:
    """Become `python *arguments`, in a forked process."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    with contextlib.ExitStack() as stack:
        stack.callback(atexit._run_exitfuncs)  # which multiprocessing leaves out
        if devices is not None:
            stack.enter_context(simulated_devices(devices))
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path[0] = str(Path(arguments[0]).parent)
            runpy.run_path(arguments[0], run_name="__main__")


def start(*arguments: object, devices: int = 1) -> Program:
    """Start `python *arguments`, a file or -m and a module, with simulated devices.

    One process by itself uses `devices` of the eight that the tests have, and so compiles to the
    same bits as they; of several processes, each has `devices` of its own.
    """
    words = list(map(str, arguments))
    if "--coordinator" not in words:
        return Program(words, os.environ, devices)
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return Program(words, os.environ | {"XLA_FLAGS": flags}, None)


def run_code(code: str, *arguments: object) -> str:
    """Run `python -c code *arguments` from a clean start; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def finish(program: Program, timeout: float = 120) -> Finished:
    """Wait for a program; one that takes longer than `timeout` seconds is killed."""
    try:
        code = program.wait(timeout)
    finally:
        program.kill()
    return Finished(code, program.out.read_text(), program.err.read_text())


def succeed(process: Program) -> str:
    """Wait for a program that must end well; return what it printed."""
    code, out, err = finish(process)
    assert code == 0, f"{out}\n{err}"
    return out


@contextlib.contextmanager
def simulated_devices(count: int) -> Iterator[None]:
    """Inside, runs of this process use that many of its simulated devices, at most 8."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("devices", "local_devices"):
            patch.setattr(parallel, name, lambda: jax.devices()[:count])
        yield


def train_tiny(folder: Path, *arguments: object, devices: int = 1) -> Any:
    """Run `tiny.py` in this process."""
    flags = list(map(str, ("--workdir", folder, *arguments)))
    with simulated_devices(devices):
        return cli.main(tiny.Config, tiny.build, tiny.OPTIONS, arguments=flags)


def saved_steps(folder: Path) -> list[int]:
    """The steps of which a run has checkpoints; what a kill left behind stays as it is."""
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.steps()


def saved_state(folder: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, the last by default, by its path in the `TrainState`."""
    state = to_stored(restore(folder, step).state)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_identical(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].tobytes() == other[name].tobytes(), name


def assert_close(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], tolerance: float
) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], tolerance, tolerance, err_msg=name)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)


def assert_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m cnn_jax` ends with one line, in which `message` is, and prints nothing else."""
    with pytest.raises(SystemExit) as refusal:
        program.main(arguments)
    assert refusal.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err
