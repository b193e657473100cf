"""A run's metrics on disk: lines that a resumed run would repeat are removed, as is half a line."""

import io
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from cnn_jax.errors import UserError
from cnn_jax.runs import journal
from cnn_jax.runs.journal import Record, read_curves, read_lines, shown

METRICS = {"loss": 0.5, "accuracy": 0.75}


def write_some(folder: Path, steps: list[int], start: int = 0, metrics_jsonl: str = "") -> None:
    with Record(folder, start, total_steps=40, metrics_jsonl=metrics_jsonl) as record:
        for step in steps:
            with record.dispatch(step - 10, step):
                pass
            record.training(step, METRICS, examples=8)
            record.evaluation(step, "test", METRICS | {"count": 3})


def test_a_member_that_diverged_is_shown_beside_the_others() -> None:
    nan, inf = float("nan"), float("inf")
    for loss in (nan, inf):
        with np.errstate(invalid="ignore"):
            line = shown({"loss": loss, "members": {"loss": [loss, 0.5]}})
        assert line == f"loss {loss:.4f} ± nan"
    assert shown({"loss": 1.5, "members": {"loss": [1.0, 2.0]}}) == "loss 1.5000 ± 0.7071"


def test_lines_after_the_step_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_some(tmp_path, [10, 20, 30])
    whole = (tmp_path / "metrics.jsonl").read_text()
    first_four = "".join(whole.splitlines(keepends=True)[:4])
    with Record(tmp_path, 20, total_steps=40, metrics_jsonl=first_four):
        pass
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [10, 10, 20, 20]
    assert [line["step"] for line in read_lines(tmp_path / "timing.jsonl")] == [20]
    write_some(tmp_path, [30], start=20, metrics_jsonl=first_four)
    assert (tmp_path / "metrics.jsonl").read_text() == whole
    assert capsys.readouterr().err == ""


DAMAGES: dict[str, Callable[[str], bytes]] = {
    "lost lines": lambda text: "".join(text.splitlines(keepends=True)[1:]).encode(),
    "a changed figure": lambda text: text.replace("0.75", "0.85", 1).encode(),
    "a line twice": lambda text: (text[: text.index("\n") + 1] + text).encode(),
    "bytes that are no text": lambda text: b"\xff\xfe" + text.encode()[2:],
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_lines_that_changed_since_are_taken_from_the_checkpoint(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_some(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.write_bytes(DAMAGES[damage](text))
    (tmp_path / "timing.jsonl").write_bytes(b'{"step": "x"}\n\xff\n[]\n{"step": 20}\n')
    with Record(tmp_path, 20, total_steps=40, metrics_jsonl=text):
        pass
    assert path.read_text() == text
    assert "metrics.jsonl was not as the run had left it" in capsys.readouterr().err
    assert (tmp_path / "timing.jsonl").read_text() == '{"step": 20}\n'


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "{}x",
        '{"step": "1"}',
        '{"step": 1, "split": 3}',
        '{"step": 1, "loss": "1"}',
        '{"step": 1, "members": [1]}',
        '{"loss": 1}',
        '{"step": 1, "loss": 1}\n{"step": 2, "accuracy": 1}',
        '{"step": 1, "loss": 1, "members": {"loss": [1, 2]}}\n{"step": 2, "loss": 1}',
    ],
)
def test_a_damaged_line_is_said(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match="metrics.jsonl is damaged"):
        read_curves(tmp_path)


@pytest.mark.parametrize("torn", ['{"step": 20, "split": "tr', '{"step": 20}', "{"])
def test_half_a_line_is_dropped(torn: str, tmp_path: Path) -> None:
    write_some(tmp_path, [10])
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [10, 10]
    with Record(tmp_path, 20, total_steps=40, metrics_jsonl=whole.decode()):
        pass
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_metrics_come_back_as_they_were(tmp_path: Path) -> None:
    values = {"loss": 1 / 3, "accuracy": 2.220446049250313e-16, "count": 10_000}
    with Record(tmp_path, 0, total_steps=1) as record:
        record.evaluation(1, "test", values)
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "test", **values}]


def test_the_rate_counts_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(journal.time, "perf_counter", lambda: now)
    with Record(tmp_path, 0, total_steps=100) as record:
        with record.dispatch(0, 10):
            now += 50  # compiling
        with record.dispatch(10, 20):
            now += 2
        with record.clock_stopped():
            now += 30  # an evaluation
        record.training(20, METRICS, examples=8)  # 2 s for 10 steps
        with record.dispatch(20, 24):
            now += 60  # a dispatch of another length is compiled
        with record.dispatch(24, 34):
            now += 7
        record.training(34, METRICS, examples=8)  # 7 s for 14 steps
    assert read_lines(tmp_path / "timing.jsonl") == [
        {"step": 20, "seconds": 82.0, "images_per_second": 40.0},
        {"step": 34, "seconds": 149.0, "images_per_second": 16.0},
    ]


def test_lines_are_plain_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_some(tmp_path, [10, 20])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\r" not in shown
    lines = shown.splitlines()
    assert len(lines) == 4
    assert lines[0] == "step 10/40  loss 0.5000  accuracy 0.7500"
    assert lines[1] == "step 10/40  test: loss 0.5000  accuracy 0.7500"
    assert "images/s" in lines[2] and lines[2].endswith(" left")


def test_on_a_terminal_a_bar_shows_the_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    terminal = journal.Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(journal, "Console", lambda: terminal)
    write_some(tmp_path, [10, 20])
    assert "20/40" in screen.getvalue() and "\x1b[" in screen.getvalue()


def test_a_quiet_record_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Record(tmp_path, 0, total_steps=40, quiet=True) as record:
        record.say("something")
        with record.dispatch(0, 10), record.clock_stopped():
            record.training(10, METRICS, examples=8)
        record.evaluation(10, "test", METRICS)
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_what_is_said_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[red]brackets[/red] and a line longer than eighty columns, which stays one line " * 2
    with Record(tmp_path, 0, total_steps=40) as record:
        record.say(text)
    assert capsys.readouterr().out == text + "\n"


def events(folder: Path) -> list[Any]:
    """All events of TensorBoard's files, in the order of writing."""
    read = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its checksum, event, its checksum
            (length,) = struct.unpack_from("<Q", content, at)
            read.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return read


def points(folder: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


def test_tensorboard_shows_the_same_curves(tmp_path: Path) -> None:
    write_some(tmp_path, [10, 20])
    curves = points(tmp_path)
    for line in read_lines(tmp_path / "metrics.jsonl"):
        for name in line.keys() - {"step", "split"}:
            assert (f"{line['split']}/{name}", line["step"], line[name]) in curves
    assert [step for tag, step, _ in curves if tag == "train/images_per_second"] == [20]


def test_tensorboard_keeps_what_was_before_a_restart_and_hides_what_was_after(
    tmp_path: Path,
) -> None:
    write_some(tmp_path, [10, 20])
    write_some(tmp_path, [20, 30], start=10)  # within the same second
    steps = [step for tag, step, _ in points(tmp_path) if tag == "test/loss"]
    assert steps == [10, 20, 20, 30]
    assert 11 in [event.step for event in events(tmp_path) if event.HasField("session_log")]


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_folder_that_was_removed_is_missed_at_the_next_line(
    made_anew: bool, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with journal.Record(run, 0, 10) as record:
        record.training(1, {"loss": 1.0}, 4)
        shutil.rmtree(run)
        if made_anew:  # as Orbax does
            (run / "checkpoints").mkdir(parents=True)
        for write in (record.flush, lambda: record.evaluation(2, "test", {"loss": 1.0})):
            with pytest.raises(UserError, match="run was removed while the run trained in it"):
                write()
    assert not (run / "metrics.jsonl").exists()
