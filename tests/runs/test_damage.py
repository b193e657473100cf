"""A damaged checkpoint is reported and passed over; what is restored is what was saved."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import programs
import pytest

from cnn_jax import runs
from cnn_jax.errors import UserError
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.runs.arrays import sha256
from cnn_jax.runs.checkpoint import Checkpoints, Damaged
from cnn_jax.step import init_state


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    assert programs.saved_steps(tiny_run) == [6, 12]
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def like_of(run: Path) -> Any:
    build, config, data_dir = runs.load(run)
    return jax.eval_shape(lambda: init_state(build(config, data_dir)))


def largest(folder: Path) -> Path:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x08
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the arrays": lambda step: flip(largest(step / "default"), 0.5),
    "arrays cut short": lambda step: largest(step / "default").write_bytes(b"cut"),
    "arrays missing": lambda step: largest(step / "default").unlink(),
    "state missing": lambda step: shutil.rmtree(step / "default"),
    "a flipped bit in the metadata": lambda step: flip(step / "_CHECKPOINT_METADATA", 0.9),
    "metadata missing": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "a file in its place": lambda step: [shutil.rmtree(step), step.write_text("")],
    "an empty folder": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_checkpoint_is_used(damage: str, run: Path, tmp_path: Path) -> None:
    DAMAGES[damage](run / "checkpoints" / "12")
    like, said = like_of(run), []
    with Checkpoints(run / "checkpoints", best="accuracy") as checkpoints:
        newest = checkpoints.restore_newest(like, said.append, tmp_path / "damaged")
        assert newest is not None
        step, state = newest
        assert step == 6 and checkpoints.steps() == [6] and checkpoints.best() == 6
        assert sha256(state) == checkpoints.about(6)["sha256"]
        (line,) = said
        assert "checkpoints/12 is damaged: " in line and line.endswith("; trying the one before it")
        assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["12-0"]  # nothing lost
        checkpoints.save(12, state)  # and its step can be saved again
        checkpoints.wait()
        assert checkpoints.steps() == [6, 12]


@pytest.mark.parametrize("damage", ["a flipped bit in the arrays", "an empty folder"])
def test_training_goes_on_as_if_nothing_had_happened(
    damage: str, run: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](run / "checkpoints" / "12")
    (run / "result.json").unlink()
    programs.train_tiny(run)
    said = capsys.readouterr()
    assert "checkpoints/12 is damaged" in said.err and "resuming at step 6" in said.out
    programs.assert_identical(programs.saved_state(run), programs.saved_state(tiny_run))
    assert (run / "metrics.jsonl").read_bytes() == (tiny_run / "metrics.jsonl").read_bytes()


def test_where_none_is_whole_the_run_is_refused_and_kept(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (6, 12):
        DAMAGES["arrays missing"](run / "checkpoints" / str(step))
    before = sorted(run.rglob("checkpoints/**/*"))
    with pytest.raises(SystemExit) as ended:
        programs.train_tiny(run)
    assert ended.value.code == 2
    assert "none of the checkpoints" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(run.rglob("checkpoints/**/*")) == before


def test_a_checkpoint_asked_for_by_its_step_is_not_replaced_by_another(run: Path) -> None:
    DAMAGES["arrays cut short"](run / "checkpoints" / "12")
    with pytest.raises(Damaged, match="checkpoints/12 is damaged"):
        evaluate_run(run, step=12)
    assert evaluate_run(run, step=6)["step"] == 6


def test_checkpoints_that_are_gone_are_missed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    programs.train_tiny(run)
    assert "no checkpoint in" in (said := capsys.readouterr().err) and "reach step 12" in said


def test_a_checkpoint_says_where_it_comes_from(run: Path) -> None:
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        about = checkpoints.about(12)
    assert about["receipt"]["script"] == (run / "experiment.py").read_text()
    assert about["receipt"]["seed"] == 0 and about["receipt"]["environment"]["source_sha256"]
    assert about["arrays"][".step"] == "int32()"
    assert 0 <= about["evaluation"]["accuracy"] <= 1


def test_a_checkpoint_of_another_model_is_not_called_damaged(run: Path) -> None:
    like = like_of(run)
    other = like._replace(params={"C1": np.zeros(3, np.float32)})
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        with pytest.raises(UserError, match="another model or optimizer") as raised:
            checkpoints.restore_newest(other, print)
    assert not isinstance(raised.value, Damaged)
