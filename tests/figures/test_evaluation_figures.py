"""What the pictures of an evaluation hold: arrays, scales, words; nothing is cut off."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from cnn_jax.figures import INCHES
from cnn_jax.figures.evaluation import confusion_matrix, gallery, reliability_diagram

DIGITS = list("0123456789")
LONG = ["tench", "English springer", "cassette player", "chain saw", "golf ball"]


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Titles, labels and numbers lie within the picture."""
    figure.draw_without_rendering()
    box: Any = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def counts(classes: int) -> np.ndarray:
    table = np.random.default_rng(0).integers(0, 4, (classes, classes))
    return table + 1000 * np.eye(classes, dtype=int)


def test_a_confusion_matrix_shows_parts_of_rows_and_counts() -> None:
    table = counts(10)
    table[3] = 0  # a class without examples
    figure = confusion_matrix(table, DIGITS, "error 1.79 % (1.55 to 2.07)")
    axes, bar = figure.axes
    (image,) = axes.images
    share = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(np.asarray(image.get_array()), share)
    assert (image.norm.vmin, image.norm.vmax) == (0, 100)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(c, r): str(table[r, c]) for r, c in np.argwhere(table)}
    assert [label.get_text() for label in axes.get_yticklabels()] == DIGITS
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.get_title() == "error 1.79 % (1.55 to 2.07)" and "%" in bar.get_ylabel()
    assert figure.get_size_inches()[0] == INCHES["column"]
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("names", [LONG, [f"class {i}" for i in range(40)]])
def test_long_names_and_many_classes_fit_a_page(names: list[str]) -> None:
    figure = confusion_matrix(counts(len(names)), names, "error")
    assert figure.get_size_inches()[0] == INCHES["page"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    assert bool(figure.axes[0].texts) == (len(names) <= 20)
    assert_nothing_is_cut_off(figure)


def test_a_thousand_classes_have_numbers() -> None:
    figure = confusion_matrix(counts(1000), ["name"] * 1000, "error")
    assert not figure.axes[0].texts and "number" in figure.axes[0].get_xlabel()
    assert_nothing_is_cut_off(figure)


def test_a_reliability_diagram_shows_accuracy_by_confidence() -> None:
    count = np.array([0, 5, 0, 900])
    confidence = np.array([np.nan, 0.4, np.nan, 0.95])
    accuracy = np.array([np.nan, 0.2, np.nan, 0.97])
    interval = np.array([[np.nan] * 2, [0.1, 0.6], [np.nan] * 2, [0.96, 0.98]])
    title = "calibration error 12.34 % (10.34 to 14.34)"
    figure = reliability_diagram(count, confidence, accuracy, interval, title)
    above, below = figure.axes
    perfect, points = above.lines
    np.testing.assert_allclose(np.asarray(perfect.get_xydata()), [[0, 0], [100, 100]])
    np.testing.assert_allclose(np.asarray(points.get_xydata()), [[40, 20], [95, 97]])
    bars = above.collections[0].get_segments()  # pyright: ignore
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[10, 60], [96, 98]])
    assert above.get_xlim() == above.get_ylim() == (0, 100)
    heights = [bar.get_height() for bar in below.patches]  # pyright: ignore
    assert heights == [0, 5, 0, 900] and below.get_ylim()[1] > 900
    assert above.get_title() == title and "%" in below.get_xlabel()
    assert figure.get_size_inches()[0] == INCHES["column"]
    assert_nothing_is_cut_off(figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gallery_shows_images_as_stored(channels: int) -> None:
    images = np.random.default_rng(0).integers(90, 120, (8, 10, 12, channels)).astype(np.uint8)
    captions = [f"English springer →\ncassette player (97 %)\nno. {i}" for i in range(8)]
    figure = gallery(images, captions, "highest loss")
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 8 and len(figure.axes) == 12
    for axes, image, caption in zip(shown, images, captions, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image.squeeze())
        assert axes.images[0].get_clim() == (0, 255) or channels == 3
        assert [text.get_text() for text in axes.texts] == [caption]
    assert_nothing_is_cut_off(figure)
