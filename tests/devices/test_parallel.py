"""The device law: the same batch on one device or several, in one process or two, is the same step.

`tiny.py` draws dropout masks and shifts, keeps a running mean and clips the gradient of the whole
batch, so each of them would show here if it were a device's own.
"""

import json
import shutil
import socket
from pathlib import Path

import jax
import numpy as np
import programs
import pytest

from cnn_jax.devices import parallel
from cnn_jax.errors import UserError
from cnn_jax.runs.journal import read_lines

# Relative and absolute, of parameters, momenta and sums after twelve steps: float32 sums in another
# order.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> dict[int, Path]:
    """Finished runs by the number of their devices; the streamed one by four."""
    folders = {devices: tmp_path_factory.mktemp(f"{devices}-devices") / "run" for devices in (2, 4)}
    kinds = {2: "resident", 4: "stream"}
    for devices, folder in folders.items():
        programs.train_tiny(folder, "--feed", kinds[devices], devices=devices)
    return folders | {1: tiny_run}


def run_two_processes(folder: Path, *flags: object) -> None:
    """Run `tiny.py` in two processes with two devices each."""
    address = f"localhost:{free_port()}"
    processes = [
        programs.start(
            *(*programs.TINY, "--workdir", folder / "run", "--data-dir", folder / "data", *flags),
            *("--coordinator", address, "--num-processes", 2, "--process-id", rank),
            devices=2,
        )
        for rank in (0, 1)
    ]
    first, second = (programs.succeed(process) for process in processes)
    assert "12 steps of 24 on 4 cpu devices" in first
    assert "step" not in second  # one of them speaks


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, stopped after six steps of twelve.

    They also prepare the dataset, both at once, as the first run on a cluster would.
    """
    folder = tmp_path_factory.mktemp("processes")
    run_two_processes(folder, "--stop-at", 6)
    return folder / "run"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    programs.assert_close(one, other, TOLERANCE)


def assert_same_metrics(one: Path, other: Path, steps: int = 12) -> None:
    lines, others = (
        [line for line in read_lines(folder / "metrics.jsonl") if line["step"] <= steps]
        for folder in (one, other)
    )
    assert lines
    for a, b in zip(lines, others, strict=True):
        assert a.pop("split") == b.pop("split")
        assert a == pytest.approx(b, abs=TOLERANCE)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("step", [6, 12])
def test_devices_share_a_batch_without_a_trace(
    devices: int, step: int, folders: dict[int, Path]
) -> None:
    states = (programs.saved_state(folders[n], step) for n in (1, devices))
    assert_close(*states)
    assert_same_metrics(folders[1], folders[devices])


def test_processes_share_a_batch_without_a_trace(
    of_two_processes: Path, folders: dict[int, Path]
) -> None:
    states = (programs.saved_state(folder, 6) for folder in (of_two_processes, folders[1]))
    assert_close(*states)
    assert_same_metrics(of_two_processes, folders[1], steps=6)


def test_what_two_processes_began_one_goes_on_with(
    of_two_processes: Path, folders: dict[int, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(of_two_processes, tmp_path / "run"))
    programs.train_tiny(run, "--feed", "stream", devices=4)
    assert json.loads((run / "result.json").read_text())["resumed_from"] == 6
    assert_close(programs.saved_state(run), programs.saved_state(folders[1]))
    assert_same_metrics(run, folders[1])


def test_what_two_processes_began_two_go_on_with(
    of_two_processes: Path, folders: dict[int, Path], tmp_path: Path
) -> None:
    shutil.copytree(of_two_processes, tmp_path / "run")
    run_two_processes(tmp_path)
    assert_close(programs.saved_state(tmp_path / "run"), programs.saved_state(folders[1]))
    assert_same_metrics(tmp_path / "run", folders[1])


@pytest.fixture
def half_of_four(folders: dict[int, Path], tmp_path: Path) -> Path:
    """The run of four devices as it was after six steps."""
    run = Path(shutil.copytree(folders[4], tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "12")
    (run / "result.json").unlink()
    assert programs.saved_steps(run) == [6]
    return run


def test_what_four_devices_began_one_goes_on_with(
    half_of_four: Path, folders: dict[int, Path]
) -> None:
    programs.train_tiny(half_of_four)
    assert_close(programs.saved_state(half_of_four), programs.saved_state(folders[1]))
    assert_same_metrics(half_of_four, folders[1])


def test_what_four_devices_began_eight_go_on_with(
    half_of_four: Path, folders: dict[int, Path]
) -> None:
    programs.train_tiny(half_of_four, "--feed", "stream", devices=8)
    assert_close(programs.saved_state(half_of_four), programs.saved_state(folders[1]))


def test_what_four_devices_began_four_go_on_with_bit_for_bit(
    half_of_four: Path, folders: dict[int, Path]
) -> None:
    programs.train_tiny(half_of_four, "--feed", "stream", devices=4)
    states = (programs.saved_state(run) for run in (half_of_four, folders[4]))
    programs.assert_identical(*states)
    metrics = ((run / "metrics.jsonl").read_bytes() for run in (half_of_four, folders[4]))
    assert len(set(metrics)) == 1


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        programs.train_tiny(tmp_path / "run", "--batch-size", 25, devices=2)
    assert refusal.value.code == 2 and not (tmp_path / "run").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: batch size 25 does not divide by 2 devices: choose a multiple of 2"


def test_a_batch_divides_into_pieces_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with programs.simulated_devices(4):
        monkeypatch.setattr(parallel, "local_devices", lambda: jax.devices()[:1])
        with pytest.raises(UserError, match="this one has 1 of 4, and there are 1 processes"):
            parallel.check_divides(24)
        monkeypatch.undo()
    with programs.simulated_devices(4):
        parallel.check_divides(24, accumulate=3)
        with pytest.raises(UserError, match="24 .* by 4 devices times 4 .* multiple of 16"):
            parallel.check_divides(24, accumulate=4)
        with pytest.raises(UserError, match="30 .* by 4 devices: choose a multiple of 4"):
            parallel.check_divides(30)


def test_a_batch_is_shared_out_in_order() -> None:
    with programs.simulated_devices(4):
        share = parallel.share_out(np.arange(12.0).reshape(1, 12))
        mean = parallel.map_replicated(
            lambda x: jax.lax.pmean(x.mean(), parallel.AXIS), replicated=0
        )
        places = parallel.map_replicated(
            lambda x: jax.lax.all_gather(x, parallel.AXIS), replicated=0
        )
        assert mean(share) == 5.5
        assert places(share)[:, 0].tolist() == np.arange(12.0).reshape(4, 3).tolist()
