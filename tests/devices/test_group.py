"""Processes that differ, or are missing, end in one line in each of them, and soon."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import programs
import pytest
from test_parallel import free_port
from test_signals import LONG, when_training

from cnn_jax.devices import group
from cnn_jax.devices.group import Place
from cnn_jax.errors import UserError

SAME = {"--seed": 0, "JAX": "0.10", "jax_enable_x64": "False"}


def meet(*processes: tuple[int, int, dict[str, Any]], address: str | None = None) -> list[str]:
    """What processes, each (count, number, settings), are told when they meet; "" for a welcome."""
    address = address or f"localhost:{free_port()}"
    told = [""] * len(processes)

    def come(index: int, count: int, number: int, settings: dict[str, Any]) -> None:
        try:
            place = Place(address, count, number, None)
            partners = group._meet(place, {"--num-processes": count, **settings})
            assert len(partners) == (count - 1 if number == 0 else 1)
        except UserError as error:
            told[index] = str(error)

    threads = [
        threading.Thread(target=come, args=(index, *about)) for index, about in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return told


def test_equal_processes_meet() -> None:
    assert meet((3, 2, SAME), (3, 0, SAME), (3, 1, SAME)) == ["", "", ""]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"--seed": 1}, ["--seed is 0 in process 0 and 1 in process 1"]),
        ({"JAX": "0.9", "--seed": 2}, ["--seed is 0", "JAX is '0.10' in process 0 and '0.9' in"]),
        ({"--surplus": None, "--seed": None}, ["--seed is 0 in process 0 and None"]),
        ({"jax_enable_x64": "True"}, ["jax_enable_x64 is 'False' in process 0 and 'True'"]),
    ],
)
def test_what_differs_is_named_in_every_process(other: dict[str, Any], words: list[str]) -> None:
    first, second, third = meet((3, 0, SAME), (3, 1, SAME | other), (3, 2, SAME))
    assert first == second == third
    assert all(word in first for word in words), first


def test_a_number_that_comes_twice_is_named() -> None:
    told = meet((3, 0, SAME), (3, 1, SAME), (3, 1, SAME))
    assert len(set(told)) == 1 and "two processes came as process 1" in told[0]


@pytest.mark.parametrize("counts", [(2, 3), (3, 2)])
def test_processes_that_count_differently_do_not_wait(counts: tuple[int, int]) -> None:
    told = meet((counts[0], 0, SAME), (counts[1], 1, SAME))
    assert len(set(told)) == 1
    assert f"--num-processes is {counts[0]} in process 0 and {counts[1]} in" in told[0]


def test_a_missing_process_is_named_by_those_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "MEETING_SECONDS", 0.5)
    told = meet((3, 0, SAME), (3, 2, SAME))
    assert len(set(told)) == 1 and "process 1 of 3 has not come" in told[0]
    (alone,) = meet((2, 1, SAME))
    assert "process 1 finds no process 0 at localhost:" in alone


def test_a_port_that_another_program_has_is_named() -> None:
    with socket.create_server(("", 0)) as listener:
        address = f"localhost:{listener.getsockname()[1]}"
        (told,) = meet((2, 0, SAME), address=address)
    assert f"process 0 cannot listen at {address} (Address already in use)" in told


def test_a_stranger_at_the_port_is_sent_away() -> None:
    address = f"localhost:{free_port()}"
    told: list[str] = []
    meeting = threading.Thread(
        target=lambda: told.extend(meet((2, 0, SAME), (2, 1, SAME), address=address))
    )
    meeting.start()
    with contextlib.suppress(OSError), socket.socket() as stranger:
        stranger.connect(("localhost", int(address.rpartition(":")[2])))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.recv(100)
    meeting.join(20)
    assert told == ["", ""]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("h:1", None, None), "go together"),
        ((None, 2, 0), "go together"),
        (("h:1", 2, None), "go together"),
        ((None, None, 1), "go together"),
        (("h:1", 2, 2), "--process-id must be at least 0 and below 2"),
        (("h:1", 2, -1), "--process-id must be at least 0 and below 2"),
        (("h", 2, 0), "--coordinator is host:port"),
        (("h:port", 2, 0), "--coordinator is host:port"),
        (("h:99999", 2, 0), "--coordinator is host:port"),
        (("h:²", 2, 0), "--coordinator is host:port"),  # a digit, but no number
    ],
)
def test_a_place_is_checked(arguments: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        group.find_place(False, *arguments)


def test_a_run_without_a_cluster_or_an_address_is_of_one_process() -> None:
    assert group.find_place(False, None, None, None) is None
    with pytest.raises(UserError, match="--distributed finds no cluster"):
        group.find_place(True, None, None, None)


@pytest.mark.parametrize(("explicit", "number"), [((None, None, None), 3), (("h:7", 4, 1), 1)])
def test_a_cluster_names_the_place_unless_flags_do(
    explicit: Any, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = {
        "SLURM_JOB_ID": "65537",
        "SLURM_STEP_NODELIST": "node[7-8]",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
    }
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    place = group.find_place(True, *explicit)
    assert place is not None
    address = place.coordinator if explicit[0] else place.coordinator.rpartition(":")[0]
    assert (address, *place[1:]) == (explicit[0] or "node7", 4, number, [1])
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "gateway:9")
    place = group.find_place(True, *explicit)
    assert place is not None and place.coordinator == (explicit[0] or "gateway:9")


# ---- the same with programs ----


def start_group(
    folder: Path,
    flags: Sequence[Sequence[object]],
    scripts: Sequence[Path] = (Path(programs.TINY[0]),) * 2,
) -> list[programs.Program]:
    """Two processes of one run."""
    together = ("--workdir", folder / "run", "--coordinator", f"localhost:{free_port()}")
    return [
        programs.start(
            *(scripts[number], *together, "--num-processes", 2, "--process-id", number),
            *flags[number],
        )
        for number in (0, 1)
    ]


def ends_of(processes: Sequence[programs.Program], code: int = 2) -> list[str]:
    """The last line of each of some processes that all must end within a minute."""
    ends = [programs.finish(process, timeout=60) for process in processes]
    assert [end.code for end in ends] == [code] * len(ends), ends
    assert not any("Check failure stack trace" in end.err for end in ends), ends
    return [end.err.splitlines()[-1] for end in ends]


def test_another_option_in_one_process_ends_both(tmp_path: Path) -> None:
    """Without a word they would wait for each other, each in another program."""
    first, second = ends_of(start_group(tmp_path, [(), ("--eval-every", 7)]))
    assert first == second
    assert "--eval-every is 6 in process 0 and 7 in process 1" in first
    assert not (tmp_path / "run").exists()


FLAGS = {
    "a rate": ("--learning-rate", 0.2),
    "a seed": ("--seed", 1),
    "a batch": ("--batch-size", 48),
    "more steps": ("--steps", 24),
    "evaluations": ("--eval-every", 3),
    "an evaluation batch": ("--eval-batch-size", 60),
    "pieces": ("--accumulate", 2),
    "lines": ("--log-every", 3),
    "checkpoints": ("--checkpoint-every", 3),
    "dispatches": ("--steps-per-dispatch", 2),
    "an end": ("--stop-at", 6),
    "a feed": ("--feed", "stream"),
    "seeds": ("--seeds", 2),
    "a sweep": ("--sweep", "learning_rate=0.1,0.2"),
    "the cost": ("--preflight",),
    "an override": ("--override-config",),
    "kernels": ("--deterministic",),
}
ENVIRONMENT = {
    "64 bits": {"JAX_ENABLE_X64": "true"},
    "precision": {"JAX_DEFAULT_MATMUL_PRECISION": "highest"},
    "another generator": {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
    "no compilation": {"JAX_DISABLE_JIT": "true"},
    "XLA": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLAGS)
def test_another_flag_ends_both_with_its_name(kind: str, tmp_path: Path) -> None:
    first, second = ends_of(start_group(tmp_path, [(), FLAGS[kind]]))
    assert first == second and "the processes of this run differ" in first
    assert str(FLAGS[kind][0]) in first
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENVIRONMENT)
def test_another_setting_ends_both_with_its_name(kind: str, tmp_path: Path) -> None:
    """In processes that import JAX themselves, since it reads these variables once."""
    command = [sys.executable, *programs.TINY, "--workdir", str(tmp_path / "run")]
    command += ["--coordinator", f"localhost:{free_port()}", "--num-processes", "2"]
    here = os.environ | {"PYTHONPATH": str(programs.ROOT)}
    processes = [
        subprocess.Popen(
            [*command, "--process-id", str(number)],
            env=here | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, environment in enumerate(({}, ENVIRONMENT[kind]))
    ]
    first, second = (process.communicate(timeout=60)[1].splitlines()[-1] for process in processes)
    assert [process.returncode for process in processes] == [2, 2]
    assert first == second and "the processes of this run differ" in first
    assert next(iter(ENVIRONMENT[kind])).lower() in first.lower()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_script_in_one_process_ends_both(tmp_path: Path) -> None:
    scripts = [tmp_path / name / "tiny.py" for name in "ab"]
    for script, more in zip(scripts, ("", "\n"), strict=True):
        script.parent.mkdir()
        script.write_text(Path(programs.TINY[0]).read_text() + more)
    first, second = ends_of(start_group(tmp_path, [(), ()], scripts=scripts))
    assert first == second and "the script tiny is" in first


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_mistake_of_one_process_alone_ends_both(number: int, tmp_path: Path) -> None:
    """Data that only one of two machines lacks."""
    flags: list[tuple[object, ...]] = [("--dataset", "mnist"), ("--dataset", "mnist")]
    empty = tmp_path / "empty"
    empty.mkdir()
    flags[number] += ("--data-dir", empty)
    lines = ends_of(start_group(tmp_path, flags))
    assert all("'mnist' is not prepared" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_dies_ends_the_other_in_one_line(number: int, tmp_path: Path) -> None:
    processes = start_group(tmp_path, [LONG, LONG])
    when_training(tmp_path / "run")
    processes[number].kill()
    programs.finish(processes[number])
    end = programs.finish(processes[1 - number], timeout=60)
    assert end.code != 0
    assert f"process {number} of this run has ended without a word" in end.err
