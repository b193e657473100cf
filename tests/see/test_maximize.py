"""The patches found are the strongest of all, each cut out where its unit looks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest

from cnn_jax import __main__ as program
from cnn_jax.errors import UserError
from cnn_jax.figures import patches as figures
from cnn_jax.see.layers import layer_outputs, prepared
from cnn_jax.see.maximize import maximize, shown
from cnn_jax.trained import Trained, open_run


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Trained:
    return open_run(tiny_run)


def all_maps(trained: Trained, layer: str, images: np.ndarray) -> np.ndarray:
    seen = np.concatenate([prepared(trained, image) for image in images])
    variables = trained.variables
    return np.asarray(layer_outputs(trained.experiment.model, variables, seen)[1][layer])  # pyright: ignore


def test_the_strongest_of_all_examples_are_found(trained: Trained) -> None:
    """The batches do not divide the split: an example that is seen twice must not count twice."""
    images = trained.experiment.dataset.open("test").read(np.arange(360))["image"]
    maps = all_maps(trained, "C1", images)[..., 2]
    best = maps.max((1, 2))
    expected = np.argsort(-best, kind="stable")[:7]
    found = maximize(trained, "C1", 2, count=7, batch_size=77)
    assert [each.index for each in found] == expected.tolist()
    for each in found:
        assert each.place is not None
        np.testing.assert_allclose(each.activation, best[each.index], rtol=1e-5)
        assert each.place == divmod(int(maps[each.index].argmax()), 6)
        row, column = each.place
        assert each.box == (row, column, row + 3, column + 3)
        np.testing.assert_allclose(each.image, images[each.index] / 255, atol=1e-5)
    # The patch alone gives the activation: the layer is a 3x3 convolution.
    patch = figures.cut(found[0].image, found[0].box)[..., :1]
    dataset = trained.experiment.dataset
    standard = (patch - np.array(dataset.mean)) / np.array(dataset.std)
    weights: Any = trained.params["C1"]
    by_hand = (standard * weights["kernel"][..., 2]).sum() + weights["bias"][2]
    assert found[0].activation == pytest.approx(float(by_hand), rel=1e-4)


def test_a_dense_unit_sees_the_whole_image(trained: Trained) -> None:
    images = trained.experiment.dataset.open("test[:50]").read(np.arange(50))["image"]
    logits = all_maps(trained, "output", images)[:, 3]
    found = maximize(trained, "output", 3, count=60, split="test[:50]")
    assert [each.index for each in found] == np.argsort(-logits, kind="stable").tolist()
    assert {each.place for each in found} == {None}
    assert {each.box for each in found} == {(0, 0, 8, 8)}


def test_devices_do_not_matter(tiny_run: Path, trained: Trained) -> None:
    of_one = maximize(trained, "C1", count=3)
    with programs.simulated_devices(4):
        of_four = maximize(open_run(tiny_run), "C1", count=3)
    assert [patch.index for patch in of_four] == [patch.index for patch in of_one]
    assert [patch.box for patch in of_four] == [patch.box for patch in of_one]


def test_images_are_shown_as_the_network_sees_them(trained: Trained) -> None:
    """Cropped, and in their own shades."""
    crop = [lambda key, image: image[2:7, 1:5]]
    cropped = trained._replace(experiment=replace(trained.experiment, eval_transforms=crop))
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    np.testing.assert_allclose(shown(cropped, image), image[2:7, 1:5] / 255, atol=1e-6)


def test_what_is_beyond_the_image_is_marked() -> None:
    image = np.full((4, 5, 1), 0.5, np.float32)
    patch = figures.cut(image, (-1, 3, 2, 7))
    assert patch.shape == (3, 4, 3)
    np.testing.assert_allclose(patch[1:, :2], 0.5)
    for outside in (patch[0], patch[:, 2:]):
        np.testing.assert_allclose(outside, np.broadcast_to(figures.OUTSIDE, outside.shape))


def test_the_figure_has_patches_and_places() -> None:
    images = [np.full((8, 8, 1), shade, np.float32) for shade in (0.2, 0.8)]
    figure = figures.patches(images, [(1, 2, 4, 5), (-1, 0, 2, 3)], ["one", "two"], "C1")
    upper, lower = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title() for ax in upper] == ["one", "two"]
    assert figure.get_suptitle() == "C1 (pale blue: padding)"
    for ax, image, shape in zip(lower, images, ((3, 3), (2, 3)), strict=True):
        np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), image[..., 0])
        (frame,) = ax.patches
        assert (frame.get_height(), frame.get_width()) == shape  # pyright: ignore
    whole = figures.patches(images, [(0, 0, 8, 8)] * 2, ["one", "two"], "fc1")
    assert len(whole.axes) == 2 and whole.get_suptitle() == "fc1"


def test_the_program_writes_a_figure_and_numbers(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--layer", "C1", "--unit", "1", "--count", "4", "--split", "test[:40]"]
    program.main(["maximize", str(tiny_run), *flags, "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"patches.png", "maximize.json"}
    content = json.loads((out / "maximize.json").read_text())
    assert (content["layer"], content["unit"], len(content["patches"])) == ("C1", 1, 4)
    first = content["patches"][0]
    assert first.keys() == {"index", "label", "class", "activation", "place", "box"}
    assert f"{first['activation']:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layer", "C9"], "no layer 'C9' here: there are C1, dropout, output"),
        (["--layer", "C1", "--unit", "4"], "C1 has the units 0 to 3, not 4"),
        (["--layer", "C1", "--count", "0"], "--count must be at least 1 and at most 1,000, got 0"),
        (["--layer", "C1", "--count", "1001"], "--count must be at least 1 and at most 1,000"),
        (["--layer", "C1", "--unit", "-1"], "C1 has the units 0 to 3, not -1"),
        (["--layer", "C1", "--member", "1"], "members 0 to 0"),
    ],
)
def test_what_cannot_be_found_is_refused_in_one_line(
    flags: list[str],
    message: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    programs.assert_refused(["maximize", str(tiny_run), *flags, "--out", str(out)], message, capsys)
    assert not out.exists()


def test_a_model_without_layers_is_refused(trained: Trained) -> None:
    class Pair:
        pass

    other = trained._replace(experiment=replace(trained.experiment, model=Pair()))  # pyright: ignore
    with pytest.raises(UserError, match="Pair is no Flax module"):
        maximize(other, "C1")
