"""Draw a network's feature maps, units, kernels and prediction.

Signed numbers are blue below zero, white at zero and red above, on one scale for a whole layer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnn_jax.figures.convolution import SIGNED, limit
from cnn_jax.figures.page import COLOURS, INCHES, STYLE, page

INPUTS, OUTPUTS = 32, 64  # kernels of a layer that are drawn; more would be too small to see
TILES = 384  # the maps of AlexNet's widest layer; more do not fit a page
ABSENT = "0.75"  # grey, where an output is not connected to an input
STRIP = 64  # units per row if there are too many for bars


@rc_context(STYLE)
def tiles(values: np.ndarray, title: str, label: str) -> Figure:
    """Draw grids of numbers or colours side by side, each below its number; as wide as a page.

    Only the first `TILES` are drawn; the title says so if there are more.

    Args:
        values: [height, width, n], signed and on one scale about zero; or [height, width, 3, n],
            colours in which zero is grey and the largest magnitude full or no colour.
        label: the label of the scale.
    """
    end, count = limit(values), min(values.shape[-1], TILES)
    if count < values.shape[-1]:
        title += f" (the first {count})"
    most = {6: 6, 8: 32, 16: 256, 24: 576}  # columns: the most tiles for which they are used
    columns = min(count, next((n for n, upto in most.items() if count <= upto), 32))
    scaled = values.ndim == 3
    room = INCHES["page"] - (0.85 if scaled else 0.15)
    side = min(room / columns, 1.6)
    gap = 0.15 / side  # above each tile, for its number
    tall = 0.93 * values.shape[0] / values.shape[1]
    rows = -(-count // columns)
    height = rows * side * (tall + gap) + 0.35
    figure, [[ax]] = page(width=INCHES["page"], height=max(height, 1.1))
    norm = Normalize(-end, end)
    places = [(i % columns, i // columns * (tall + gap)) for i in range(count)]
    for number, (x, y) in enumerate(places):
        tile = values[..., number]
        extent = (x, x + 0.93, y + tall, y)
        colours = {"cmap": SIGNED, "norm": norm}
        shown = tile if scaled else 0.5 + tile / (2 * end)
        ax.imshow(shown, extent=extent, interpolation="nearest", **(colours if scaled else {}))
        ax.text(x + 0.465, y - 0.02 / side, str(number), fontsize=5.5, ha="center", va="bottom")
    outlines = [Rectangle(place, 0.93, tall) for place in places]
    ax.add_collection(PatchCollection(outlines, facecolor="none", edgecolor="0.5", linewidth=0.4))
    # Few tiles may leave half a tile and more free at the right.
    ax.set(xlim=(-0.02, columns), ylim=(places[-1][1] + tall + 0.02, -gap), title=title)
    ax.set_axis_off()
    if scaled:
        _bar(figure, ax, norm, label)
    return figure


@rc_context(STYLE)
def units(values: np.ndarray, title: str, names: Sequence[str] = ()) -> Figure:
    """Draw the units of a dense layer: up to 2 * `STRIP` as bars, more as rows of `STRIP` cells.

    Args:
        values: [n], signed.
        names: the units' names, such as the classes.
    """
    end, count = limit(values), len(values)
    norm = Normalize(-end, end)
    if count <= 2 * STRIP:
        figure, [[ax]] = page(width=INCHES["page"], height=1.9)
        colours = colormaps[SIGNED](norm(values))
        ax.bar(range(count), values, color=colours, edgecolor="0.4", linewidth=0.4)
        ax.axhline(0, color="black", linewidth=0.6)
        ax.set(title=title, xlabel="unit", ylabel="value", xlim=(-0.7, count - 0.3))
        if len(names) == count and count <= 40:
            turned = {"rotation": 30, "ha": "right"} if max(map(len, names)) > 6 else {}
            ax.set_xticks(range(count), names, **turned)
            ax.set_xlabel("class")
        return figure
    rows = -(-count // STRIP)
    folded = np.full(rows * STRIP, np.nan)
    folded[:count] = values
    figure, [[ax]] = page(width=INCHES["page"], height=0.1 * rows + 0.9)
    ax.imshow(folded.reshape(rows, STRIP), cmap=SIGNED, norm=norm, interpolation="nearest")
    step = -(-rows // 8)
    ax.set_yticks(range(0, rows, step), [str(STRIP * row) for row in range(0, rows, step)])
    ax.set(title=title, xlabel=f"unit, {STRIP} in a row", ylabel="first unit of the row")
    ax.spines[:].set_visible(True)
    _bar(figure, ax, norm, "value")
    return figure


@rc_context(STYLE)
def kernel_table(kernels: np.ndarray, title: str) -> Figure:
    """Draw kernels [height, width, inputs, outputs], a row per input map, a column per output map.

    Only the first `INPUTS` and `OUTPUTS` are drawn; the title says so if there are more. NaN is
    grey.
    """
    height, width, *whole = kernels.shape
    shown = kernels[:, :, :INPUTS, :OUTPUTS]
    inputs, outputs = shown.shape[2:]
    if [inputs, outputs] != whole:
        title += f" (the first {inputs} of {whole[0]} inputs, {outputs} of {whole[1]} outputs)"
    framed = np.pad(shown, ((0, 1), (0, 1), (0, 0), (0, 0)), constant_values=np.nan)
    sheet = framed.transpose(2, 0, 3, 1).reshape(inputs * (height + 1), outputs * (width + 1))
    side = min((INCHES["page"] - 1.2) / sheet.shape[1], 3.2 / sheet.shape[0])
    side = max(side, min((INCHES["page"] - 1.2) / sheet.shape[1], 7.0 / sheet.shape[0]))
    figure, [[ax]] = page(width=INCHES["page"], height=side * sheet.shape[0] + 0.8)
    norm = Normalize(-limit(kernels), limit(kernels))
    ax.imshow(sheet[:-1, :-1], cmap=SIGNED, norm=norm, interpolation="nearest")
    ax.set_facecolor(ABSENT)
    ax.spines[:].set_visible(True)
    for axis, count, size in ((ax.xaxis, outputs, width), (ax.yaxis, inputs, height)):
        numbers = range(0, count, -(-count // 16))
        middles = [number * (size + 1) + (size - 1) / 2 for number in numbers]
        axis.set_ticks(middles, [str(number) for number in numbers])
    ax.tick_params(length=0)
    ax.set(title=title, xlabel="output map", ylabel="input map")
    _bar(figure, ax, norm, "weight")
    return figure


@rc_context(STYLE)
def prediction(
    image: np.ndarray, probabilities: np.ndarray, names: Sequence[str], title: str
) -> Figure:
    """Draw an image, uint8 [H, W, 1 or 3], and the probabilities of its five likeliest classes."""
    figure, [[left, right]] = page(1, 2, width=INCHES["column"], height=1.7, width_ratios=[1, 1.25])
    left.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    left.set_axis_off()
    first = np.argsort(-probabilities, kind="stable")[:5]
    right.barh(range(len(first)), 100 * probabilities[first], color=COLOURS[0])
    right.set_yticks(range(len(first)), [names[i] for i in first])
    right.invert_yaxis()
    right.set(xlim=(0, 100), xlabel="probability (%)")
    figure.suptitle(title, fontsize=8)
    return figure


def _bar(figure: Any, ax: Any, norm: Normalize, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, SIGNED), ax=ax, aspect=25, pad=0.015, shrink=0.9)
    bar.set_label(label)
    bar.outline.set_visible(False)
