"""Every recipe in experiments/ trains two steps on noise of its dataset's shape."""

import ast
import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from cnn_jax.data import Dataset, array_dataset
from cnn_jax.devices.parallel import AXIS
from cnn_jax.experiment import Experiment
from cnn_jax.models import AlexNet2014, count_parameters, narrowed
from cnn_jax.options import Options
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runs.journal import read_lines
from cnn_jax.step import init_state, train_step
from cnn_jax.train import train
from experiments import ladder

FOLDER = Path(__file__).parents[2] / "experiments"
SCRIPTS = {path.stem: path for path in FOLDER.glob("*.py")}


class Row(NamedTuple):
    """The shape of a recipe's images, and the flags that make it small."""

    image_shape: tuple[int, int, int]
    changes: Mapping[str, Any]


# Most of the time is XLA's, and none of it for a program that an earlier row has compiled: the two
# LeNet-5s on 28x28 pixels are one program here, and so are the two AlexNets of 2012.
NARROW = {"batch_size": 2, "image_size": 64, "width": 1 / 16}
WHOLE = {"train_split": "train", "eval_split": "val"}  # where the recipe's splits are slices
TABLE = {
    "lenet5_digits": Row((8, 8, 1), {"batch_size": 4}),
    "lenet5_mnist": Row((28, 28, 1), {"batch_size": 4}),
    "lenet5_fashion_mnist": Row((28, 28, 1), {"batch_size": 4, "max_shift": 2}),
    "mlp_mnist": Row((28, 28, 1), {"batch_size": 4, "hidden_units": 8}),
    "alexnet2014_mnist": Row((28, 28, 1), {"batch_size": 2, "width": 1 / 16}),
    "alexnet2014_imagenette_adamw": Row((68, 68, 3), {"batch_size": 2, "image_size": 64}),
    "lenet1989_usps": Row((16, 16, 1), {"batch_size": 4}),
    "lenet5_1998_mnist": Row((28, 28, 1), {"batch_size": 4}),
    "simard2003_mnist": Row((28, 28, 1), {"batch_size": 4}),
    "ciresan2010_mnist": Row((28, 28, 1), {"batch_size": 4}),
    "alexnet2012_imagenette": Row((68, 68, 3), NARROW | WHOLE),
    "alexnet2014_imagenette": Row((72, 72, 3), NARROW),
    "alexnet2019_imagenette": Row((112, 112, 3), NARROW | {"image_size": 96}),
    "alexnet2012_imagenet": Row((68, 68, 3), NARROW),
}
# Not recipes, or not trained by gradient descent.
OTHERS = {"__init__", "ladder", "neocognitron_patterns", "neocognitron_mnist"}


def noise(config: Any, image_shape: tuple[int, int, int]) -> Dataset:
    random = np.random.default_rng(0)
    splits = {
        split: (random.integers(0, 256, (count, *image_shape)).astype(np.uint8), np.arange(count))
        for split, count in ((config.train_split, 10), (config.eval_split, 3))
    }
    return array_dataset(config.dataset, splits, "abcdefghij")


def build(name: str, row: Row, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    script = importlib.import_module(f"experiments.{name}")
    config = script.Config(**row.changes)

    def load_dataset(*args: Any) -> Dataset:
        assert args[0] == config.dataset and args[1] == Path("elsewhere")
        return noise(config, row.image_shape)

    for name, module in sys.modules.items():  # a script may build on another
        if name.startswith("experiments.") and hasattr(module, "load_dataset"):
            monkeypatch.setattr(module, "load_dataset", load_dataset)
    return script.build(config, Path("elsewhere"))


def test_every_script_has_a_row() -> None:
    assert SCRIPTS.keys() == TABLE.keys() | OTHERS


# AlexNets compile longest: the fast run trains that of 2012, and traces the others.
SLOW = {
    *("alexnet2014_mnist", "alexnet2014_imagenette", "alexnet2014_imagenette_adamw"),
    "alexnet2019_imagenette",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in TABLE]
)
def test_a_script_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = build(name, TABLE[name], monkeypatch)
    assert experiment.steps > 2
    if name == "alexnet2014_imagenette_adamw":  # has no flag for its width
        model: Any = experiment.model
        narrow = model.clone(**narrowed(AlexNet2014, NARROW["width"]))
        experiment = dataclasses.replace(experiment, model=narrow)
    monkeypatch.setattr(Checkpoints, "save", lambda *_: None)  # has tests of its own
    options = Options(steps_per_dispatch=1, log_every=1, eval_batch_size=3)
    result = train(dataclasses.replace(experiment, steps=2), tmp_path, options)
    assert (result["step"], result["split"], result["count"]) == (2, experiment.eval_split, 3)
    losses = [line["loss"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert len(losses) == 3 and np.isfinite(losses).all()


RECORDS = {  # of the scripts above
    path.stem: record
    for path in sorted(ladder.RECORDS.glob("*.json"))
    if (record := json.loads(path.read_text()))["experiment"] in TABLE
}


@pytest.mark.parametrize("name", RECORDS)
def test_the_recipe_of_a_record_is_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config builds a network of as many parameters; a step on two devices can be traced."""
    record = RECORDS[name]
    script = record["experiment"]
    shape = (160, 160, 3) if "imagenette" in script else TABLE[script].image_shape
    small = {"batch_size": 2, "train_split": "train", "eval_split": "test"}
    experiment = build(script, Row(shape, record["config"] | small), monkeypatch)
    assert trace_a_step(experiment) == record["parameters"]


@pytest.mark.parametrize("blur", (False, True))
def test_a_recipe_without_a_record_can_be_traced(
    blur: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of `bench/shift.py`, whose networks have records of another kind, with both of them."""
    row = TABLE["alexnet2014_mnist"]
    experiment = build("alexnet2014_mnist", Row(row.image_shape, {"blur": blur}), monkeypatch)
    assert trace_a_step(experiment) > 0


def trace_a_step(experiment: Experiment) -> int:
    """Trace a step on two devices, without computing it; the number of the network's parameters."""
    state = jax.eval_shape(lambda: init_state(experiment))
    batch = {
        "image": jax.ShapeDtypeStruct((2, 1, *experiment.dataset.image_shape), np.uint8),
        "label": jax.ShapeDtypeStruct((2, 1), np.int32),
    }
    step = jax.vmap(partial(train_step, experiment), (None, 0), None, axis_name=AXIS)
    after = jax.eval_shape(step, state, batch)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, after)]
    assert shapes[0] == shapes[1]
    return count_parameters(state.params)


@pytest.mark.parametrize("name", TABLE)
def test_a_script_is_short_and_says_how_it_is_run(name: str) -> None:
    text = SCRIPTS[name].read_text()
    assert len(text.splitlines()) <= 70  # about 60
    about = ast.get_docstring(ast.parse(text))
    assert about is not None and f"python -m experiments.{name}" in about
    assert text.rstrip().splitlines()[-2] == 'if __name__ == "__main__":'


@pytest.mark.parametrize("name", TABLE)
def test_a_config_is_frozen_and_holds_scalars(name: str) -> None:
    config = importlib.import_module(f"experiments.{name}").Config()
    values = dataclasses.asdict(config).values()
    assert {type(value) for value in values} <= {str, int, float, bool}
    assert config.seed == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
