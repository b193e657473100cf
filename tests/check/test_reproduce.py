"""`reproduce` says match of what is as it was, and mismatch of anything that is not."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import edit_json

from cnn_jax import __main__ as program
from cnn_jax import runs
from cnn_jax.check import reproduce as checks
from cnn_jax.check.comparison import EVALUATED, RETRAINED, Comparison, means, standard_error
from cnn_jax.check.reproduce import reproduce
from cnn_jax.errors import UserError
from cnn_jax.runs import environment, trust
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runs.json_files import write_json
from cnn_jax.step import init_state


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def rows(run: Path) -> dict[str, bool]:
    (comparison,) = reproduce(run)
    return {row.name: row.matches for row in comparison.rows}


def test_an_untouched_run_matches_to_the_last_bit(run: Path) -> None:
    (comparison,) = reproduce(run)
    assert comparison.matches and not comparison.differences and comparison.tolerance == 0
    named = {"training data sha256", "evaluation data sha256", "receipt", "parameters sha256"}
    named |= {"metrics.jsonl"}
    assert {name for name, *_ in comparison.rows} >= named | {"loss", "accuracy", "top5", "count"}


def test_the_command_prints_the_verdict_and_exits_with_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.main(["reproduce", str(run)])
    assert capsys.readouterr().out.splitlines()[-1] == "match"
    edit_json(run / "result.json", lambda result: result.update(accuracy=0.5))
    with pytest.raises(SystemExit) as ended:
        program.main(["reproduce", str(run), "--json"])
    assert ended.value.code == 1
    said = json.loads(capsys.readouterr().out)
    assert not said["match"] and ["accuracy", 0.5] in [row[:2] for row in said["rows"]]


def test_the_kernels_of_a_run_are_chosen_before_devices_are(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_json(run / "config.json", lambda config: config["options"].update(deterministic=True))
    done: list[str] = []
    for module, name in (
        (program, "check_devices"),
        (checks.process, "check_devices"),
        (checks.process, "choose_deterministic_kernels"),
    ):
        monkeypatch.setattr(module, name, lambda name=name: done.append(name))
    with pytest.raises(SystemExit):
        program.main(["reproduce", str(run)])  # the receipt was edited
    assert done == ["choose_deterministic_kernels", "check_devices"]


def test_one_bit_of_the_parameters_is_a_mismatch(run: Path) -> None:
    """Saved anew with its own checksum, so that only the comparison with the receipt can tell."""
    build, config, data_dir = runs.load(run)
    like = jax.eval_shape(lambda: init_state(build(config, data_dir)))
    opened = Checkpoints(run / "checkpoints")
    state = opened.restore(12, like)
    kernel = state.params["output"]["kernel"]
    kernel.view("uint8").reshape(-1)[0] ^= 1
    about = opened.about(12)
    shutil.rmtree(run / "checkpoints" / "12")
    opened.refresh()
    opened.save(12, state, about["evaluation"], about["receipt"], about["metrics_jsonl"])
    opened.close()
    matching = rows(run)
    assert not matching["parameters sha256"] and matching["receipt"] and matching["metrics.jsonl"]


def test_a_flipped_byte_in_the_file_of_the_parameters_is_a_mismatch(run: Path) -> None:
    files = [p for p in (run / "checkpoints/12/default").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0x10
    largest.write_bytes(content)
    assert not rows(run)["checkpoint"]
    with pytest.raises(SystemExit) as ended:
        program.main(["reproduce", str(run)])
    assert ended.value.code == 1


def test_an_edited_script_or_other_data_is_a_mismatch(run: Path) -> None:
    script = run / "experiment.py"
    script.write_text(script.read_text() + "\n# edited\n")
    with pytest.raises(UserError, match="--trust"):
        reproduce(run)
    trust.remember(script, script.parent)
    matching = rows(run)
    assert not matching["receipt"] and matching["loss"] and matching["training data sha256"]
    other = {"sha256": "0" * 64, "eval_sha256": "1" * 64}
    edit_json(run / "config.json", lambda content: content["dataset"].update(other))
    matching = rows(run)
    assert not matching["training data sha256"] and not matching["evaluation data sha256"]


EDITS: dict[str, Callable[[dict], object]] = {
    "rate": lambda content: content["config"].update(learning_rate=0.2),
    "seed": lambda content: content["config"].update(seed=1),
    "steps": lambda content: content["config"].update(steps=13),
    "split": lambda content: content["config"].update(eval_split="train"),
    "class names": lambda content: content["dataset"]["classes"].reverse(),
    "mean": lambda content: content["dataset"].update(mean=[0.5]),
    "imports": lambda content: content["imports"].update(helper="0" * 64),
    "options": lambda content: content["options"].update(accumulate=2),
    "environment": lambda content: content["environment"].update(cores=99),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_config_is_a_mismatch(edit: str, run: Path) -> None:
    edit_json(run / "config.json", EDITS[edit])
    assert not rows(run)["receipt"]


def test_a_count_of_parameters_that_was_edited_is_a_mismatch(run: Path) -> None:
    edit_json(run / "result.json", lambda result: result.update(parameters=1))
    assert not rows(run)["parameters"]


def test_a_figure_that_is_gone_or_no_number_is_a_mismatch(run: Path) -> None:
    edit_json(run / "result.json", lambda result: result.pop("top5"))
    edit_json(run / "result.json", lambda result: result.update(accuracy=str(result["accuracy"])))
    matching = rows(run)
    assert not matching["top5"] and not matching["accuracy"] and matching["loss"]


def test_changed_lines_of_metrics_are_a_mismatch(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n")
    assert not rows(run)["metrics.jsonl"]


def test_another_environment_is_named_and_has_a_tolerance(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = environment.environment()
    now["packages"] = now["packages"] | {"jax": "99.0"}
    monkeypatch.setattr(checks, "environment", lambda: now | {"cores": 99})
    edit_json(run / "result.json", lambda result: result.update(loss=result["loss"] + 1e-5))
    (comparison,) = reproduce(run)
    assert comparison.matches and comparison.tolerance > 0
    cores, version = sorted(comparison.differences)
    assert re.fullmatch(r"cores was \d+, is 99", cores)
    assert re.fullmatch(r"jax was '.*', is '99\.0'", version)
    edit_json(run / "result.json", lambda result: result.update(loss=result["loss"] + 1e-2))
    assert not reproduce(run)[0].matches


@pytest.mark.parametrize(
    ("count", "accuracy", "again", "match"),
    (
        (10_000, 0.994, 0.992, True),  # two standard errors of the difference are 0.0024
        (10_000, 0.994, 0.991, False),
        (1_966, 0.70, 0.728, True),  # they are 0.0288
        (1_966, 0.70, 0.730, False),
        (10_000, 1.0, 0.9998, True),
        (10_000, 1.0, 0.999, False),
    ),
)
def test_few_examples_are_held_to_two_standard_errors(
    count: int, accuracy: float, again: float, match: bool
) -> None:
    then = {"count": count, "accuracy": accuracy}
    cases = ((RETRAINED, True, match), (EVALUATED, False, False), (0.0, True, False))
    for tolerance, retrained, expected in cases:
        comparison = Comparison("", [], tolerance, retrained)
        comparison.figures(then, {**then, "accuracy": again})
        assert comparison.matches == expected


def test_the_standard_error_is_that_of_a_difference() -> None:
    """Of means of losses that are 1 for each error and 0 else."""
    errors = np.random.default_rng(0).uniform(size=(4000, 500)) < 0.2
    differences = np.diff(errors.mean(axis=1).reshape(2, -1), axis=0)
    then = {"count": 500, "accuracy": 0.8, "loss": 0.2}
    for name in ("loss", "accuracy"):
        error = standard_error(name, then, then)
        assert error is not None and abs(error / differences.std() - 1) < 0.05
        assert standard_error(name, then, then, runs=4) == pytest.approx(error / 2)
    assert standard_error("top5", then, then) is None


def test_the_means_of_several_runs_are_held_to_less() -> None:
    """0.0022 is within two standard errors of one run's difference, not of three runs' means."""
    then, now = ({"count": 10_000, "accuracy": x} for x in (0.9939, 0.9917))
    results = [Comparison(f"seed {k}", ["jax"], RETRAINED, retrained=True) for k in range(3)]
    for result in results:
        result.figures(then, now)
        assert result.matches
    (mean,) = means("lenet5", results)
    assert not mean.matches and mean.rows[0].allowed == pytest.approx(0.00138, abs=1e-5)
    exact = Comparison("seed 0", [], 0.0)
    assert means("lenet5", [exact, exact]) == [] == means("lenet5", results[:1])


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts run in this process; the slow test below starts a real one."""

    def run_script(script: Path, arguments: Sequence[str]) -> None:
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")

    monkeypatch.setattr(checks, "_run", run_script)


@pytest.mark.usefixtures("run_here")
def test_training_again_gives_the_same_parameters(run: Path, tmp_path: Path) -> None:
    (comparison,) = reproduce(run, retrain=True, scratch=tmp_path / "again")
    assert comparison.matches and "parameters sha256" in {name for name, *_ in comparison.rows}


@pytest.mark.slow
def test_training_again_with_another_seed_is_a_mismatch(run: Path, tmp_path: Path) -> None:
    edit_json(run / "config.json", lambda content: content["config"].update(seed=1))
    (comparison,) = reproduce(run, retrain=True, scratch=tmp_path / "again")
    assert not comparison.matches
    (row,) = [row for row in comparison.rows if "largest difference" in row.name]
    assert row.then == 0 and row.now > 0.01


@pytest.mark.usefixtures("run_here")
def test_a_record_is_trained_again(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(run / "experiment.py", tmp_path / "tiny.py")
    described, result = (json.loads((run / n).read_text()) for n in ("config.json", "result.json"))
    seed = described["config"].pop("seed")
    record = {name: described[name] for name in ("experiment", "config", "environment")}
    record |= {name: result.pop(name) for name in ("parameters", "step", "split", "count")}
    record |= {"runs": [{"seed": seed, **result}]}
    write_json(results / "tiny.json", record)
    (comparison,) = reproduce(results / "tiny.json", scratch=tmp_path / "again")
    assert comparison.matches and comparison.run == "tiny, seed 0"


RECORDS: list[dict] = [
    {"runs": []},
    {"runs": 5},
    {"runs": [], "step": 3, "parameters": 1, "split": "test", "count": 1},
    {"runs": [{}], "step": 3, "parameters": 1, "split": "test", "count": 1},
    {"runs": [1], "step": 3, "parameters": 1, "split": "test", "count": 1},
    {"runs": [{"seed": 0}], "step": 3},
    {"runs": [{"seed": 0}], "config": []},
]


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_a_record_of_nothing_is_refused(record: dict, tmp_path: Path) -> None:
    path = tmp_path / "results" / "tiny.json"
    whole = {"experiment": "tiny", "config": {}, "environment": {}} | record
    path.parent.mkdir()
    write_json(path, whole)
    with pytest.raises(UserError, match="neither a run folder nor a record of runs"):
        reproduce(path, scratch=tmp_path / "again")


def test_a_record_that_its_script_writes_is_compared_figure_by_figure(tmp_path: Path) -> None:
    record = {"experiment": "writer", "config": {}, "environment": {}}
    record |= {"runs": [{"accuracy": 0.5, "count": 7, "means": [1.5, 2.5]}]}
    script = tmp_path / "writer.py"
    script.write_text(f"import sys, json\nopen(sys.argv[2], 'w').write(json.dumps({record}))")
    trust.remember(script, tmp_path)
    path = tmp_path / "results" / "writer.json"
    path.parent.mkdir()
    write_json(path, record)
    (comparison,) = reproduce(path, scratch=tmp_path / "again")
    assert comparison.matches and len(comparison.rows) == 4
    record["runs"][0]["means"][1] = 2.6
    write_json(path, record)
    (comparison,) = reproduce(path, scratch=tmp_path / "again")
    assert [row.then for row in comparison.rows if not row.matches] == [2.6]


def test_the_member_that_differs_most_is_compared() -> None:
    nan = float("nan")
    then = {"loss": 1.0, "members": {"loss": [0.5, nan, 1.5]}}
    comparison = Comparison("run", [], 0.0)
    comparison.figures(then, json.loads(json.dumps(then)))
    assert comparison.matches
    for members in ({"loss": [0.5, nan, 1.6]}, {"loss": [0.5, 1.0, 1.5]}, {"loss": [0.5]}, {}, [1]):
        comparison = Comparison("run", [], 1e-4)
        comparison.figures(then, {"loss": 1.0, "members": members})
        assert comparison.rows[0].matches and not any(row.matches for row in comparison.rows[1:])


@pytest.mark.parametrize(
    ("target", "message"),
    [("nothing", "neither"), (".", "not finished"), ("metrics.jsonl", "neither")],
)
def test_what_cannot_be_reproduced_is_said_in_a_line(target: str, message: str, run: Path) -> None:
    (run / "result.json").unlink()
    with pytest.raises(UserError, match=message):
        reproduce(run / target)


def test_source_that_is_edited_while_a_run_trains_is_not_what_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began_with = environment.environment()["source_sha256"]
    monkeypatch.setattr(environment, "source_sha256", lambda: "edited since")
    assert environment.environment()["source_sha256"] == began_with


def test_the_source_hash_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    first = environment.source_sha256(tmp_path)
    (tmp_path / "notes.txt").write_text("of no consequence")
    assert environment.source_sha256(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    second = environment.source_sha256(tmp_path)
    (tmp_path / "b.py").write_text("x = 2")
    assert len({first, second, environment.source_sha256(tmp_path)}) == 3


@pytest.mark.parametrize(
    ("name", "value"), [("jax_random_seed_offset", 1), ("jax_disable_most_optimizations", None)]
)
def test_a_setting_that_changes_numbers_is_part_of_the_environment(
    name: str, value: int | None
) -> None:
    now, before = environment.environment(), jax.config.values[name]
    jax.config.update(name, not before if value is None else value)
    try:
        (difference,) = environment.differences(now, environment.environment())
    finally:
        jax.config.update(name, before)
    assert difference.startswith(f"{name} was")


def test_an_environment_is_json_and_does_not_differ_from_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    now = environment.environment()
    assert environment.differences(json.loads(json.dumps(now)), now) == []
    assert now["packages"]["numpy"] and now["packages"]["jaxlib"]  # needed by what was named
    assert environment.differences({**now, "xla_flags": "--other"}, now) == [
        "xla_flags was '--other', is ''"
    ]
