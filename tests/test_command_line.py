"""A mistake in a command line, or a limit of the machine, ends in one sentence and exit code 2."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import tyro

from cnn_jax import __main__ as program
from cnn_jax.command_line import local_path, parse
from cnn_jax.errors import UserError


@dataclass(frozen=True)
class Flags:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    workdir: Path | None = None
    learning_rate: float = 0.1
    seed: int = 0
    feed: Literal["auto", "resident", "stream"] = "auto"
    step: int | Literal["best"] | None = None
    at: tuple[int, int] | None = None
    split: str = "test"


@dataclass(frozen=True)
class Required(Flags):
    layer: str = tyro.MISSING


def said(form: Any, line: str) -> str:
    with pytest.raises(UserError) as error:
        parse(form, line.split(" "))
    return str(error.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--learning-rat 1", "there is no flag --learning-rat: did you mean --learning-rate?"),
        ("--learning_rat=1", "there is no flag --learning_rat: did you mean --learning-rate?"),
        ("--zzz", "there is no flag --zzz: --help lists the flags"),
        ("--seed 1 2 --split", "--split needs a value: STR"),
        ("--seed", "--seed needs a value: a whole number"),
        ("--seed --split x", "--seed needs a value: a whole number"),
        ("--seed many", "--seed takes a whole number, not 'many'"),
        ("--seed=1.5", "--seed takes a whole number, not '1.5'"),
        ("--seed " + "9" * 5000, f"--seed takes a whole number, not '{'9' * 60}...'"),
        ("--learning-rate fast", "--learning-rate takes a number, not 'fast'"),
        ("--feed steam", "--feed cannot be 'steam': did you mean stream?"),
        ("--feed drip", "--feed cannot be 'drip': there are auto, resident, stream"),
        ("--workdir=", "--workdir is empty"),
        ("--split  --seed 1", "--split is empty"),
        ("", "an argument is empty"),
        ("--workdir gs://b/x", "gs://b/x is a URL: give a path of this machine's file system"),
        ("file:///x", "file:///x is a URL: give a path of this machine's file system"),
        (
            "a ~nosuchuser/x",
            "~nosuchuser/x: the home ~nosuchuser is not known; write the path out,",
        ),
    ],
    ids=lambda text: text[:20],
)
def test_a_mistake_in_the_flags(line: str, sentence: str) -> None:
    assert said(Flags, line).startswith(sentence)


def test_what_is_missing() -> None:
    assert said(Required, "--seed 1") == "--layer STR is missing"
    assert said(Required, "--laier x") == "there is no flag --laier: did you mean --layer?"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("evalute RUN", "there is no command 'evalute': did you mean evaluate?"),
        ("data prepar mnist", "there is no command 'prepar': did you mean prepare?"),
        ("data", "name a command: prepare, list, info"),
        ("evaluate RUN --spilt test", "there is no flag --spilt: did you mean --split?"),
        ("evaluate RUN --step worst", "--step takes STEP|best, not 'worst'"),
        ("convolve a.png --at 1", "--at takes ROW COLUMN, not '1'"),
        ("convolve a.png b.png", "unexpected 'b.png': nothing takes this value"),
        ("maximize", "RUN and --layer LAYER are missing"),
        ("convolve s3://b/a.png", "s3://b/a.png is a URL"),
        ("verify-resume ~nosuchuser/a.py", "~nosuchuser/a.py: the home ~nosuchuser is not known"),
        ("evaluate gs://b/run", "gs://b/run is a URL"),
    ],
)
def test_a_mistake_in_a_command(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refusal:
        program.main(line.split(" "))
    assert refusal.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {sentence}") and err.count("\n") == 1


def test_a_path_may_begin_at_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a shell leaves it in --flag=~/x."""
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = parse(Flags, ["~/a", "b/~", "--workdir=~/runs/a"])
    assert flags.runs == (tmp_path / "a", Path("b/~"))
    assert flags.workdir == tmp_path / "runs" / "a"
    assert local_path("digits:test:3") == Path("digits:test:3")
