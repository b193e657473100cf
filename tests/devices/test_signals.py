"""Signals end a run where it can go on from; a refusal or a death in one process ends all."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import programs
import pytest
from test_parallel import free_port

from cnn_jax import cli
from cnn_jax.devices.signals import stop_requests
from cnn_jax.runs.journal import read_lines

LONG = ("--steps", 100_000, "--checkpoint-every", 99_999, "--eval-every", 99_999)
SIGNALS = [
    signal.SIGTERM,
    pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
]


def when_training(folder: Path) -> None:
    """Wait until a run has written its first line of metrics."""
    deadline = time.monotonic() + 100
    while not read_lines(folder / "metrics.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start_two(folder: Path, *flags: object, other: Path | None = None) -> list:
    """Two processes of one run; `other` is the folder of the second if it is not the same."""
    address = f"localhost:{free_port()}"
    group = ("--coordinator", address, "--num-processes", 2, "--process-id")
    folders = (folder, other or folder)
    command = (*programs.TINY, *flags, *group)
    return [programs.start(*command, rank, "--workdir", folders[rank]) for rank in (0, 1)]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_a_checkpoint_and_exits_with_its_code(
    number: signal.Signals, tmp_path: Path
) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    process = programs.start(*programs.TINY, "--workdir", run, *LONG)
    when_training(run)
    process.send_signal(number)
    code, _, err = programs.finish(process)
    assert code == 75
    (step,) = programs.saved_steps(run)
    assert step % 3 == 0 and step % 99_999  # at a dispatch, not at a time for checkpoints
    assert err.splitlines()[-1] == (
        f"stopped at step {step} of 100000 with a checkpoint in {run}: the same command goes on "
        "from it"
    )
    programs.train_tiny(straight, *LONG, "--stop-at", step)
    programs.assert_identical(programs.saved_state(run), programs.saved_state(straight))
    metrics = ((folder / "metrics.jsonl").read_bytes() for folder in (run, straight))
    assert len(set(metrics)) == 1


def test_only_a_second_interrupt_is_one() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_requests() as requested:
        assert not requested(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert requested(1)
        os.kill(os.getpid(), signal.SIGTERM)  # of a scheduler that repeats itself
        assert requested(2)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def kill_self(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # handlers run between two instructions of Python


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_the_first_step_ends_the_run_at_once(
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While data are opened and programs compiled, which takes minutes, nothing can be lost."""
    monkeypatch.setattr(cli, "_train", lambda *_: kill_self(number))
    with pytest.raises(SystemExit) as stop:
        programs.train_tiny(tmp_path / "run")
    assert stop.value.code == 75 and not (tmp_path / "run").exists()
    said = capsys.readouterr().err
    assert said == "stopped before the first step: the same command starts again\n"


STARTING = """
import os, sys
sys.argv, sys.orig_argv = ["-m"], ["python", "-m", sys.argv[1]]  # as Python has them meanwhile
import experiments
os.kill(os.getpid(), int(os.environ["NUMBER"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_a_script_imports_its_libraries(number: signal.Signals) -> None:
    command = [sys.executable, "-c", STARTING, "experiments.lenet5_digits"]
    environment = {"PYTHONPATH": str(programs.ROOT), "NUMBER": str(int(number))}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 75
    assert ended.stderr == "stopped before the first step: the same command starts again\n"


def test_a_second_interrupt_ends_a_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*arguments: Any) -> None:
        assert not arguments[-1](0)
        kill_self(signal.SIGINT, signal.SIGINT)

    monkeypatch.setattr(cli, "_train", train)
    with pytest.raises(SystemExit) as stop:
        programs.train_tiny(tmp_path / "run")
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted: the last checkpoint, if any, is from before\n"


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_a_hang_up_stops_a_run_unless_it_was_ignored(ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with stop_requests() as requested:
            assert not requested(0)
            kill_self(signal.SIGHUP)
            assert requested(1) is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_one_process_stops_both_at_the_same_step(
    number: signal.Signals, tmp_path: Path
) -> None:
    processes = start_two(tmp_path / "run", *LONG)
    when_training(tmp_path / "run")
    processes[1].send_signal(number)
    ends = [programs.finish(process) for process in processes]
    assert [end.code for end in ends] == [75, 75], ends
    said = {end.err.splitlines()[-1] for end in ends}
    assert len(said) == 1 and "with a checkpoint" in said.pop()
    assert len(programs.saved_steps(tmp_path / "run")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_other_within_a_minute(rank: int, tmp_path: Path) -> None:
    processes = start_two(tmp_path / "run", *LONG)
    when_training(tmp_path / "run")
    processes[rank].kill()
    programs.finish(processes[rank])
    assert programs.finish(processes[1 - rank], timeout=60).code != 0


def test_processes_that_see_other_checkpoints_all_refuse(tiny_run: Path, tmp_path: Path) -> None:
    """A file system that lags behind must not mix the gradients of two steps."""
    mine, stale = (Path(shutil.copytree(tiny_run, tmp_path / name)) for name in ("mine", "stale"))
    shutil.rmtree(stale / "checkpoints" / "12")
    ends = [programs.finish(p, timeout=60) for p in start_two(mine, other=stale)]
    assert [end.code for end in ends] == [2, 2], ends
    first, second = (end.err.splitlines()[-1] for end in ends)
    assert "not see the same checkpoints, this one [12, 6]" in first and "[6]" in second


def test_what_the_first_process_refuses_ends_both_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter").write_text("not a run's")
    ends = [programs.finish(process, timeout=60) for process in start_two(tmp_path / "run")]
    assert [end.code for end in ends] == [2, 2], ends
    lines = {end.err.splitlines()[-1] for end in ends}
    assert len(lines) == 1 and "is not a run folder and not empty" in lines.pop()
