"""Draw a convolution: one place in numbers, all pixel values, an animation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from cnn_jax.figures.page import COLOURS, INCHES, STYLE, page

SIGNED = "RdBu_r"  # blue below zero, white at zero, red above
READABLE = 4.5  # points, the smallest font for a number in a cell
WINDOW = COLOURS[2]  # visible on grey, on blue and on red
CHANNELS = {1: ("",), 3: ("red ", "green ", "blue ")}


def limit(values: np.ndarray) -> float:
    """The positive end of a scale that is symmetric about zero and holds all finite `values`."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


class Grid:
    """A grid of coloured cells, with their numbers in them if the cells are large enough.

    Args:
        values: [rows, columns], or [rows, columns, 3] for colours in 0 .. 1.
        inches: the expected width of the grid.
        signed: None for grey levels 0 .. 1, else the end of the scale about zero.
    """

    def __init__(
        self, ax: Any, values: np.ndarray, inches: float, signed: float | None, digits: str = ".2f"
    ) -> None:
        self.digits = digits
        scale = {"cmap": "gray", "vmin": 0, "vmax": 1}
        if signed is not None:
            scale = {"cmap": SIGNED, "vmin": -signed, "vmax": signed}
        self.image = ax.imshow(values, interpolation="nearest", **scale)
        ax.spines[:].set_visible(True)
        ax.set_facecolor("0.85")  # shows in empty cells; zero is white
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        self.texts: list[Any] = []
        # A digit is 0.62 of its font size wide; a cell keeps a tenth of its width free.
        letters = 4 if signed is None else 5
        size = min(8.0, 0.9 * 72 * inches / max(values.shape[:2]) / (0.62 * letters))
        if values.ndim == 2 and size >= READABLE:
            place = {"ha": "center", "va": "center", "fontsize": size}
            for row, column in np.ndindex(values.shape):
                self.texts.append(ax.text(column, row, "", **place))
            self.show(values)

    def show(self, values: np.ndarray) -> None:
        """Put other values of the same shape into the cells; NaN leaves a cell empty."""
        self.image.set_data(values)
        for text, value in zip(self.texts, values.flat, strict=bool(self.texts)):
            text.set_text(_number(value, self.digits) if np.isfinite(value) else "")
            red, green, blue, _ = self.image.to_rgba(np.array([value]))[0]
            text.set_color("white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else "black")


class Steps:
    """A figure that can show any place of a kernel: the image and its feature map at the top; below
    them the patch, the kernel and their products, one row per channel. As wide as a page.

    Args:
        image: [H, W, C], 0 .. 1. kernel: [h, w, C]. feature_map: [H - h + 1, W - w + 1].
        name: the kernel's name.
    """

    def __init__(
        self, image: np.ndarray, kernel: np.ndarray, feature_map: np.ndarray, name: str
    ) -> None:
        self.picture, self.kernel, self.feature_map = image, kernel, feature_map
        channels = image.shape[-1]
        height, width = kernel.shape[:2]
        lower = 1.35 * min(max(height / width, 0.5), 1.5)
        tall = min(max(image.shape[0] / image.shape[1], 0.4), 1.4)
        upper, words = 3.0 * tall + 0.35, 0.35 + 0.19 * channels  # a line per channel
        total = upper + channels * (lower + 0.25) + words
        ratios = [upper, *[lower + 0.25] * channels, words]
        self.figure: Figure
        self.figure, _ = page(width=INCHES["page"], height=total)
        self.figure.clear()
        # Subfigures, since with panels of several widths the layout lets labels stick out.
        parts: Any = self.figure.subfigures(2 + channels, 1, height_ratios=ratios)
        above, *rows, below = parts

        ax, map_ax = above.subplots(1, 2)
        ax.set_title("image")
        shown = image[..., 0] if channels == 1 else image
        Grid(ax, shown, 2.8, None)
        edge = {
            "fill": False,
            "edgecolor": WINDOW,
            "linewidth": 2.2 if image.shape[1] < 60 else 1.2,
            "clip_on": False,
        }
        self.window = ax.add_patch(Rectangle((0, 0), width, height, **edge))
        map_ax.set_title(f"feature map of the kernel {name}")
        self.map = Grid(map_ax, feature_map, 2.6, limit(feature_map))
        self.place = map_ax.add_patch(Rectangle((0, 0), 1, 1, **edge))
        bar = above.colorbar(self.map.image, ax=map_ax, shrink=0.8, aspect=25, pad=0.02)
        bar.set_label("response")
        bar.outline.set_visible(False)

        self.patches, self.products = [], []
        largest = limit(image.max((0, 1)) * kernel)
        for channel, (row, colour) in enumerate(zip(rows, CHANNELS[channels], strict=True)):
            kernel_here = kernel[..., channel]
            patch, weights, product = row.subplots(1, 3)
            patch.set_title(f"{colour}patch")
            weights.set_title(f"{colour}kernel")
            product.set_title("products")
            empty = np.zeros_like(kernel_here)
            self.patches.append(Grid(patch, empty, 1.2, None))
            Grid(weights, kernel_here, 1.2, limit(kernel), digits="g")
            self.products.append(Grid(product, empty, 1.2, largest))
            for ax in (patch, weights, product):
                ax.set(xticks=[], yticks=[])
            for ax, sign in ((weights, "×"), (product, "=")):
                ax.text(
                    *(-0.42, 0.5, sign), fontsize=14, ha="center", va="center",
                    transform=ax.transAxes,
                )  # fmt: skip
        self.words = below.text(0.5, 0.95, "", ha="center", va="top", linespacing=1.5)

    def moving(self) -> list[Any]:
        """All artists that `at` changes, in drawing order."""
        grids = [self.map, *self.patches, *self.products]
        texts = [text for grid in grids for text in grid.texts]
        borders = [line for grid in grids for line in grid.image.axes.spines.values()]
        frames = [*borders, self.window, self.place]
        return [*(grid.image for grid in grids), *texts, *frames, self.words]

    def at(self, row: int, column: int, spelled: str, known: int | None = None) -> None:
        """Move the kernel to a place.

        Args:
            spelled: the text below the panels.
            known: how many places of the feature map are filled, row by row; None fills all.
        """
        height, width = self.kernel.shape[:2]
        self.window.set_xy((column - 0.5, row - 0.5))
        self.place.set_xy((column - 0.5, row - 0.5))
        patch = self.picture[row : row + height, column : column + width]
        for channel, (values, products) in enumerate(zip(self.patches, self.products, strict=True)):
            values.show(patch[..., channel])
            products.show(patch[..., channel] * self.kernel[..., channel])
        if known is not None:
            filled = self.feature_map.copy()
            filled.ravel()[known:] = np.nan
            self.map.show(filled)
        self.words.set_text(spelled)


@rc_context(STYLE)
def one_place(
    image: np.ndarray,
    kernel: np.ndarray,
    feature_map: np.ndarray,
    name: str,
    place: tuple[int, int],
    spelled: str,
) -> Figure:
    """Draw the image, the feature map, and the products that add up to one of its numbers.

    Args:
        image, kernel, feature_map, name: as in `Steps`.
        place: row and column of the window's top left corner.
        spelled: the sum in words and numbers, up to three lines.
    """
    steps = Steps(image, kernel, feature_map, name)
    steps.at(*place, spelled)
    return steps.figure


@rc_context(STYLE)
def pixel_values(image: np.ndarray, title: str) -> Figure:
    """Draw each channel of an image [H, W, C], 0 .. 1, as a grid of numbers; as wide as a page."""
    channels = image.shape[-1]
    width = INCHES["page"] / channels
    height = (width - 0.4) * image.shape[0] / image.shape[1] + 0.5
    figure, [axes] = page(1, channels, width=INCHES["page"], height=height)
    for channel, (ax, colour) in enumerate(zip(axes, CHANNELS[channels], strict=True)):
        Grid(ax, image[..., channel], width - 0.4, None)
        ax.set_title(f"{title}, {colour.strip()}" if colour else title)
    return figure


@rc_context(STYLE)
def map_values(feature_map: np.ndarray, title: str) -> Figure:
    """Draw a feature map [rows, columns] as a grid of numbers; as wide as a page."""
    width = INCHES["page"] - 0.9
    height = width * feature_map.shape[0] / feature_map.shape[1] + 0.5
    figure, [[ax]] = page(width=INCHES["page"], height=height)
    grid = Grid(ax, feature_map, width, limit(feature_map))
    ax.set_title(title)
    bar = figure.colorbar(grid.image, ax=ax, aspect=40, pad=0.015)
    bar.set_label("response")
    bar.outline.set_visible(False)
    return figure


@rc_context(STYLE)
def animate(
    path: Path,
    image: np.ndarray,
    kernel: np.ndarray,
    feature_map: np.ndarray,
    name: str,
    places: Sequence[tuple[int, int]],
    spelled: Sequence[str],
) -> None:
    """Write a GIF in which the window moves from place to place and fills the feature map.

    Args:
        image, kernel, feature_map, name: as in `Steps`.
        places: (row, column) of each frame, in reading order; the last is the map's last.
        spelled: the text below the panels, one for each place.
    """
    steps = Steps(image, kernel, feature_map, name)
    canvas: Any = steps.figure.canvas
    # What does not move is drawn once; drawing it for each frame takes five times as long.
    moving = steps.moving()
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    still = canvas.copy_from_bbox(steps.figure.bbox)
    frames = []
    for (row, column), text in zip(places, spelled, strict=True):
        steps.at(row, column, text, known=row * feature_map.shape[1] + column + 1)
        canvas.restore_region(still)
        for artist in moving:
            artist.draw(canvas.get_renderer())
        frames.append(Image.fromarray(np.array(canvas.buffer_rgba())[..., :3]))
    durations = [120] * (len(frames) - 1) + [2000]  # milliseconds
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _number(value: float, digits: str) -> str:
    text = format(value, digits) if digits != "g" else format(value, ".3g")
    return "0.00" if text == "-0.00" else text.replace("-", "\N{MINUS SIGN}")
