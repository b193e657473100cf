"""The evaluation law: every example counts exactly once, however many are looked at together."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import programs
import pytest
import tiny

from cnn_jax import __main__ as program
from cnn_jax.evaluate.exact import evaluate_run
from cnn_jax.evaluate.report import free_name
from cnn_jax.runs import trust
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runs.journal import read_lines
from cnn_jax.step import init_state
from cnn_jax.trained import restore


def result_of(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    return {name: result[name] for name in ("step", "split", "loss", "accuracy", "top5", "count")}


def logits_of(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits [n, classes] and labels [n] of a finished run, by the model alone."""
    experiment, _, state, *_ = restore(folder)
    batch = experiment.dataset.open(split).read(range(experiment.dataset.num_examples(split)))
    mean, std = (np.array(x, np.float32) for x in (experiment.dataset.mean, experiment.dataset.std))
    images = (batch["image"] / np.float32(255) - mean) / std
    variables = {"params": state.params, **state.model_state}
    apply = jax.jit(partial(experiment.model.apply, train=False, keys=None, mutable=[]))
    logits, _ = apply(variables, images)
    return np.asarray(logits, np.float64), batch["label"]


@pytest.mark.parametrize("split", ["test", "train[:500]"])
def test_an_evaluation_is_what_numpy_makes_of_the_logits(split: str, tiny_run: Path) -> None:
    logits, labels = logits_of(tiny_run, split)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]
    result = evaluate_run(tiny_run, split)
    assert result["count"] == len(labels) == {"test": 360, "train[:500]": 500}[split]
    assert result["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean(), abs=1e-12)
    assert result["top5"] == pytest.approx(((logits > own[:, None]).sum(-1) < 5).mean(), abs=1e-12)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert result["loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("feed", "batch_size"), [("resident", 7), ("stream", 1000)])
def test_the_batch_size_does_not_show(batch_size: int, feed: Any, tiny_run: Path) -> None:
    expected = result_of(tiny_run)
    assert expected["count"] == 360 and 360 % 7 and 360 % 100
    result = evaluate_run(tiny_run, batch_size=batch_size, kind=feed)
    for exact in ("step", "split", "count", "accuracy", "top5"):
        assert result[exact] == expected[exact]
    assert result["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def lines_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    program.main(["evaluate", *map(str, arguments), "--json"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What training also says of the one run."""
    (line,) = lines_of(capsys, *arguments)
    names = ("run", "step", "split", "loss", "accuracy", "top5", "count")
    return {name: line[name] for name in names}


def test_the_program_repeats_the_result(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluated(capsys, tiny_run) == {"run": str(tiny_run), **result_of(tiny_run)}


def test_the_scores_agree_with_the_result(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((line,), result) = lines_of(capsys, tiny_run), result_of(tiny_run)
    assert line["views"] == 1
    assert line["top1_error"]["value"] == pytest.approx(1 - result["accuracy"], abs=1e-12)
    assert line["top5_error"]["value"] == pytest.approx(1 - result["top5"], abs=1e-12)
    assert line["log_loss"]["value"] == pytest.approx(result["loss"], abs=1e-6)
    for name in ("top1_error", "top5_error", "log_loss"):
        assert line[name]["low"] < line[name]["value"] < line[name]["high"]


def test_the_program_evaluates_earlier_checkpoints(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = (
        line
        for line in read_lines(tiny_run / "metrics.jsonl")
        if (line["step"], line["split"]) == (6, "test")
    )
    assert evaluated(capsys, tiny_run, "--step", 6) == {"run": str(tiny_run), **line}


def test_the_program_evaluates_the_best_checkpoint(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    with Checkpoints(run / "checkpoints", best="accuracy") as checkpoints:
        like = jax.eval_shape(lambda: init_state(tiny.build(tiny.Config())))
        state = checkpoints.restore(6, like)
        checkpoints.save(13, state, {"accuracy": 0.0})
    assert evaluated(capsys, run)["step"] == 13
    assert evaluated(capsys, run, "--step", "best") == {"run": str(run), **result_of(tiny_run)}


def test_data_are_looked_for_where_the_run_had_them(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    described = json.loads((run / "config.json").read_text())
    described["options"]["data_dir"] = str(tmp_path / "data")
    (run / "config.json").write_text(json.dumps(described))
    assert evaluate_run(run)["loss"] == result_of(tiny_run)["loss"]
    assert (tmp_path / "data" / "digits").exists()
    evaluate_run(run, data_dir=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "digits").exists()


def test_the_program_evaluates_other_splits(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(capsys, tiny_run, "--split", "train")
    assert (result["split"], result["count"]) == ("train", 1437)


def test_the_program_prints_a_table(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.main(["evaluate", str(tiny_run)])
    table = capsys.readouterr().out
    result = result_of(tiny_run)
    assert f"{result['loss']:.4f}" in table and "360" in table
    assert f"{100 * (1 - result['accuracy']):.2f} %" in table and "12  test" in table


def test_on_several_devices_every_example_counts_once(tiny_run: Path) -> None:
    with programs.simulated_devices(4):
        result = evaluate_run(tiny_run, batch_size=7)
    expected = result_of(tiny_run)
    assert result["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert (result["accuracy"], result["count"]) == (expected["accuracy"], expected["count"])


def test_evaluating_changes_nothing_in_the_folder(tiny_run: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()}

    before = content()
    evaluate_run(tiny_run)
    assert content() == before


def test_runs_of_the_same_name_are_numbered() -> None:
    taken: set[str] = set()
    for base in ("run", "run-3", "run", "run", "run"):
        taken.add(free_name(base, taken))
    assert taken == {"run", "run-2", "run-3", "run-4", "run-5"}


@pytest.mark.parametrize(
    "content", ["", "{", '{"experiment": "tiny"', "[]", "{}", '{"experiment": 3}']
)
def test_a_damaged_config_is_refused_in_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "experiment.py").write_text("")
    programs.assert_refused(["evaluate", str(tmp_path)], "config.json is damaged", capsys)


@pytest.mark.parametrize(
    ("script", "message"),
    [("import absent_module", "absent_module"), ("", "Config"), ("if:", "invalid syntax")],
    ids=["import", "empty", "syntax"],
)
def test_a_script_that_does_not_load_is_refused_in_one_line(
    script: str, message: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_run / "config.json").read_bytes())
    (tmp_path / "experiment.py").write_text(script)
    trust.remember(tmp_path / "experiment.py", tmp_path)
    programs.assert_refused(["evaluate", str(tmp_path)], message, capsys)


def test_a_run_without_a_checkpoint_is_refused_in_one_line(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "experiment.py"):
        (tmp_path / name).write_bytes((tiny_run / name).read_bytes())
    programs.assert_refused(["evaluate", str(tmp_path)], "no checkpoint", capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "experiment.py"}


SCORES = ("top1_error", "top5_error", "log_loss", "calibration_error")


@pytest.fixture(scope="module")
def second_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("second") / "run"
    programs.train_tiny(folder, "--seed", 1)
    return folder


def test_scores_do_not_depend_on_batches_and_devices(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (expected,) = lines_of(capsys, tiny_run)
    with programs.simulated_devices(4):
        (line,) = lines_of(capsys, tiny_run, "--batch-size", 7)
    assert line["count"] == 360
    for name in SCORES:
        assert line[name] == pytest.approx(expected[name], abs=1e-6), name


def test_a_committee_and_its_folder(
    tiny_run: Path, second_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    first, second, both = lines_of(capsys, tiny_run, second_run, "--committee", "--out", out)
    assert (both["run"], both["step"], both["count"]) == ("committee of 2", None, 360)
    logits, labels = zip(*(logits_of(run, "test") for run in (tiny_run, second_run)), strict=True)
    mean = np.mean([np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits], axis=0)
    own = mean[np.arange(360), labels[0]]
    assert both["log_loss"]["value"] == pytest.approx(-np.log(own).mean(), abs=1e-6)
    error = (mean.argmax(-1) != labels[0]).mean()
    assert both["top1_error"]["value"] == pytest.approx(error, abs=1e-12)
    assert "loss" not in both and "loss" in first

    assert json.loads((out / "evaluation.json").read_text()) == [first, second, both]
    with (out / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [str(tiny_run), str(second_run), "committee of 2"]
    assert float(rows[2]["log_loss_low"]) == both["log_loss"]["low"]
    assert rows[2]["accuracy"] == ""
    folders = {path.name for path in out.iterdir() if path.is_dir()}
    assert folders == {"run", "run-2", "committee-of-2"}
    for folder in folders:
        names = {path.name for path in (out / folder).iterdir()}
        pictures = {"confusion.png", "calibration.png", "worst.png"}
        assert names == pictures | {"confusion.csv", "per_class.csv"}
    with (out / "committee-of-2" / "confusion.csv").open(newline="") as file:
        table = np.array([line[1:] for line in list(csv.reader(file))[1:]], int)
    assert table.sum() == 360 and table.trace() == round(360 * (1 - error))
    with (out / "committee-of-2" / "per_class.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    assert [row["name"] for row in classes] == list("0123456789")
    assert [int(row["count"]) for row in classes] == list(table.sum(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one run folder"),
        (["{run}", "--committee"], "needs several runs"),
        (["{run}", "--views", "3"], "--views 3 is not possible"),
        (["{run}", "--views", "10"], "has one view"),
        (["{run}", "--out", "{run}"], "is not empty"),
        (["{run}", "--out", "{run}/config.json"], "is not a folder"),
    ],
)
def test_what_is_asked_for_in_vain_is_refused_before_any_work(
    arguments: list[str],
    message: str,
    tiny_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("cnn_jax.evaluate.report.assess", None)
    filled = [argument.format(run=tiny_run) for argument in arguments]
    programs.assert_refused(["evaluate", *filled], message, capsys)


def test_a_committee_is_of_the_same_examples(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.train_tiny(tmp_path / "run", "--eval-split", "train[:50]")
    capsys.readouterr()
    both = [str(tiny_run), str(tmp_path / "run"), "--committee"]
    programs.assert_refused(["evaluate", *both], "differ in split: test and train[:50]", capsys)
    assert [line["count"] for line in lines_of(capsys, *both, "--split", "test")] == [360] * 3
