"""The scripts that time trainings: their records describe the trainings that were asked for."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from cnn_jax import cli
from cnn_jax import train as train_module
from cnn_jax.data import array_dataset, load_dataset
from cnn_jax.data.prepare import prepare
from cnn_jax.data.records import encoded
from cnn_jax.errors import UserError
from cnn_jax.models import MLP
from cnn_jax.options import Options
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.train import train
from experiments import lenet5_digits, lenet5_mnist
from experiments.bench import checkpointing, feeding, first_step, many_seeds, time_to_99
from experiments.bench.speed import table


def tiny_network(classes: int) -> MLP:
    """A stand-in for LeNet-5 that compiles sooner."""
    return MLP((4,), classes)


def seeds_run_by(
    run: Callable[[Sequence[str]], None],
    monkeypatch: pytest.MonkeyPatch,
    config: many_seeds.Config,
) -> dict[str, Any]:
    """The record of `many_seeds`, whose trainings `run` does, given the flags of the script."""

    def run_here(command: Sequence[str], *, cwd: Path, env: dict[str, str], **options: Any) -> None:
        assert command[:3] == [sys.executable, "-m", "experiments.lenet5_digits"]
        assert (cwd / "experiments" / "lenet5_digits.py").exists()
        assert env["JAX_ENABLE_COMPILATION_CACHE"] == "false" and "PATH" in env
        assert options == {"stdout": subprocess.DEVNULL, "check": True}
        run(command[3:])

    here = SimpleNamespace(run=run_here, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(many_seeds, "subprocess", here)
    return many_seeds.run(config)


@pytest.mark.slow
@pytest.mark.parametrize("separate", (3, 1))
def test_many_seeds(separate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members of the joint training are the separate runs."""

    def train_here(flags: Sequence[str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main(lenet5_digits.Config, lenet5_digits.build, arguments=flags)

    config = many_seeds.Config(seeds=3, separate=separate, epochs=0.2)
    accuracy = seeds_run_by(train_here, monkeypatch, config)["accuracy"]
    assert len(accuracy["together"]) == 3 and len(set(accuracy["together"])) > 1
    # Float32 rounding may turn an image or two of 360.
    np.testing.assert_allclose(
        accuracy["together"][:separate], accuracy["separate"], atol=2.5 / 360
    )


@pytest.mark.parametrize("separate", (3, 1))
def test_what_many_seeds_records(separate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds and accuracies of given trainings; the ratio of seconds only if all ran alone."""
    order = []

    def pretend(flags: Sequence[str]) -> None:
        how, number, *rest, workdir = flags
        assert rest == ["--epochs", "100", "--workdir"]
        result: dict[str, Any] = {"accuracy": 0.9 - int(number) / 10 + (number == "0") / 360}
        if how == "--seeds":
            result = {"members": {"accuracy": [0.9, 0.8, 0.7]}}
        order.append((how, int(number)))
        Path(workdir).mkdir()
        (Path(workdir) / "result.json").write_text(json.dumps(result))

    config = many_seeds.Config(seeds=3, separate=separate, epochs=100)
    record = seeds_run_by(pretend, monkeypatch, config)
    alone = [("--seed", seed) for seed in range(separate)]
    assert order == [*alone[: separate // 2], ("--seeds", 3), *alone[separate // 2 :]]
    together, alone = (record["accuracy"][how] for how in ("together", "separate"))
    seconds = record["seconds_separate"]
    assert together == [0.9, 0.8, 0.7] and alone[0] == 0.9 + 1 / 360
    assert record["trained_separately"] == len(alone) == len(seconds) == separate
    differences = np.abs(np.subtract(together[:separate], alone))
    assert record["largest_difference"] == differences.max()
    means = record["means"]
    np.testing.assert_allclose(means["together"]["mean"], np.mean(together))
    np.testing.assert_allclose(means["together"]["std"], np.std(together, ddof=1))
    per_run = record["seconds_per_run"]
    np.testing.assert_allclose(per_run["together"], record["seconds_together"] / 3)
    np.testing.assert_allclose(per_run["separate"], np.mean(seconds))
    if separate == 3:
        np.testing.assert_allclose(record["ratio"], sum(seconds) / record["seconds_together"])
    else:
        assert record["ratio"] is None and means["separate"]["std"] is None


@pytest.mark.parametrize("changes", ({"seeds": 1}, {"separate": 0}, {"separate": 17}))
def test_many_seeds_refuses(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--separate"):
        many_seeds.run(many_seeds.Config(**changes))


def digits(monkeypatch: pytest.MonkeyPatch, count: int = 128) -> None:
    """Noise in place of MNIST, and a small network in place of LeNet-5."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    labels = np.arange(count) % 10
    splits = {"train": (images, labels), "test": (images[:13], labels[:13])}
    data = array_dataset("mnist", splits, "abcdefghij")
    monkeypatch.setattr(lenet5_mnist, "load_dataset", lambda *_: data)
    monkeypatch.setattr(lenet5_mnist, "LeNet5", tiny_network)


def time_noise(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """The record of two seeds on 40 images of noise, in 12 steps of 8."""
    digits(monkeypatch, 40)
    small: dict[str, Any] = {"seeds": 2, "batch_size": 8, "epochs": 2.4, "eval_every": 5}
    return time_to_99.run(time_to_99.Config(**small | changes))


@pytest.mark.slow
def test_time_to_99(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed stops at the first evaluation that meets the target."""
    record = time_noise(monkeypatch, target=0.0, seed=3)
    assert record["reached"] == 2 and [run["seed"] for run in record["runs"]] == [3, 4]
    for run in record["runs"]:
        met = run["reached"]
        assert (met["step"], met["epochs"]) == (5, 1.0) and met["accuracy"] == run["accuracy"]
        assert 0 < met["seconds"] < met["seconds_with_evaluations"]
    seconds = [run["reached"]["seconds"] for run in record["runs"]]
    summary = {"median": np.median(seconds), "mean": np.mean(seconds)}
    summary |= {"min": min(seconds), "max": max(seconds)}
    assert record["means"]["seconds"] == pytest.approx(summary)
    assert record["means"]["step"] == {"median": 5, "mean": 5, "min": 5, "max": 5}


def test_a_seed_that_never_gets_there_is_recorded_as_such(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is trained to the end, as the training loop would train it."""
    record = time_noise(monkeypatch, target=1.1, seeds=1, seed=4)
    assert record["reached"] == 0 and record["means"] == {}
    (run,) = record["runs"]
    assert run["reached"] is None
    shift = time_to_99.Config.max_shift
    recipe = lenet5_mnist.Config(seed=4, batch_size=8, epochs=2.4, max_shift=shift)
    options = Options(steps_per_dispatch=5, eval_every=5, eval_batch_size=13)
    result = train(lenet5_mnist.build(recipe), tmp_path, options)
    assert run["accuracy"] == result["accuracy"]


def test_feeding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rate is of as many images; the decoders agree; starts are cold, then warm."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos" / "train" / "noise"
    folder.mkdir(parents=True)
    for i in range(12):
        pixels = random.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    prepare("folder/photos", tmp_path / "photos", tmp_path / "data", size=16)
    commands = []

    def begin(command: Sequence[str], *, cwd: Path, env: dict[str, str], **options: Any) -> Any:
        commands.append((command, env["JAX_COMPILATION_CACHE_DIR"]))
        return SimpleNamespace(stdout="starting: 10 steps\n\n1.25\n")

    here = SimpleNamespace(run=begin, PIPE=subprocess.PIPE)
    monkeypatch.setattr(feeding, "subprocess", here)
    config = feeding.Config("folder/photos", batch_size=5, rounds=2, data_dir=tmp_path / "data")
    record = feeding.run(config)
    assert {"simplejpeg", "pillow"} <= record["bare"].keys() == feeding.decoders().keys()
    assert record["bare"][record["best"]] == max(record["bare"].values())
    assert record["streamed_share"] == record["streamed"] / record["bare"][record["best"]]
    assert record["start"].keys() == feeding.STARTS.keys()
    assert record["start"]["lenet5_mnist"]["warm_compiling"] == 1.25
    cold, warm, *others = commands  # of the same folder of programs, another run folder
    assert cold[1] == warm[1] != others[0][1] and cold[0][:-1] == warm[0][:-1]
    assert cold[0][-1] != warm[0][-1] and len(others) == 2
    dataset = load_dataset("folder/photos", config.data_dir)
    expected = dataset.open("train").read([3, 1])["image"]
    stored = encoded(dataset, "train", [3, 1])
    for decode in feeding.decoders().values():
        np.testing.assert_array_equal([decode(data) for data in stored], expected)


def test_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second segment saves; the cost is of segments side by side, without the first."""
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, step, *rest: (saved.append(step), save(self, step, *rest))
    )
    digits(monkeypatch)
    (found,) = checkpointing.run(checkpointing.Config(every=(20,), segments=6))
    assert saved == [30, 70, 110]
    low, high = found["cost_quartiles"]
    assert low <= found["cost"] <= high and found["images_per_second"] > 0
    assert abs(found["memory_growth_bytes"]) < found["memory_bytes"]
    rate = {"every": 500, "cost": 0.018, "cost_quartiles": [-0.04, 0.11]}
    rate |= {"memory_growth_bytes": 2.3e6, "memory_bytes": 5e8}
    text = table.checkpointing({"runs": [rate]})
    assert "| 500 | 1.8 % (-4 to 11) | +2.3 of 500 MB |\n" in text


def test_time_in_overlapping_spans_counts_once() -> None:
    """Spans that overlap, nest, repeat or touch, in any order; covered on a grid of halves."""
    spans = [(5.0, 6.0), (0.0, 2.0), (0.5, 1.0), (1.5, 3.0), (1.5, 3.0), (6.0, 6.5)]
    grid = np.arange(0.25, 8, 0.5)
    inside = [any(start < at < stop for start, stop in spans) for at in grid]
    assert first_step.covered(spans) == sum(inside) / 2 == 4.5
    assert first_step.covered([]) == 0


def test_the_first_call_of_advance_ends_the_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seconds of compiling are the last line; what follows the first block is never reached."""
    listeners: list[Any] = []
    calls: list[str] = []

    def run_module(module: str, **options: Any) -> None:
        assert (module, options) == ("some.script", {"run_name": "__main__", "alter_sys": True})
        loop: Any = train_module
        advance = loop.make_advance("experiment", 1)
        for event, seconds in (("/jax/core/compile/x", 0.25), ("/jax/other", 1e9)):
            listeners[0](event, seconds, fun_name="f")
        calls.append(advance("state", "block"))

    def leave(code: int) -> None:
        raise SystemExit(code)

    def make_advance(*made: str) -> Callable[..., None]:
        return lambda *given: calls.append(f"{made} {given}")

    monkeypatch.setattr(train_module, "make_advance", make_advance)
    monkeypatch.setattr(jax.monitoring, "register_event_duration_secs_listener", listeners.append)
    monkeypatch.setattr(first_step, "runpy", SimpleNamespace(run_module=run_module))
    monkeypatch.setattr(first_step.os, "_exit", leave)
    with pytest.raises(SystemExit, match="0"):
        first_step.main("some.script")
    assert calls == ["('experiment', 1) ('state', 'block')"]
    assert float(capsys.readouterr().out.splitlines()[-1]) == pytest.approx(0.25)


@pytest.mark.slow
def test_a_script_ends_after_its_first_block(tmp_path: Path) -> None:
    command = [
        "-m",
        "experiments.bench.first_step",
        "experiments.lenet5_digits",
        "--workdir",
        "run",
    ]
    root = Path(feeding.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, *command, "--workdir", "run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert "starting: " in done.stdout and "step " not in done.stdout
    assert 0 < float(done.stdout.splitlines()[-1]) < 100
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
