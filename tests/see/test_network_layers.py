"""Layers show what the network itself computes, and the kernels that it computes it with."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pages
import programs
import pytest
from PIL import Image

from cnn_jax import __main__ as program
from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.figures import maps as figures
from cnn_jax.see.layers import (
    kernels,
    layer_kernels,
    layer_output,
    layer_outputs,
    layer_shapes,
    look,
)
from cnn_jax.trained import Trained, open_run

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Trained:
    return open_run(tiny_run)


def started(model: nn.Module, shape: tuple[int, ...]) -> tuple[Any, jax.Array]:
    """Random variables and an image, without compiling."""
    images = jnp.float32(np.random.default_rng(1).normal(size=(1, *shape)))
    return pages.random_weights(jax.eval_shape(model.init, jax.random.key(0), images)), images


def test_layers_are_the_networks_own_forward_pass() -> None:
    model = models.LeNet5()
    variables, images = started(model, (28, 28, 1))
    logits, found = layer_outputs(model, variables, images)
    assert list(found) == ["C1", "S2", "C3", "S4", "C5", "F6", "output"]  # as they compute
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, images), atol=1e-5)
    np.testing.assert_allclose(found["output"], logits, atol=1e-6)
    # Each layer from the one before: the units of F6 by hand, the maps of S2 by their means.
    weights = variables["params"]["F6"]
    by_hand = np.tanh(found["C5"]) @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(found["F6"], by_hand, atol=1e-4)
    means = np.tanh(found["C1"]).reshape(1, 14, 2, 14, 2, 6).mean((2, 4))
    np.testing.assert_allclose(found["S2"], means, atol=1e-5)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2, name="a")(nn.Dense(3, name="z")(x))


class Nested(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False, keys: Any = None) -> jax.Array:
        x = Inner(name="block")(images.reshape(len(images), -1))
        x = nn.remat(Inner)(name="again")(x)
        states: Any = nn.RNN(nn.GRUCell(2), name="scan")(x[..., None])
        last = nn.Dense(2, name="twice")
        return last(last(states[:, -1]))


def test_nested_layers_are_found_in_their_order() -> None:
    """Inside `nn.remat` as well; not inside `nn.scan`. The second output of a layer counts."""
    variables, images = started(Nested(), (2, 2, 1))
    logits, found = layer_outputs(Nested(), variables, images)
    again = ["again/z", "again/a", "again"]
    assert list(found) == ["block/z", "block/a", "block", *again, "scan", "twice"]
    np.testing.assert_array_equal(found["twice"], logits)
    shapes = layer_shapes(Nested(), variables, images)
    assert shapes == {name: y.shape[1:] for name, y in found.items()}


def test_one_layer_leaves_out_all_that_follows() -> None:
    variables, images = started(models.LeNet5(), (28, 28, 1))

    @jax.jit
    def c1(variables: Any, images: jax.Array) -> jax.Array:
        return layer_output(models.LeNet5(), variables, images, "C1")

    _, found = layer_outputs(models.LeNet5(), variables, images)
    np.testing.assert_allclose(c1(variables, images), found["C1"], atol=1e-5)
    program = c1.lower(variables, images).as_text()
    assert "5x5x1x6x" in program and "5x5x6x16x" not in program  # the kernels of C1 and C3


NETWORKS = {
    "LeNet1989": (models.LeNet1989(), (16, 16, 1), {"H1", "H2"}),
    "LeNet5_1998": (models.LeNet5_1998(), (32, 32, 1), {"C1", "C3"}),
    "MLP": (models.MLP(widths=(20,)), (28, 28, 1), {"fc1"}),
    "SimardConvNet": (models.SimardConvNet(), (29, 29, 1), {"C1", "C2"}),
    "AlexNet2012": (
        models.AlexNet2012(classes=4, maps=(4, 4, 4, 4, 4), units=(8, 8)),
        (67, 67, 3),
        {"conv1", "conv2", "conv3", "conv4", "conv5"},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_shows_its_layers_and_kernels(name: str) -> None:
    model, shape, expected = NETWORKS[name]
    variables, images = started(model, shape)
    logits, found = layer_outputs(model, variables, images)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, images), atol=1e-5)
    assert list(found.values())[-1].shape == logits.shape
    shown = layer_kernels(model, variables, images)
    assert set(shown) == expected
    first = next(iter(shown.values()))
    assert first.shape[2] == shape[2] and all(kernel.ndim == 4 for kernel in shown.values())


def test_kernels_are_the_parameters_and_a_table_leaves_gaps() -> None:
    model = models.LeNet5_1998()
    variables, images = started(model, (32, 32, 1))
    found = layer_kernels(model, variables, images)
    np.testing.assert_array_equal(found["C1"], variables["params"]["C1"]["kernel"])
    seen = ~np.isnan(found["C3"])
    assert found["C3"].shape == (5, 5, 6, 16) and seen.all((0, 1)).sum() == 60
    assert seen[0, 0, :, 0].tolist() == [True] * 3 + [False] * 3  # table I
    pairs = variables["params"]["C3"]["kernel"]
    np.testing.assert_array_equal(found["C3"][:, :, 2, 0], pairs[:, :, 2])
    np.testing.assert_array_equal(found["C3"][:, :, 1, 1], pairs[:, :, 3])

    mlp = models.MLP(widths=(5,))
    variables, images = started(mlp, (4, 3, 1))
    kernel = layer_kernels(mlp, variables, images)["fc1"]
    assert kernel.shape == (4, 3, 1, 5)
    answer = np.einsum("yxc,yxcd->d", images[0], kernel) + variables["params"]["fc1"]["bias"]
    _, layers = layer_outputs(mlp, variables, images)
    np.testing.assert_allclose(layers["fc1"][0], answer, atol=1e-5)


def test_what_is_no_flax_module_is_refused() -> None:
    class Pair:
        pass

    for function in (layer_outputs, layer_kernels):
        with pytest.raises(UserError, match="Pair is no Flax module"):
            function(Pair(), {}, jax.numpy.zeros((1, 2, 2, 1)))


def test_a_trained_network_sees_what_evaluation_sees(trained: Trained) -> None:
    """State besides the parameters included: the running mean of `tiny.Net`."""
    dataset = trained.experiment.dataset
    image = dataset.open("test").read([5])["image"][0]
    seen = look(trained, image)
    mean, std = (np.array(x, np.float32) for x in (dataset.mean, dataset.std))
    variables = trained.variables
    logits, _ = trained.experiment.model.apply(
        variables, (image[None] / np.float32(255) - mean) / std, train=False, keys=None, mutable=[]
    )
    np.testing.assert_allclose(seen.logits, logits[0], atol=1e-5)
    assert seen.probabilities.sum() == pytest.approx(1)
    assert seen.layers["C1"].shape == (6, 6, 4)
    np.testing.assert_array_equal(kernels(trained)["C1"], trained.params["C1"]["kernel"])


def test_tiles_share_a_scale_about_zero() -> None:
    values = RANDOM.normal(size=(4, 5, 7))
    figure = figures.tiles(values, "C1", "response")
    ax, bar = figure.axes
    assert ax.get_title() == "C1" and bar.get_ylabel() == "response"
    end = np.abs(values).max()
    for number, image in enumerate(ax.images):
        np.testing.assert_array_equal(np.asarray(image.get_array()), values[..., number])
        assert image.get_clim() == (-end, end) and image.get_cmap().name == "RdBu_r"
    assert [text.get_text() for text in ax.texts] == list("0123456")
    assert figure.get_size_inches()[0] == 7.2


def test_tiles_that_do_not_fit_are_left_out_and_said() -> None:
    (ax, _) = figures.tiles(np.ones((2, 2, 400)), "fc1", "weight").axes
    assert len(ax.images) == 384 and ax.get_title() == "fc1 (the first 384)"


def test_colour_kernels_are_colours_about_grey() -> None:
    values = RANDOM.normal(size=(4, 4, 3, 2))
    (ax,) = figures.tiles(values, "conv1", "weight").axes
    shown = np.stack([np.asarray(image.get_array()) for image in ax.images], -1)
    np.testing.assert_allclose(shown, 0.5 + values / (2 * np.abs(values).max()))


@pytest.mark.parametrize("count", [10, 120, 200])
def test_units_show_their_values(count: int) -> None:
    values = RANDOM.normal(size=count)
    ax = figures.units(values, "F6", [f"class {i}" for i in range(10)]).axes[0]
    if count > 128:
        shown = np.ma.filled(np.ma.asarray(ax.images[0].get_array()), np.nan).ravel()[:count]
        assert ax.images[0].get_clim() == (-np.abs(values).max(), np.abs(values).max())
    else:
        shown = np.array([bar.get_height() for bar in ax.patches])  # pyright: ignore
        blue, red = np.array([bar.get_facecolor() for bar in ax.patches])[:, [2, 0]].T
        assert ((red >= blue) == (values >= 0)).all()
    np.testing.assert_allclose(shown, values)
    named = [label.get_text() for label in ax.get_xticklabels()][:1] == ["class 0"]
    assert named == (count == 10)


def test_a_kernel_table_has_inputs_down_and_outputs_across() -> None:
    kernel = RANDOM.normal(size=(2, 3, 4, 70))
    kernel[:, :, 1, 2] = np.nan
    ax = figures.kernel_table(kernel, "C3").axes[0]
    sheet = np.ma.filled(np.ma.asarray(ax.images[0].get_array()), np.nan)
    assert sheet.shape == (4 * 3 - 1, 64 * 4 - 1)
    np.testing.assert_array_equal(sheet[6:8, 20:23], kernel[:, :, 2, 5])
    assert np.isnan(sheet[3:5, 8:11]).all()
    end = np.nanmax(np.abs(kernel))
    assert ax.images[0].get_clim() == (-end, end)
    assert "the first 4 of 4 inputs, 64 of 70 outputs" in ax.get_title()


def test_the_programs_write_a_figure_per_layer(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.main(["maps", str(tiny_run), "--index", "2", "--out", str(tmp_path / "maps")])
    names = {path.name for path in (tmp_path / "maps").iterdir()}
    assert names == {"00-prediction.png", "01-C1.png", "02-dropout.png", "03-output.png"}
    printed = capsys.readouterr().out
    assert "6x6x4" in printed and "%), labelled" in printed

    photograph = RANDOM.integers(0, 256, (30, 20, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "mine.png")
    command = ["maps", str(tiny_run), "--image", str(tmp_path / "mine.png"), "--layers", "C1"]
    program.main([*command, "--out", str(tmp_path / "mine")])
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"00-prediction.png", "01-C1.png"}
    assert "labelled" not in capsys.readouterr().out

    program.main(["kernels", str(tiny_run), "--out", str(tmp_path / "kernels")])
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["01-C1.png"]
    assert "3x3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maps", "RUN", "--layers", "C9"], "no layer 'C9' here: there are C1, dropout, output"),
        (["maps", "RUN", "--index", "-1"], "examples 0 to 359"),
        (["maps", "RUN", "--image", "none.png"], "neither an image file"),
        (["maps", "RUN", "--image", "none.png", "--index", "1"], "not both"),
        (["maps", "RUN", "--member", "1"], "members 0 to 0"),
        (["maps", "RUN", "--step", "7"], "no checkpoint of step 7"),
        (["kernels", "RUN", "--layers", "output"], "no layer 'output' here: there are C1"),
        (["kernels", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_seen_is_refused_in_one_line(
    arguments: list[str],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(tiny_run) if word == "RUN" else word for word in arguments]
    programs.assert_refused([*words, "--out", str(tmp_path / "out")], message, capsys)
    assert not (tmp_path / "out").exists()
