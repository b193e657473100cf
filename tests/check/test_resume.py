"""`verify-resume` sees what a kill would change, and says when there is nothing."""

from pathlib import Path

import numpy as np
import programs
import pytest

from cnn_jax import __main__ as program
from cnn_jax.check import resume
from cnn_jax.check.resume import Verdict, differing, train_with_kills, verify_resume
from cnn_jax.errors import UserError

RANDOM = np.random.default_rng(0)
FLAGS = ("--steps", "300", "--checkpoint-every", "6", "--log-every", "6", "--eval-every", "300")

# A learning rate that is another one in every process.
FORGETFUL = """
import os
import optax
import tiny
from tiny import Config
from cnn_jax.cli import main
import dataclasses

def build(config, data_dir=None):
    experiment = tiny.build(config, data_dir)
    rate = 0.01 + os.getpid() % 1000 / 1e5
    return dataclasses.replace(experiment, optimizer=optax.sgd(rate))

if __name__ == "__main__":
    main(Config, build, tiny.OPTIONS)
"""


@pytest.mark.slow
def test_a_killed_run_is_found_identical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    flags = ("--kills", "1", "--scratch", str(tmp_path))
    program.main(["verify-resume", *programs.TINY, *FLAGS, *flags])
    said = capsys.readouterr().out
    assert "killed 1 times" in said and said.endswith("identical after 300 steps\n")


@pytest.mark.slow
def test_a_run_killed_while_saving_is_found_identical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--kills", "2", "--scratch", str(tmp_path))
    program.main(["verify-resume", *programs.TINY, *FLAGS, *flags])
    said = capsys.readouterr().out
    assert "killed 2 times" in said and said.endswith("identical after 300 steps\n")


def test_runs_that_differ_are_told_apart(tiny_run: Path, tmp_path: Path) -> None:
    assert differing(tiny_run, tiny_run) == []
    programs.train_tiny(tmp_path, "--learning-rate", 0.05)
    names = differing(tiny_run, tmp_path)
    assert {".params['output']['kernel']", "metrics.jsonl", "result.json"} <= set(names)
    assert ".step" not in names


def test_the_command_prints_what_differs_and_exits_with_the_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = Verdict(kills=3, kills_while_saving=1, steps=12, differing=[".params['a']"])
    monkeypatch.setattr(resume, "verify_resume", lambda *_: verdict)
    with pytest.raises(SystemExit) as ended:
        program.main(["verify-resume", *programs.TINY])
    assert ended.value.code == 1
    assert capsys.readouterr().out == "differs: .params['a']\nNOT identical after 12 steps\n"


@pytest.mark.slow
def test_a_run_that_depends_on_its_process_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(programs.ROOT / "tests"))
    script = tmp_path / "forgetful.py"
    script.write_text(FORGETFUL)
    with pytest.raises(SystemExit) as ended:
        program.main(
            ["verify-resume", str(script), *FLAGS, "--kills", "1", "--scratch", str(tmp_path / "s")]
        )
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "differs: .params[" in said and "differs: metrics.jsonl" in said


def test_a_run_too_short_to_be_killed_is_said(tmp_path: Path) -> None:
    script = tmp_path / "short.py"
    script.write_text("pass")
    (tmp_path / "straight").mkdir()
    (tmp_path / "straight" / "result.json").write_text('{"step": 3}')
    with pytest.raises(UserError, match="over after 0 of 1 kills: give it more steps"):
        train_with_kills(script, [], 1, tmp_path / "killed", tmp_path / "straight", RANDOM)
    with pytest.raises(UserError, match="is not empty: choose another --scratch"):
        verify_resume(script, [], 1, tmp_path, say=lambda _: None)


@pytest.mark.parametrize("name", ["experiments.nothing", "nothing.py"])
def test_an_experiment_that_is_not_there_is_said_in_a_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.assert_refused(["verify-resume", name], f"no experiment {name}", capsys)
