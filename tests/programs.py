"""Run the programs as a user would, and read what they leave behind."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tiny

from cnn_jax import __main__ as program
from cnn_jax import cli
from cnn_jax.devices import parallel
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.trained import restore

ROOT = Path(__file__).parents[1]
TINY = (str(ROOT / "tests" / "tiny.py"),)


class Finished(NamedTuple):
    code: int
    out: str
    err: str


def start(*arguments: object, devices: int = 1) -> subprocess.Popen[str]:
    """Start `python *arguments` with simulated devices."""
    environment = {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> Finished:
    """Wait for a process; one that takes longer than `timeout` seconds is ended."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Finished(process.returncode, out, err)


def succeed(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must end well; return what it printed."""
    code, out, err = finish(process)
    assert code == 0, f"{out}\n{err}"
    return out


@contextlib.contextmanager
def simulated_devices(count: int) -> Iterator[None]:
    """Inside, runs of this process use that many of its simulated devices, at most 8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "devices", lambda: jax.devices()[:count])
        yield


def train_tiny(folder: Path, *arguments: object, devices: int = 1) -> Any:
    """Run `tiny.py` in this process."""
    flags = list(map(str, ("--workdir", folder, *arguments)))
    with simulated_devices(devices):
        return cli.main(tiny.Config, tiny.build, tiny.OPTIONS, arguments=flags)


def saved_steps(folder: Path) -> list[int]:
    """The steps of which a run has checkpoints; what a kill left behind stays as it is."""
    with contextlib.closing(Checkpoints(folder / "checkpoints", read_only=True)) as checkpoints:
        return checkpoints.steps()


def saved_state(folder: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, the last by default, by its path in the `TrainState`."""
    state = restore(folder, step).state
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


def assert_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m cnn_jax` ends with one line, in which `message` is, and prints nothing else."""
    with pytest.raises(SystemExit) as refusal:
        program.main(arguments)
    assert refusal.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err
