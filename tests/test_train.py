"""The loop: what a run leaves behind, and the resume law, up to a kill at any instant."""

import dataclasses
import functools
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import pytest
import tiny

from cnn_jax.devices import feed as feeds
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment
from cnn_jax.options import Options
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runs.journal import read_lines
from cnn_jax.step import TrainState, init_state
from cnn_jax.train import train

STEPS = 120  # with a checkpoint every 6
KINDS: tuple[feeds.Kind, ...] = ("resident", "stream")


def flags(kind: feeds.Kind) -> list[object]:
    return ["--feed", kind, "--steps", STEPS]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[feeds.Kind], Path]:
    """Runs that were never stopped, trained when they are first asked for."""

    @functools.cache
    def folder(kind: feeds.Kind) -> Path:
        run = tmp_path_factory.mktemp(kind) / "run"
        programs.train_tiny(run, *flags(kind))
        return run

    return folder


def assert_same_run(one: Path, other: Path) -> None:
    programs.assert_identical(programs.saved_state(one), programs.saved_state(other))
    metrics = (one / "metrics.jsonl").read_bytes()
    assert metrics and metrics == (other / "metrics.jsonl").read_bytes()
    assert result_of(one) == result_of(other)


def result_of(folder: Path) -> dict[str, Any]:
    """result.json but for what a clock says."""
    result = json.loads((folder / "result.json").read_text())
    return {name: result[name] for name in result.keys() - {"seconds", "resumed_from"}}


# ---- the resume law ----


def kill(command: list[object], after: float) -> None:
    """Start a command, and kill it so many seconds after its first checkpoint."""
    process = programs.start(*command)
    folder = Path(str(command[command.index("--workdir") + 1]))
    while not any((folder / "checkpoints").glob("*/commit_success.txt")):
        assert process.poll() is None, process.err.read_text()
        time.sleep(0.005)
    time.sleep(after)
    process.kill()
    assert process.wait() == -9, "the run was over before the kill: it needs more steps"


@pytest.mark.parametrize("kind", [pytest.param("resident", marks=pytest.mark.slow), "stream"])
def test_a_killed_run_ends_like_one_never_stopped(
    kind: feeds.Kind, unbroken: Callable[[feeds.Kind], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = [*programs.TINY, "--workdir", folder, *flags(kind)]
    kill(command, after=random.Random(f"kill {kind}").uniform(0, 0.5))
    at = programs.saved_steps(folder)[-1]
    assert 0 < at < STEPS
    programs.train_tiny(folder, *flags(kind))
    assert json.loads((folder / "result.json").read_text())["resumed_from"] == at
    assert_same_run(folder, unbroken(kind))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_again_and_again_ends_like_one_never_stopped(
    seed: int, unbroken: Callable[[feeds.Kind], Path], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    kind = chance.choice(KINDS)
    command = [*programs.TINY, "--workdir", tmp_path / "run", *flags(kind)]
    for _ in range(8):  # from the import of JAX to the last step
        process = programs.start(*command)
        time.sleep(chance.uniform(1, 8))
        process.kill()
        process.wait()
    programs.succeed(programs.start(*command))
    assert_same_run(tmp_path / "run", unbroken(kind))


def test_a_stopped_run_goes_on_where_it_was(
    unbroken: Callable[[feeds.Kind], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    stopped = programs.train_tiny(folder, *flags("stream"), "--stop-at", 40)
    assert stopped["step"] == 42  # the end of its dispatch, without a line of metrics
    assert not (folder / "result.json").exists()
    assert programs.saved_steps(folder)[-1] == 42
    programs.train_tiny(folder, *flags("stream"))
    assert_same_run(folder, unbroken("stream"))


@pytest.mark.slow  # 120 steps; the test of dispatches below compares 12
def test_resident_and_streamed_runs_are_one(unbroken: Callable[[feeds.Kind], Path]) -> None:
    states = [programs.saved_state(unbroken(kind)) for kind in KINDS]
    programs.assert_close(*states, tolerance=1e-4)


# ---- what a run leaves behind ----


def test_a_run_writes_down_what_it_did(tiny_run: Path) -> None:
    lines = read_lines(tiny_run / "metrics.jsonl")
    assert [(line["step"], line["split"]) for line in lines] == [
        (6, "test"),
        (9, "train"),
        (12, "train"),
        (12, "test"),
    ]
    assert list(lines[0]) == ["step", "split", "loss", "accuracy", "top5", "count"]
    assert list(lines[1]) == ["step", "split", "loss", "accuracy", "top5"]
    assert lines[0]["count"] == 360
    timing = read_lines(tiny_run / "timing.jsonl")
    assert [line["step"] for line in timing] == [9, 12]
    assert all(line["images_per_second"] > 0 for line in timing)
    assert programs.saved_steps(tiny_run) == [6, 12]
    result = result_of(tiny_run)
    assert lines[-1].items() <= result.items()
    assert result["parameters"] == (9 * 4 + 4) + (6 * 6 * 4 * 10 + 10)


def test_a_finished_run_is_left_as_it_is(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in tiny_run.glob("*.json*")}
    again = programs.train_tiny(tiny_run)
    assert again and again.items() <= result_of(tiny_run).items()
    assert "resuming at step 12: 12 steps" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tiny_run.glob("*.json*")} == before


def test_stopping_where_the_run_is_past_changes_nothing(tiny_run: Path) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes()
    assert programs.train_tiny(tiny_run, "--stop-at", 3)["step"] == 12
    assert (tiny_run / "metrics.jsonl").read_bytes() == before


def test_how_steps_are_dispatched_changes_nothing_but_rounding(
    tiny_run: Path, tmp_path: Path
) -> None:
    programs.train_tiny(tmp_path / "run", "--feed", "stream", "--steps-per-dispatch", 4)
    states = [programs.saved_state(folder) for folder in (tiny_run, tmp_path / "run")]
    metrics = {name for name in states[0] if name.startswith(".metrics")}  # of other intervals
    states = [{k: v for k, v in state.items() if k not in metrics} for state in states]
    programs.assert_close(*states, tolerance=1e-5)


def test_cadences_fall_on_the_ends_of_dispatches(tmp_path: Path) -> None:
    programs.train_tiny(
        tmp_path / "run",
        *("--steps", 11, "--steps-per-dispatch", 2, "--log-every", 3),
        *("--eval-every", 5, "--checkpoint-every", 8),
    )
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["split"] == "train"] == [4, 8, 11]
    assert [line["step"] for line in lines if line["split"] == "test"] == [6, 11]
    assert programs.saved_steps(tmp_path / "run") == [8, 11]


def test_a_run_needs_no_metrics(tmp_path: Path) -> None:
    experiment = dataclasses.replace(tiny.build(tiny.Config()), metrics={})
    train(experiment, tmp_path, dataclasses.replace(tiny.OPTIONS, stop_at=6))
    train(experiment, tmp_path, tiny.OPTIONS)
    assert programs.saved_steps(tmp_path) == [6, 12]
    last = read_lines(tmp_path / "metrics.jsonl")[-1]
    assert last.keys() == {"step", "split", "loss", "count"}


# ---- what a recipe renews before each epoch ----


class Renewed(NamedTuple):
    """An optimizer's state: how often and when it was renewed, and what it was told."""

    times: jax.Array
    at: jax.Array
    told: jax.Array


def renewing(seen: list[int]) -> Experiment:
    """`tiny` with epochs of 5 steps, and steps whose size is how often the state was renewed."""

    def init(params: Any) -> Renewed:
        return Renewed(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros(()))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda g: -0.01 * state.times * g, updates), state

    def renew(state: Any, evaluate: Any) -> Any:
        seen.append(int(state.step))
        told = jnp.asarray(evaluate()["accuracy"], jnp.float32)
        renewed = Renewed(state.opt_state.times + 1, state.step, told)
        return state._replace(opt_state=renewed)

    return dataclasses.replace(
        tiny.build(tiny.Config(train_split="train[:120]")),
        optimizer=optax.GradientTransformation(init, update),
        before_epoch=renew,
    )


# Neither dispatches of 3 or 4 steps nor evaluations every 6 end where the epochs do.
@pytest.mark.parametrize("dispatch", (3, 4))
def test_the_state_is_renewed_before_each_epoch(dispatch: int, tmp_path: Path) -> None:
    seen: list[int] = []
    options = dataclasses.replace(tiny.OPTIONS, steps_per_dispatch=dispatch, eval_every=5)
    train(renewing(seen), tmp_path, options)
    assert seen == [0, 5, 10]  # and not again at the end, at 12
    renewed = last_state(renewing(seen), tmp_path).opt_state
    assert (renewed.times, renewed.at) == (3, 10) and 0 < renewed.told < 1


def test_a_resumed_run_is_not_renewed_twice(tmp_path: Path) -> None:
    options = dataclasses.replace(tiny.OPTIONS, steps_per_dispatch=5, checkpoint_every=5)
    seen: list[int] = []
    train(renewing(seen), tmp_path / "straight", options)
    train(renewing(seen), tmp_path / "stopped", dataclasses.replace(options, stop_at=5))
    train(renewing(seen), tmp_path / "stopped", options)
    assert seen == [0, 5, 10, 0, 5, 10]
    folders = tmp_path / "straight", tmp_path / "stopped"
    one, other = (last_state(renewing(seen), folder) for folder in folders)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    one, other = ((folder / "metrics.jsonl").read_bytes() for folder in folders)
    assert one == other


def last_state(experiment: Experiment, folder: Path) -> TrainState:
    like = jax.eval_shape(lambda: init_state(experiment))
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(checkpoints.steps()[-1], like)


# ---- a loss that is no longer a number ----


def breaking_at(step: int) -> Experiment:
    """An experiment whose parameters are no numbers after `step`."""
    experiment = tiny.build(tiny.Config())
    optimizer = optax.sgd(lambda count: jnp.where(count == step, jnp.inf, 0.001))
    return dataclasses.replace(experiment, optimizer=optimizer)


@pytest.mark.parametrize(
    ("breaks", "eval_every", "named", "kept"),
    # Step 5 shows what step 4 broke, before the evaluation at 6. Nothing shows what step 8 broke
    # before the checkpoint at 9, which must not hold it all the same.
    [(4, 3, 5, [3]), (8, 12, 8, [3, 6])],
)
def test_a_loss_that_is_no_number_ends_the_run_at_its_step(
    breaks: int, eval_every: int, named: int, kept: list[int], tmp_path: Path
) -> None:
    options = Options(steps_per_dispatch=3, log_every=12, eval_every=eval_every, checkpoint_every=3)
    with pytest.raises(UserError, match=f"not finite at step {named}:"):
        train(breaking_at(breaks), tmp_path, options)
    assert programs.saved_steps(tmp_path) == kept
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert all(math.isfinite(line["loss"]) for line in lines)
