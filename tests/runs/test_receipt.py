"""The files of a run are tied to each other: what does not belong is refused, or said."""

import dataclasses
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import programs
import pytest
import tiny

from cnn_jax import __main__ as program
from cnn_jax import runs, trained
from cnn_jax.check.reproduce import reproduce
from cnn_jax.commands.arguments import trust_scripts
from cnn_jax.data.datasets import array_dataset
from cnn_jax.errors import UserError
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.runs import trust
from cnn_jax.runs.checkpoint import Checkpoints, Damaged
from cnn_jax.runs.environment import imported_scripts
from cnn_jax.trained import describe_data, load_experiment, restore

SCRIPT = Path(tiny.__file__)


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def other_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "run"
    programs.train_tiny(folder, "--seed", 3)
    return folder


def content(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def resume_refused(run: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Going on is refused in one line, and changes nothing."""
    (run / "result.json").unlink(missing_ok=True)
    before = content(run)
    with pytest.raises(SystemExit) as ended:
        programs.train_tiny(run)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert line.startswith("error: ") and message in line
    assert content(run) == before


# ---- a checkpoint belongs to its run and its step ----


def test_a_checkpoint_of_another_seed_is_refused(
    run: Path, other_seed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints" / "12")
    shutil.copytree(other_seed / "checkpoints" / "12", run / "checkpoints" / "12")
    (comparison,) = reproduce(run)
    (row,) = [row for row in comparison.rows if row.name == "receipt"]
    assert not row.matches and row.now == "seed was 3, is 0"
    evaluate_run(run)
    assert "not as it was trained: seed was 3, is 0" in capsys.readouterr().err
    resume_refused(run, "seed was 3, is 0", capsys)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints"
    (folder / "12").rename(folder / "7")
    (folder / "6").rename(folder / "12")
    (folder / "7").rename(folder / "6")
    for step in (6, 12):
        with pytest.raises(UserError, match=f"{step} was saved as step {18 - step}") as raised:
            evaluate_run(run, step=step)
        assert not isinstance(raised.value, Damaged)
    resume_refused(run, "12 was saved as step 6", capsys)
    (folder / "12").rename(folder / "20")
    resume_refused(run, "20 was saved as step 6", capsys)


EDITS: dict[str, Callable[[dict], object]] = {
    "seed": lambda content: content["config"].update(seed=1),
    "steps": lambda content: content["config"].update(steps=15),
    "learning_rate": lambda content: content["config"].update(learning_rate=0.2),
    "dataset's sha256": lambda content: content["dataset"].update(sha256="0" * 64),
    "dataset's classes": lambda content: content["dataset"]["classes"].reverse(),
    "dataset's mean": lambda content: content["dataset"].update(mean=[0.25]),
    "the script helper": lambda content: content["imports"].update(helper="0" * 64),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_receipt_is_said_where_the_run_is_opened(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.edit_json(run / "config.json", EDITS[name])
    evaluate_run(run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {run} is not as it was trained: ") and f"{name} was" in line


WRONG: dict[str, Callable[[dict], object]] = {
    "no options": lambda config: config.update(options={}),
    "no object": lambda config: config.update(continued=[1]),
    "a process without options": lambda config: config.update(continued=[{}]),
    "no dataset": lambda config: config.update(dataset={}),
    "a batch size in words": lambda config: config["config"].update(batch_size="x"),
    "other seeds": lambda config: config.update(several={"foo": 1}),
    "seeds in words": lambda config: config.update(several={"seeds": "x", "sweep": None}),
    "a batch of evaluation in words": lambda config: config["options"].update(eval_batch_size="x"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_receipt_of_wrong_types_is_refused(name: str, run: Path) -> None:
    programs.edit_json(run / "config.json", WRONG[name])
    with pytest.raises(UserError, match="config.json is damaged"):
        runs.describe(run)


def test_a_receipt_of_another_version_is_not_only_called_damaged(run: Path) -> None:
    programs.edit_json(run / "config.json", lambda config: config.pop("origin"))
    with pytest.raises(UserError, match="of another version of this package: it has no origin"):
        runs.describe(run)


def test_an_edited_script_is_said_where_the_run_is_opened(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = run / "experiment.py"
    script.write_text(script.read_text() + "# edited\n")
    trust.remember(script, script.parent)
    evaluate_run(run)
    assert "experiment.py has changed" in capsys.readouterr().err


def test_classes_in_another_order_are_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pixels and labels, and so their hashes, are the same."""
    experiment = load_experiment(run)
    dataset = dataclasses.replace(experiment.dataset, class_names=tuple("9876543210"))
    swapped = dataclasses.replace(experiment, dataset=dataset)
    monkeypatch.setattr(trained, "load_experiment", lambda *_: swapped)
    evaluate_run(run)
    assert "dataset's classes was ['0', '1'" in capsys.readouterr().err


# ---- what a run went on with ----


def test_a_run_that_goes_on_otherwise_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    programs.train_tiny(run, "--stop-at", 6)
    programs.train_tiny(run, "--accumulate", 2, "--eval-batch-size", 7)
    described = runs.describe(run)
    (process,) = described["continued"]
    assert process["step"] == 6 and process["options"]["accumulate"] == 2
    assert described["options"]["accumulate"] == 1
    (comparison,) = reproduce(run)  # evaluated with the batch size that the run ended with
    assert comparison.matches and comparison.tolerance == 0
    receipt = restore(run, 12).about["receipt"]
    assert receipt["options"]["accumulate"] == 2
    assert restore(run, 6).about["receipt"]["options"]["accumulate"] == 1
    assert set(runs.continuations(described)) == {
        "from step 6 on, accumulate was 1, is 2",
        "from step 6 on, eval_batch_size was 250, is 7",
    }
    before = (run / "config.json").read_bytes()
    programs.train_tiny(run, "--accumulate", 3)  # the run has ended: nothing goes on
    assert (run / "config.json").read_bytes() == before


def test_a_refusal_overrides_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(run)
    with pytest.raises(SystemExit) as ended:
        programs.train_tiny(run, "--steps", 9, "--override-config")
    assert ended.value.code == 2 and "past the 9" in capsys.readouterr().err
    assert content(run) == before


def test_metrics_that_are_gone_come_back(
    run: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (tiny_run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run / "checkpoints" / "12")
    (run / "result.json").unlink()
    (run / "metrics.jsonl").unlink()
    programs.train_tiny(run)
    assert (run / "metrics.jsonl").read_bytes() == whole
    assert "metrics.jsonl was not as the run had left it" in capsys.readouterr().err


# ---- scripts that a script imports, and scripts of strangers ----


@pytest.fixture
def with_helper(tmp_path: Path) -> Path:
    """A run of a script that imports a file beside it; both lie in tmp_path / "mine"."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "parts_of_mine.py").write_text("RATE = 0.1\n")
    (folder / "mine.py").write_text(
        f"import sys\nsys.path.append({str(SCRIPT.parent)!r})\n"
        "import dataclasses\nimport parts_of_mine\nimport tiny\nfrom cnn_jax.cli import main\n"
        "@dataclasses.dataclass(frozen=True)\nclass Config(tiny.Config):\n    steps: int = 3\n"
        "build = tiny.build\n"
        "if __name__ == '__main__':\n    main(Config, build)\n"
    )
    programs.succeed(programs.start(folder / "mine.py", "--workdir", folder / "run"))
    return folder


def test_a_run_of_a_script_that_imports_its_neighbour(
    with_helper: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "parts_of_mine", raising=False)
    run = with_helper / "run"
    (comparison,) = reproduce(run)
    assert {row.name: row.matches for row in comparison.rows}["receipt"]
    (with_helper / "parts_of_mine.py").write_text("RATE = 0.2\n")
    evaluate_run(run)
    said = capsys.readouterr().err
    assert "parts_of_mine, which experiment.py imports, has changed" in said


def test_another_file_of_the_same_name_is_not_taken_for_the_one_that_a_run_needs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where two runs are opened whose scripts import different files of one name."""
    mine, other = tmp_path / "mine", tmp_path / "other.py"
    mine.mkdir()
    (mine / "parts_of_two.py").write_text("RATE = 0.1")
    other.write_text("RATE = 0.2")
    imports = {"parts_of_two": hashlib.sha256(b"RATE = 0.1").hexdigest()}
    programs.edit_json(
        run / "config.json", lambda c: c.update(imports=imports, origin=str(mine / "tiny.py"))
    )
    monkeypatch.setitem(sys.modules, "parts_of_two", SimpleNamespace(__file__=str(other)))
    with pytest.raises(UserError, match="one at a time"):
        load_experiment(run)
    other.write_text("RATE = 0.1")
    load_experiment(run)


def test_the_content_of_any_split_that_is_trained_on_is_in_the_receipt() -> None:
    examples = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
    others = np.ones_like(examples[0]), examples[1]

    def described(split: str, extra: Any) -> dict[str, Any]:
        data = array_dataset("x", {"train": examples, "extra": extra}, ["a", "b"])
        experiment: Any = SimpleNamespace(dataset=data, train_split=split, eval_split="train")
        return describe_data(experiment)

    for split in ("extra", "train+extra", "extra[:2]"):
        assert described(split, examples) != described(split, others)
    assert described("train[:2]", examples) == described("train[:2]", others)


def test_data_that_have_moved_are_found_where_the_run_went_on_with_them(
    run: Path, tmp_path: Path
) -> None:
    shutil.copytree(os.environ["TFDS_DATA_DIR"], tmp_path / "moved")
    programs.train_tiny(run, "--data-dir", tmp_path / "moved")
    assert runs.load(run)[2] == tmp_path / "moved"
    assert runs.describe(run)["continued"] == []  # which changes no number


def test_a_result_whose_checkpoints_are_gone_makes_place_for_the_new_one(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    programs.train_tiny(run, "--keep", 2)
    (comparison,) = reproduce(run)
    assert comparison.matches
    assert (run / "result-1.json").exists()


def test_the_files_of_packages_are_scripts_that_a_script_imports(tmp_path: Path) -> None:
    """Whatever the encoding of the files, and however they name each other."""
    files = {
        "mine.py": "\N{ZERO WIDTH NO-BREAK SPACE}import parts.deep.nets\nimport parts_of_c3",
        "parts/__init__.py": "from . import rates\nfrom .deep import *",
        "parts/rates.py": "",
        "parts/deep/__init__.py": "from ..losses import loss",
        "parts/deep/nets.py": "",
        "parts/losses.py": "import absent",
        "parts_of_c3.py": "print 'not of this version'",
        "unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "parts" / "rates.py").write_bytes(b"# coding: latin-1\n# \xe9\nimport unused")
    names = ["", ".deep", ".deep.nets", ".losses", ".rates"]
    assert list(imported_scripts(tmp_path / "mine.py")) == [
        *(f"parts{name}" for name in names),
        "parts_of_c3",
        "unused",
    ]


def test_a_folder_that_a_receipt_names_is_not_searched_unless_it_is_trusted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = tmp_path / "evil"
    programs.edit_json(
        run / "config.json", lambda config: config.update(origin=str(evil / "tiny.py"))
    )
    load_experiment(run)
    assert str(evil) not in sys.path
    trust_scripts(True, [run])
    load_experiment(run)
    assert str(evil) in sys.path
    sys.path.remove(str(evil))


def test_trust_that_cannot_be_noted_holds_for_this_process(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nothing")
    with pytest.raises(UserError, match="--trust"):
        load_experiment(run)
    trust_scripts(True, [run])
    load_experiment(run)


def test_a_strangers_script_is_not_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = run / "experiment.py"
    script.write_text("print('I was run')\n" + script.read_text())
    with pytest.raises(UserError, match="never run here.*--trust"):
        load_experiment(run)
    for command in (["evaluate"], ["reproduce"], ["kernels"]):
        programs.assert_refused([*command, str(run)], "--trust", capsys)
    program.main(["evaluate", str(run), "--trust"])
    assert "I was run" in capsys.readouterr().out
    load_experiment(run)  # from then on it is trusted


def test_trust_in_what_is_no_run_is_refused_as_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.assert_refused(["evaluate", str(tmp_path), "--trust"], "is not a run folder", capsys)


def test_a_script_of_this_installation_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere")
    trust.check(trust.EXPERIMENTS / "lenet5_digits.py")
    with pytest.raises(UserError, match="--trust"):
        trust.check(SCRIPT)
    with pytest.raises(UserError, match=r"absent\.py cannot be read"):
        trust.check(SCRIPT.parent / "absent.py")


# ---- other people, other file systems ----


def test_files_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        programs.train_tiny(tmp_path / "run", "--steps", 3)
    finally:
        os.umask(before)
    modes = {p: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "run").rglob("*")}
    assert set(modes.values()) == {0o640, 0o750}, modes


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
@pytest.mark.parametrize("name", ["config.json", "experiment.py", "checkpoints/12/default"])
def test_what_may_not_be_read_is_not_called_damaged(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_experiment(run)  # imports what another user may not
    for parent in (*run.parents[:3], Path(os.environ["XDG_STATE_HOME"]).parent):
        parent.chmod(0o755)
    (run / name).chmod(0)
    os.seteuid(12345)
    try:
        programs.assert_refused(["evaluate", str(run)], "ermission denied", capsys)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with runs.claim(
        tmp_path / "run", SCRIPT, runs.identity(SCRIPT, tiny.Config(), {}), tiny.OPTIONS
    ):
        pass
    assert "has no locks" in capsys.readouterr().err


def test_a_checkpoint_removed_by_a_run_that_trains_is_passed_over(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the reader opens the last one, a newer one takes its place."""
    shutil.move(run / "checkpoints" / "12", run / "newer")
    read = Checkpoints.restore

    def replaced(checkpoints: Checkpoints, step: int, like: Any) -> Any:
        if step == 6 and (run / "newer").exists():
            shutil.move(run / "newer", run / "checkpoints" / "12")
            shutil.rmtree(run / "checkpoints" / "6")
        return read(checkpoints, step, like)

    monkeypatch.setattr(Checkpoints, "restore", replaced)
    assert restore(run).step == 12
