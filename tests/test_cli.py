"""What a user gets wrong ends in one clear line and exit code 2, with nothing written."""

import contextlib
import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import programs
import pytest
import tiny

from cnn_jax import cli, runs
from cnn_jax.check.reproduce import reproduce
from cnn_jax.data import array_dataset, content_sha256
from cnn_jax.errors import UserError
from cnn_jax.options import Options
from cnn_jax.runs.environment import ROOTS, imported_scripts
from cnn_jax.seeds import Several
from experiments import lenet5_fashion_mnist, lenet5_mnist


def refused(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a call of `tiny.py` ends with."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(tiny.Config, tiny.build, tiny.OPTIONS, arguments=list(map(str, arguments)))
    assert exit_.value.code == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and "Traceback" not in said.out
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning-rat", "1"], ["--learning-rat"]),
        (["--batch-size", "many"], ["--batch-size", "many"]),
        (["--feed", "drip"], ["--feed", "drip"]),
        (["surplus"], ["surplus"]),
        (
            ["--dataset", "mnist"],
            ["'mnist' is not prepared", "python -m cnn_jax data prepare mnist"],
        ),
        (["--dataset", "folder/x"], ["python -m cnn_jax data prepare folder/x"]),
        (["--eval-split", "validation"], ["no split 'validation'", "train", "test"]),
        (["--train-split", "training"], ["no split 'training'", "train", "test"]),
        (["--train-split", "train[:0%]"], ["train[:0%]", "no examples"]),
        (["--coordinator", "localhost:1"], ["--coordinator", "--num-processes", "--process-id"]),
        (["--process-id", "1"], ["--coordinator", "--num-processes", "--process-id"]),
        (["--accumulate", "5"], ["24", "5 micro-batches"]),
        (["--batch-size", "0"], ["at least 1"]),
        (["--steps", "0"], ["at least 1"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("-") else "",
)
def test_a_mistake_in_the_flags(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refused(["--workdir", tmp_path / "run", *arguments], capsys)
    assert all(word in line for word in words), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "least"),
    [
        ("--steps-per-dispatch", 1),
        ("--accumulate", 1),
        ("--log-every", 1),
        ("--eval-every", 0),
        ("--checkpoint-every", 0),
        ("--keep", 1),
        ("--eval-batch-size", 1),
        ("--readers", 0),
        ("--stop-at", 1),
    ],
)
def test_a_number_that_makes_no_sense(
    flag: str, least: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(["--workdir", tmp_path / "run", flag, least - 1], capsys)
    assert flag in line and f"at least {least}" in line
    assert not (tmp_path / "run").exists()


def test_another_config_in_the_same_folder(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(tiny_run)
    line = refused(["--workdir", tiny_run, "--seed", 3, "--learning-rate", 0.5], capsys)
    assert "seed is 0 there and 3 here" in line
    assert "learning_rate is 0.1 there and 0.5 here" in line
    assert content(tiny_run) == before


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_experiment_in_the_same_folder(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"experiment": "lenet5_mnist"}))
    line = refused(["--workdir", run], capsys)
    assert "experiment is 'lenet5_mnist' there and 'tiny' here" in line


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints", "experiment.py.bak"])
def test_a_folder_of_something_else(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    assert "not a run folder and not empty" in refused(["--workdir", tmp_path], capsys)
    assert content(tmp_path) == {tmp_path / name: b"mine"}


def test_a_file_for_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    assert "not a run folder" in refused(["--workdir", tmp_path / "run"], capsys)
    assert "run" in refused(["--workdir", tmp_path / "run" / "below"], capsys)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("text", ["", '{"experiment": "ti', "[]", "{}"])
def test_a_damaged_config(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "config.json is damaged" in refused(["--workdir", tmp_path], capsys)
    assert content(tmp_path) == {tmp_path / "config.json": text.encode()}


# ---- the run folder ----


SCRIPT = Path(tiny.__file__)
IDENTITY = runs.identity(SCRIPT, tiny.Config(), {"name": "digits", "train": 1437})


def claim(folder: Path) -> contextlib.AbstractContextManager[Any]:
    return runs.claim(folder, SCRIPT, IDENTITY, tiny.OPTIONS)


def test_a_start_that_was_killed_before_its_config_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed half-way through each of the files that a start writes, one after the other."""
    write = Path.write_bytes

    def killed(path: Path, content: Any) -> None:
        if isinstance(content, bytes):  # of the script; the config is renamed when it is whole
            write(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    for name in ("write_bytes", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, name, killed)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a kill cleans up nothing
            with claim(tmp_path / "run"):
                pass
    assert list((tmp_path / "run").glob(".config.json.*"))
    with claim(tmp_path / "run"):
        build, config, data_dir = runs.load(tmp_path / "run")
    assert vars(config) == vars(tiny.Config()) and callable(build) and data_dir is None
    assert (tmp_path / "run" / "experiment.py").read_bytes() == SCRIPT.read_bytes()


def test_two_programs_do_not_train_in_one_folder(tmp_path: Path) -> None:
    with claim(tmp_path / "run"):
        with pytest.raises(UserError, match="is in use"), claim(tmp_path / "run"):
            pass
    with claim(tmp_path / "run"):
        pass


def test_other_data_are_another_run(tmp_path: Path) -> None:
    with claim(tmp_path / "run"):
        other = runs.identity(SCRIPT, tiny.Config(), {"name": "digits, corrected", "train": 1437})
        with pytest.raises(UserError, match="dataset's name is 'digits' there and 'digits, corr"):
            runs.check(tmp_path / "run", SCRIPT, other)


def test_a_script_that_changed_since_is_another_run(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (run / "experiment.py").write_text(SCRIPT.read_text() + "# as it was\n")
    assert "has changed since the run" in refused(["--workdir", run], capsys)


def test_a_recipe_that_changed_in_another_script_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its default folder is another."""
    recipe, script = tmp_path / "recipe.py", tmp_path / "script.py"
    (tmp_path / "deeper.py").write_text("x = 1\n")
    recipe.write_text(
        "import json\nfrom deeper import x\nfrom experiments import lenet5_fashion_mnist\n"
    )
    script.write_text("import tiny\n\nfrom recipe import x\n")
    named = imported_scripts(script)
    fashion = {f"experiments.lenet5_{x}mnist" for x in ("fashion_", "")}
    assert named.keys() == {"recipe", "deeper"} | fashion
    run, described = (
        tmp_path / "run",
        runs.identity(script, tiny.Config(), {"name": "digits", "train": 1437}),
    )
    with runs.claim(run, script, described, Options()):
        before = runs.default_folder(script, tiny.Config())
    (tmp_path / "deeper.py").write_text("x = 2\n")
    changed = runs.identity(script, tiny.Config(), {"name": "digits", "train": 1437})
    with pytest.raises(UserError, match="the script deeper is .* there and .* here"):
        runs.check(run, script, changed)
    assert runs.default_folder(script, tiny.Config()) != before


def test_the_scripts_of_a_package_are_a_runs_too(tmp_path: Path) -> None:
    files = {
        "script.py": "import parts\nfrom parts.deep import noise\nimport empty.parts\n",
        "parts/__init__.py": "from .scale import SCALE\nfrom . import shift as moved\n",
        "parts/scale.py": "SCALE = 1.0\n",
        "parts/shift.py": "",
        "parts/deep/__init__.py": "",
        "parts/deep/noise.py": "from ..shift import x\nfrom .. import last\n",
        "parts/last.py": "x = 1\n",
        "empty/parts.py": "x = 1\n",  # of a folder that is a package without __init__.py
        "scale.py": "SCALE = 2.0\n",  # another one
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert imported_scripts(tmp_path / "script.py").keys() == {
        "parts", "parts.scale", "parts.shift", "parts.deep", "parts.deep.noise", "parts.last",
        "empty.parts",
    }  # fmt: skip


def test_a_run_says_what_it_was_made_of(tiny_run: Path) -> None:
    described = json.loads((tiny_run / "config.json").read_text())
    assert described["experiment"] == "tiny"
    assert described["config"] == dataclasses.asdict(tiny.Config())
    assert described["options"]["steps_per_dispatch"] == tiny.OPTIONS.steps_per_dispatch
    data = tiny.build(tiny.Config()).dataset
    assert described["dataset"] == {
        "name": "digits",
        "version": data.version,
        "sha256": data.statistics.sha256,
        "eval_sha256": content_sha256(data, "test"),
        "train": 1437,
        "eval": 360,
        "classes": list("0123456789"),
        "mean": list(data.mean),
        "std": list(data.std),
    }
    assert described["environment"]["devices"] == jax.device_count()
    assert described["environment"]["packages"].keys() >= set(ROOTS)


def test_the_default_folder_follows_config_and_script(tmp_path: Path) -> None:
    changed = tmp_path / "tiny.py"
    changed.write_text(SCRIPT.read_text() + "# changed\n")
    cases = [(SCRIPT, 0), (SCRIPT, 0), (SCRIPT, 1), (changed, 0)]
    folders = {runs.default_folder(script, tiny.Config(seed=seed)) for script, seed in cases}
    assert len(folders) == 3
    assert all(folder.parent == Path("runs") and folder.name[:5] == "tiny-" for folder in folders)


def test_numbers_are_the_same_however_they_are_written() -> None:
    assert runs.to_json(tiny.Config(learning_rate=1)) == runs.to_json(
        tiny.Config(learning_rate=1.0)
    )
    described = runs.to_json(Options(workdir=Path("here")))
    assert described["workdir"] == str(Path.cwd() / "here") and described["data_dir"] is None


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(tiny.Config, tiny.build, tiny.OPTIONS, arguments=[flag])
    assert not exit_.value.code
    shown = capsys.readouterr().out
    classes = (tiny.Config, Options, Several, cli.Preflight)
    for field in [field for flags in classes for field in dataclasses.fields(flags)]:
        assert "--" + field.name.replace("_", "-") in shown


# ---- overriding the config of a run ----


def test_another_config_goes_on_only_when_it_is_overridden(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    ended = (run / "result.json").read_bytes()
    changed = ("--learning-rate", 0.05, "--steps", 15)
    with pytest.raises(SystemExit):
        programs.train_tiny(run, *changed)
    assert programs.train_tiny(run, *changed, "--override-config")["step"] == 15
    described = json.loads((run / "config.json").read_text())
    assert described["config"]["learning_rate"] == 0.05
    assert [old["learning_rate"] for old in described["overridden"]] == [0.1]
    assert json.loads((run / "result.json").read_text())["step"] == 15
    assert (run / "result-1.json").read_bytes() == ended
    with pytest.raises(UserError, match="overridden on the way"):
        reproduce(run, retrain=True, scratch=tmp_path / "again")


@pytest.mark.parametrize("change", [("--batch-size", 12), ("--seed", 1), ("--train-split", "test")])
def test_what_decides_the_order_of_examples_cannot_be_overridden(
    change: tuple[str, object], tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_run / "config.json").read_bytes()
    with pytest.raises(SystemExit):
        programs.train_tiny(tiny_run, *change, "--override-config")
    assert "holds another run" in capsys.readouterr().err
    assert (tiny_run / "config.json").read_bytes() == before


def test_deterministic_kernels_are_chosen_before_devices_are(tmp_path: Path) -> None:
    """A flag that is set with theirs shows in the number of devices."""
    programs.run_code(TWO_DEVICES, "--workdir", tmp_path, "--deterministic")
    environment = json.loads((tmp_path / "config.json").read_text())["environment"]
    assert "--xla_gpu_deterministic_ops=true" in environment["xla_flags"].split()
    assert environment["devices"] == 2


TWO_DEVICES = f"""
import os, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import tiny
from cnn_jax import cli
choose = cli.process.choose_deterministic_kernels
def choose_with_devices():
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    choose()
cli.process.choose_deterministic_kernels = choose_with_devices
cli.train = lambda *_: None
tiny.main(tiny.Config, tiny.build, tiny.OPTIONS)
"""


# ---- preflight ----


@pytest.mark.parametrize("flag", ["--preflight", "--preflight-json"])
def test_preflight_reads_the_experiments_flags_and_trains_nothing(
    flag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(cli, "train")
    arguments = [flag, "--batch-size", "48"]
    assert cli.main(tiny.Config, tiny.build, tiny.OPTIONS, arguments) is None
    printed = capsys.readouterr().out
    if flag == "--preflight":
        rows = {" ".join(line.split()) for line in printed.splitlines()}
        assert rows >= {"batch 48", "parameters 1,490"}
    else:
        report = json.loads(printed)
        assert report["run"]["batch_size"] == 48 and report["model"]["parameters"] == 1490
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [["--seeds", "2"], ["--sweep", "learning_rate=0.1,0.2"]])
def test_preflight_is_for_one_training(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--preflight", "--preflight-json"):
        assert "leave out --seeds and --sweep" in refused([flag, *flags], capsys)


def test_a_script_imports_nothing_that_only_figures_need() -> None:
    """Matplotlib and SciPy take seconds."""
    assert programs.run_code(NOTHING_SLOW, "--preflight-json").splitlines()[-1] == "set()"


NOTHING_SLOW = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import tiny
tiny.main(tiny.Config, tiny.build, tiny.OPTIONS)
import cnn_jax.__main__
print({{"matplotlib", "scipy.stats"}} & sys.modules.keys())
"""


# ---- as a module or as a file ----


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that imports another script, with a dataset in memory, and training left out."""
    split = (np.zeros((100, 28, 28, 1), np.uint8), np.arange(100) % 10)
    data = array_dataset("blank", {"train": split, "test": split}, list("0123456789"))
    monkeypatch.setattr(lenet5_mnist, "load_dataset", lambda *_: data)
    monkeypatch.setattr(cli, "train", lambda *arguments: arguments[-1](0))  # which is `begin`
    return Path(lenet5_fashion_mnist.__file__)


def start_as(how: str, script: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """What `python -m experiments.SCRIPT` and `python experiments/SCRIPT.py` do."""
    monkeypatch.setattr(sys, "argv", [str(script), *flags])
    if how == "module":
        monkeypatch.delitem(sys.modules, f"experiments.{script.stem}", raising=False)
        runpy.run_module(f"experiments.{script.stem}", run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(script), run_name="__main__")


def test_a_module_and_a_file_are_the_same_run(
    fashion: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In any directory; the one resumes what the other began."""
    monkeypatch.chdir(tmp_path)
    receipts = []
    for how in ("module", "file", "module"):
        start_as(how, fashion, monkeypatch)
        (folder,) = (tmp_path / "runs").iterdir()
        assert f"run folder: runs/{folder.name}" in capsys.readouterr().out
        receipts.append(json.loads((folder / "config.json").read_text()))
    assert receipts[0] == receipts[1] == receipts[2]
    assert receipts[0]["imports"].keys() == {"experiments.lenet5_mnist"}


@pytest.mark.parametrize(
    ("how", "directory", "usage"),
    [
        ("module", ".", "python -m experiments.lenet5_fashion_mnist"),
        ("file", ".", "python experiments/lenet5_fashion_mnist.py"),
        ("file", "experiments", "python lenet5_fashion_mnist.py"),
        ("file", "tests", f"python {programs.ROOT}/experiments/lenet5_fashion_mnist.py"),
    ],
)
def test_usage_can_be_pasted(
    how: str,
    directory: str,
    usage: str,
    fashion: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(programs.ROOT / directory)
    with pytest.raises(SystemExit):
        start_as(how, fashion, monkeypatch, "--help")
    assert capsys.readouterr().out.startswith(f"usage: {usage} [-h]")
