"""Draw an evaluation: confusions, calibration, and examples with the worst errors."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnn_jax.figures.page import COLOURS, INCHES, STYLE, page

NAMED = 40  # classes that still have room for their names
COUNTED = 20  # classes whose cells still have room for a number
SHORT = 4  # letters of class names that a column holds


@rc_context(STYLE)
def confusion_matrix(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draw the number of examples by true class (rows) and predicted class (columns).

    The shade is the square root of a cell's share of its row, so that rare confusions show. With up
    to `COUNTED` classes the cells hold their counts. As wide as a column for up to ten short names,
    else as a page.

    Args:
        counts: int [classes, classes] by [true, predicted].
        names: the classes' names.
    """
    classes = len(names)
    short = max(map(len, names)) <= SHORT
    width, height = (INCHES["column"], 3.3) if short and classes <= 10 else (INCHES["page"], 6.2)
    figure, [[axes]] = page(width=width, height=height)
    share = 100 * counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    axes.spines[:].set_visible(False)
    if classes <= NAMED:
        size = min(7.0, 200 / classes)
        turned = {} if short else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(classes), names, fontsize=size, **turned)
        axes.set_yticks(range(classes), names, fontsize=size)
        axes.tick_params(length=0)
    else:
        axes.set(xlabel="predicted class (number)", ylabel="true class (number)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(10, integer=True))
    if classes <= COUNTED:
        # The matrix takes seven tenths of the width; a digit is 0.62 of its font size wide.
        cell = 72 * 0.7 * width / classes
        size = min(8.0, 0.85 * cell / (0.62 * len(str(counts.max()))))
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 35 else "black"
            text = str(counts[row, column])
            place = {"ha": "center", "va": "center"}
            axes.text(column, row, text, fontsize=size, color=colour, **place)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("part of the true class (%)")
    bar.outline.set_visible(False)
    return figure


@rc_context(STYLE)
def reliability_diagram(
    count: np.ndarray,
    confidence: np.ndarray,
    accuracy: np.ndarray,
    interval: np.ndarray,
    title: str,
) -> Figure:
    """Draw accuracy over confidence in bins of equal width, the diagonal being perfect, and below
    the number of examples in each bin. As wide as a column.

    Args:
        count: int [bins]; empty bins are left out.
        confidence: [bins], mean probability of the predicted class, 0 .. 1.
        accuracy: [bins], 0 .. 1.
        interval: [bins, 2], the low and high end of each accuracy.
    """
    figure, [[above], [below]] = page(
        2, 1, width=INCHES["column"], height=4.2, sharex=True, height_ratios=[3, 1]
    )
    filled = count > 0
    x, y = 100 * confidence[filled], 100 * accuracy[filled]
    ends = 100 * np.abs(interval[filled].T - accuracy[filled])
    above.plot([0, 100], [0, 100], color="0.5", linewidth=0.8, linestyle="--", label="perfect")
    above.errorbar(
        *(x, y, ends), fmt="o", color=COLOURS[0], markersize=3.5, elinewidth=0.9, clip_on=False,
        label="bin, with 95 % interval",
    )  # fmt: skip
    above.set(title=title, ylabel="accuracy (%)", xlim=(0, 100), ylim=(0, 100))
    above.legend(loc="lower right")
    left = 100 * np.arange(len(count)) / len(count)
    below.bar(left, count, width=100 / len(count), align="edge", color=COLOURS[0], edgecolor="w")
    below.set(xlabel="probability of the predicted class (%)", ylabel="examples", yscale="log")
    below.set_ylim(0.5, 2 * max(count.max(), 5))  # a single example shows
    return figure


@rc_context(STYLE)
def gallery(images: np.ndarray, captions: Sequence[str], title: str) -> Figure:
    """Draw images in rows of six, each above its caption; as wide as a page.

    Args:
        images: uint8 [n, H, W, 1 or 3], shown as stored, with square pixels.
        captions: one for each, up to three lines of about twenty letters.
    """
    columns = 6
    rows = -(-len(images) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    tall = images.shape[1] / images.shape[2]
    height = rows * (1.1 * tall + 0.14 * lines + 0.1) + 0.3
    figure, axes = page(rows, columns, width=INCHES["page"], height=height)
    for place in axes.flat:
        place.set_axis_off()
    for place, image, caption in zip(axes.flat, images, captions, strict=False):
        # Without limits Matplotlib would stretch the contrast of grey images.
        place.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        place.text(
            *(0.5, -0.04, caption), fontsize=6.5, ha="center", va="top", transform=place.transAxes
        )
    figure.suptitle(title, fontsize=8)
    return figure
