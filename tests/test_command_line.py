"""A mistake in a command line, or a limit of the machine, ends in one sentence and exit code 2."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import programs
import pytest
import tyro

from cnn_jax import __main__ as program
from cnn_jax.command_line.ending import exit_on_user_error
from cnn_jax.command_line.flags import local_path, parse
from cnn_jax.errors import UserError
from cnn_jax.errors.machine_limits import limit_reached


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
        ("--seed " + "9" * 5000, f"--seed takes a whole number, not '{'9' * 57}...'"),
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
        (f"shift RUN --stride {10**30}", f"--stride {10**30} is larger than --max-shift 12"),
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
    flags = parse(Flags, ["~/a", "b/~", "./~b", "--workdir=~/runs/a"])
    assert flags.runs == (tmp_path / "a", Path("b/~"), Path.cwd() / "~b")
    assert flags.workdir == tmp_path / "runs" / "a"
    assert local_path("digits:test:3") == Path("digits:test:3")


# ---- where to write ----

WRITERS = {  # commands, and the files that they write; without them they write a folder
    "maps RUN": "",
    "kernels RUN": "",
    "convolve digits:test:0": "",
    "maximize RUN --layer C1": "",
    "shift RUN": "",
    "evaluate RUN": "",
    "page RUN": ".html",
    "plot RUN": ".png",
}


@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_cannot_be_written_is_refused_before_a_run_is_opened(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = WRITERS[command]
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / f"full{suffix}").mkdir()
    (tmp_path / f"full{suffix}" / "file").write_bytes(b"mine")
    (tmp_path / f"link{suffix}").symlink_to("nothing")
    (tmp_path / f"there{suffix}").write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    refusals = {
        tmp_path / "file" / "below" / f"out{suffix}": "cannot be made in",
        tmp_path / f"there{suffix}": "exists" if suffix else "is not a folder",
        tmp_path / f"full{suffix}": "exists" if suffix else "is not empty",
        tmp_path / f"link{suffix}": "is a link to nothing",
        Path(f"/proc/none/out{suffix}"): "cannot be made in /proc",
        tmp_path / f"{300 * 'a'}{suffix}": "its name is too long",
    }
    if suffix:
        refusals[tmp_path / "out.txt"] = f"--out must end in {suffix}"
    for out, words in refusals.items():
        programs.assert_refused([*command.split(), "--out", str(out)], words, capsys)
    assert sorted(tmp_path.rglob("*")) == before


# ---- limits of the machine ----


def end_of(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which a program ends that raises an error."""
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise error
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


TENSORSTORE = "RESOURCE_EXHAUSTED: Error writing local file: No space left [os_error_code='28']"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "full", "a/b"), "the disk is full, so that a/b cannot be written"),
        (OSError(errno.EDQUOT, "full", "a/b"), "the disk quota is used up"),
        (OSError(errno.EFBIG, "large"), "ulimit -f"),
        (OSError(errno.EMFILE, "many", "a/b"), "too many files are open: raise the limit (ulimit"),
        (PermissionError(errno.EACCES, "no", "a/b"), "a/b cannot be read or written: permission"),
        (PermissionError(errno.EPERM, "no", "a/b"), "a/b cannot be read or written: permission"),
        (OSError(errno.EROFS, "no", "a/b"), "a/b cannot be written: its file system can only be"),
        (OSError(errno.ENAMETOOLONG, "no", 300 * "a"), f"{100 * 'a'}... cannot be opened: its nam"),
        (OSError(errno.ENOMEM, "no"), "the memory is used up"),
        (MemoryError(), "the memory is used up: lower the batch size"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\n allocating 9 bytes"),
            "the memory is us",
        ),
        (RuntimeError("can't start new thread"), "no more threads"),
        (ValueError(TENSORSTORE), "the disk is full"),
        (ExceptionGroup("two", [KeyError(1), OSError(errno.EMFILE, "many")]), "too many files"),
        (IsADirectoryError(errno.EISDIR, "no", "a/b"), "a/b is a folder where a file belongs"),
        (NotADirectoryError(errno.ENOTDIR, "no", "a/b"), "a part of its path is a file"),
        (FileExistsError(errno.EEXIST, "no", "a/b"), "a/b is in the way: move it away"),
        (UserError("two\nlines\x1b[2J"), "error: two lines\\x1b[2J\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_limit_is_said_as_that_limit(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in end_of(error, capsys)


def test_an_error_of_closing_does_not_hide_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_user_error():
        try:
            raise OSError(errno.ENOSPC, "full")
        finally:
            raise RuntimeError("cannot be closed")
    assert capsys.readouterr().err.startswith("error: the disk is full")


def test_ctrl_c_ends_with_the_code_of_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise KeyboardInterrupt
    assert (ended.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_a_bug_keeps_its_traceback() -> None:
    for error in (KeyError("x"), OSError(errno.ENOTCONN, "no"), RuntimeError("INTERNAL: x")):
        assert limit_reached(error) == ""
        with pytest.raises(type(error)), exit_on_user_error():
            raise error


READ_ONE_LINE = """
import os, sys
from cnn_jax.command_line.ending import exit_on_user_error, outliving_readers
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(writer)
os.close(reader)
sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
if sys.argv[1] == "training":
    with outliving_readers():
        for _ in range(3):
            print("a line", flush=True)
    sys.stderr.write("trained")
    sys.exit(0)
try:
    with exit_on_user_error():
        if sys.argv[1] == "rich":
            from rich.console import Console
            Console().print("a line")
        else:
            print("a line", flush=sys.argv[1] == "flushed")
except SystemExit as end:
    sys.stderr.write(f"ended with {end.code}")
    raise
"""


def test_an_output_that_is_full(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WRITES_TO_FULL, encoding="utf-8")
    code, _, err = programs.finish(programs.start(tmp_path / "program.py"))
    assert (code, err.splitlines()[0][:23]) == (2, "error: the disk is full") and len(err) < 200


WRITES_TO_FULL = """
import os, sys
from cnn_jax.command_line.ending import exit_on_user_error
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
sys.stdout = open(1, "w", closefd=False)
with exit_on_user_error():
    print("a line")
"""


@pytest.mark.parametrize("how", ["flushed", "buffered", "rich", "training"])
def test_a_reader_that_is_gone(how: str, tmp_path: Path) -> None:
    """As with `| head -1`. A command ends as other programs do; a training goes on."""
    (tmp_path / "program.py").write_text(READ_ONE_LINE, encoding="utf-8")
    code, _, err = programs.finish(programs.start(tmp_path / "program.py", how))
    said, ends = ("trained", 0) if how == "training" else ("ended with 141", 141)
    assert (code, err) == (ends, said)


def test_what_the_locale_cannot_write_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WRITES_GREEK, encoding="utf-8")
    finished = programs.finish(programs.start(tmp_path / "program.py"))
    assert finished.out == "\\u03b1 ± \\udcff\n".replace("±", "\\xb1") and finished.code == 0


WRITES_GREEK = """
import io, sys
from cnn_jax.command_line.ending import exit_on_user_error
sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii")
with exit_on_user_error():
    print("\\u03b1 \\xb1 \\udcff")
"""
