"""A training that cannot make its first step is refused before anything is written."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import programs
import pytest
import tiny

from cnn_jax import cli
from cnn_jax.check.start import check_start
from cnn_jax.devices import parallel
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment
from cnn_jax.losses import mean_squared_error, softmax_cross_entropy
from cnn_jax.metrics import accuracy, top_k
from cnn_jax.options import Options
from cnn_jax.seeds import stack


def with_outputs(count: int, **changes: Any) -> Experiment:
    return dataclasses.replace(tiny.build(tiny.Config()), model=tiny.Net(count), **changes)


def distance(logits: Any, labels: Any) -> Any:
    """A loss of a user's own, for one output that is the label itself."""
    return jnp.abs(logits[:, 0] - labels)


def test_fewer_outputs_than_classes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One by one, and where trainings stand side by side."""
    monkeypatch.chdir(tmp_path)
    network = tiny.Net(3)
    monkeypatch.setattr(tiny, "Net", lambda classes: network)
    for flags in ([], ["--seeds", "2"], ["--sweep", "learning_rate=0.1,0.2"]):
        with pytest.raises(SystemExit):
            cli.main(tiny.Config, tiny.build, tiny.OPTIONS, arguments=flags)
        said = capsys.readouterr()
        assert said.err.startswith("error: 3 outputs, 10 classes: ") and said.out == ""
        assert not list(tmp_path.iterdir())


def test_of_trainings_one_after_the_other_the_last_is_checked_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit), programs.simulated_devices(2):
        flags = ["--feed", "stream", "--sweep", "batch_size=2,3"]
        cli.main(tiny.Config, tiny.build, tiny.OPTIONS, arguments=flags)
    said = capsys.readouterr()
    assert "batch size 3 does not divide" in said.err and said.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),
        ({"metrics": {}}, True),
        ({"loss": mean_squared_error(), "metrics": {}}, True),
        ({"loss": distance}, True),  # the metrics take a label for the number of an output
        ({"loss": distance, "metrics": {"top2": top_k(2)}}, True),
        ({"loss": distance, "metrics": {"distance": distance}}, False),
        ({"loss": distance, "metrics": {}}, False),
    ],
)
def test_only_labels_that_number_outputs_need_one_each(
    changes: dict[str, Any], refused: bool
) -> None:
    if refused:
        with pytest.raises(UserError, match="^1 output, 10 classes"):
            check_start(with_outputs(1, **changes), Options())
    else:
        check_start(with_outputs(1, **changes), Options())


def test_more_outputs_than_classes_are_allowed() -> None:
    check_start(with_outputs(1000), Options())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits, labels: softmax_cross_entropy(logits, labels).mean(),
        lambda logits, labels: softmax_cross_entropy(logits, labels)[:, None],
        lambda logits, labels: logits[0],
    ],
)
def test_a_loss_and_a_metric_are_one_number_per_example(wrong: Callable[..., Any]) -> None:
    """Any other shape would be summed to another mean without a word."""
    with pytest.raises(UserError, match="the loss must be one number per example"):
        check_start(with_outputs(10, loss=wrong), Options())
    with pytest.raises(UserError, match="the metric odd must be one number per example"):
        check_start(with_outputs(10, metrics={"accuracy": accuracy, "odd": wrong}), Options())


@pytest.mark.parametrize(
    ("config", "options", "flag"),
    [
        ({"batch_size": 200_000}, {}, "--batch-size 200000"),
        ({"steps": 2**31 - 1}, {"steps_per_dispatch": 10**9}, "--steps-per-dispatch 1000000000"),
        ({}, {"feed": "stream", "readers": 1000}, "--readers 1000"),
        ({"train_split": "test"}, {"eval_batch_size": 10**10, "memory": 5e4}, "--eval-batch-size"),
        ({}, {"memory": 100}, "the network with the state of its optimizer"),
    ],
)
def test_what_no_device_can_hold_is_refused(
    config: dict[str, Any], options: dict[str, Any], flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = options.pop("memory", 1e6)
    monkeypatch.setattr(parallel, "device_memory", lambda: memory)
    with pytest.raises(UserError, match=f"^{flag}.* needs at least .* GB on a device that has"):
        check_start(tiny.build(tiny.Config(**config)), Options(**options))


def test_members_are_counted_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [{"seed": seed} for seed in range(100)]
    many = stack(tiny.build, tiny.Config(), variants, None, "resident")
    assert many is not None
    check_start(many, Options())
    monkeypatch.setattr(parallel, "device_memory", lambda: 1e6)
    check_start(tiny.build(tiny.Config()), Options())
    with pytest.raises(UserError, match="needs at least"):
        check_start(many, Options())
