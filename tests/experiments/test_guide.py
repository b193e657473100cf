"""The guide's commands exist, its pictures are there, its figures are those of the records."""

import importlib
import json
import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn_jax import __main__ as program
from cnn_jax import models
from cnn_jax.cli import main
from cnn_jax.command_line.flags import parse
from cnn_jax.data import load_dataset
from cnn_jax.see.convolution import convolve, kernel_of
from cnn_jax.see.layers import layer_shapes
from cnn_jax.see.receptive import receptive_field
from experiments import ladder
from experiments.tools import guide

TEXT = guide.GUIDE.read_text()
WORDS = " ".join(TEXT.split())  # where lines end does not matter
README = (guide.GUIDE.parents[1] / "README.md").read_text()
FIGURES = guide.GUIDE.parent / "pictures"


def test_the_commands_are_found() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    assert all(line.startswith("python -m ") for block in blocks for line in block.splitlines())
    modules = {words[0] for words in guide.commands()}
    assert len(guide.commands()) == 12
    assert {"cnn_jax", "experiments.mlp_mnist", "experiments.lenet5_mnist"} < modules


@pytest.mark.parametrize("words", guide.commands(), ids=" ".join)
def test_every_flag_is_known(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read their flags before they miss the dataset, which ends them."""
    module, *arguments = words
    if module == "cnn_jax":
        parse(program._one_of(program.COMMANDS), arguments)
        return
    script = importlib.import_module(module)
    with pytest.raises(SystemExit) as refusal:
        main(script.Config, script.build, arguments=[*arguments, "--data-dir", "/none"])
    assert refusal.value.code == 2 and "is not prepared" in capsys.readouterr().err


def test_the_first_command_says_what_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, *arguments = guide.commands()[0]
    program.main([*arguments, "--no-animation"])
    line = capsys.readouterr().out.splitlines()[0]
    assert f"`{line}`" in WORDS
    assert (tmp_path / "edges" / "convolution.png").exists()


@pytest.mark.parametrize("kernel", re.findall(r"`--kernel (.*?)`", WORDS))
def test_the_other_kernels_are_kernels(kernel: str) -> None:
    image = load_dataset("digits").open("test").read([3])["image"][0]
    (word,) = shlex.split(kernel)
    assert np.abs(convolve(image, kernel_of(word)).feature_map).max() > 0.5


def test_pictures_are_there_and_small() -> None:
    named = re.findall(r"!\[(.+?)\]\(pictures/(.*?)\)", TEXT)
    assert {name for _, name in named} >= set(guide.pictures()) and len(guide.pictures()) == 7
    assert all((FIGURES / name).exists() and len(text) > 20 for text, name in named)
    assert {path.name for path in FIGURES.glob("guide-*")} == set(guide.pictures())
    assert sum(path.stat().st_size for path in FIGURES.iterdir()) < 1.5e6


def test_sizes_are_those_of_the_networks() -> None:
    lenet = models.LeNet5()
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), np.float32)
    variables = jax.eval_shape(lenet.init, jax.random.key(0), images)
    shapes = layer_shapes(lenet, variables, images)
    for name in ("C1", "S2", "C3", "S4"):
        height, width, count = shapes[name]
        (row,) = re.findall(rf"\| {name} \|.*", TEXT)
        assert f"| {count} maps of {height} × {width} |" in row
    for layer, size in (("C1", "5 × 5"), ("C3", "14 × 14")):
        field = receptive_field(lenet, (28, 28, 1), layer)
        assert field is not None and f"{field.size[0]} × {field.size[1]}" == size
        assert size in WORDS
    assert "163 × 163" in WORDS  # which test_receptive.py composes for conv5
    weights = {name: models.count_parameters(params) for name, params in parameters().items()}
    assert {f"{count:,}" for count in weights.values()} <= set(re.findall(r"[\d,]{6,}", TEXT))
    assert 900 < weights["AlexNet"] / weights["LeNet-5"] < 1100


def parameters() -> dict[str, object]:
    networks = {
        "LeNet-5": (models.LeNet5(), (28, 28, 1)),
        "MLP": (models.MLP((800, 800)), (28, 28, 1)),
        "AlexNet": (models.AlexNet2012(), (224, 224, 3)),
    }
    key = jax.random.key(0)
    return {
        name: jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((1, *shape), np.float32))
        for name, (model, shape) in networks.items()
    }


def test_shifts_are_those_of_the_record() -> None:
    record = json.loads((ladder.RECORDS / "shift-mnist.json").read_text())
    shares = {one["network"]: one["accuracy_by_distance"] for one in record["runs"]}
    at = record["runs"][0]["distances"].index(4)
    mlp, lenet = (100 * shares[name][at] for name in ("MLP", "LeNet-5"))
    assert f"an MLP reads {mlp:.1f} % of those moved by 4 pixels, LeNet-5 {lenet:.1f} %" in WORDS


def test_readme_leads_here() -> None:
    assert "(docs/guide.md)" in README
