"""Draw accuracy under shifts and corruptions, as maps and curves. All shares are in 0 .. 1."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from cnn_jax.figures.page import COLOURS, INCHES, STYLE, page

MARKERS = "os^Dv*P"  # besides colours, so that curves do not differ by colour alone

Shares = Mapping[str, np.ndarray]  # by run name


@rc_context(STYLE)
def shift_maps(offsets: np.ndarray, accuracy: Shares, consistency: Shares) -> Figure:
    """Draw a column per run: accuracy at every shift, and below it the share of unchanged labels.

    All maps have one scale, 0 to 100 %.

    Args:
        offsets: pixels [n], evenly spaced, ascending.
        accuracy, consistency: [n, n] for each run, by shift down and to the right.
    """
    columns = len(accuracy)
    around = 1.15  # inches for the labels on the left and the colour bar on the right
    side = min((INCHES["page"] - around) / columns, INCHES["column"] - around)
    width, height = columns * side + around, 2 * side + 0.9
    figure, axes = page(2, columns, width=width, height=height, sharex=True, sharey=True)
    half = (offsets[1] - offsets[0]) / 2 if len(offsets) > 1 else 0.5
    first, last = offsets[0] - half, offsets[-1] + half
    rows = ((accuracy, "accuracy"), (consistency, "label as unshifted"))
    image: Any = None
    for row, (shares, what) in zip(axes, rows, strict=True):
        for ax, (name, values) in zip(row, shares.items(), strict=True):
            image = ax.imshow(
                100 * values,
                cmap="viridis",
                vmin=0,
                vmax=100,
                extent=(first, last, last, first),
                interpolation="nearest",
            )
            ax.spines[:].set_visible(True)
            ax.set_title(name if shares is accuracy else "")
        row[0].set_ylabel(f"{what}\n\nshift down / pixels")
    figure.supxlabel("shift right / pixels", fontsize=STYLE["axes.labelsize"])
    figure.colorbar(image, ax=axes, label="share of examples / %", aspect=30, pad=0.02)
    return figure


@rc_context(STYLE)
def distance_curves(distances: np.ndarray, accuracy: Shares) -> Figure:
    """Draw accuracy over the distance of the shift, a line per run.

    Args:
        distances: pixels [d], the larger of the shifts along the two axes.
        accuracy: [d] for each run, means over the places at each distance.
    """
    figure, axes = page(width=INCHES["column"], height=2.4)
    _lines(axes[0, 0], distances, accuracy)
    axes[0, 0].set_xlabel("larger of the shifts down and right / pixels")
    axes[0, 0].set_ylabel("accuracy / %")
    axes[0, 0].legend()
    return figure


@rc_context(STYLE)
def severity_curves(names: Sequence[str], accuracy: Shares, consistency: Shares) -> Figure:
    """Draw a column per corruption: accuracy and the share of unchanged labels over severity.

    Args:
        names: the corruptions' names.
        accuracy, consistency: [names, 6] for each run, from severity 0 (unchanged).
    """
    width = INCHES["page" if len(names) > 1 else "column"]
    figure, axes = page(2, len(names), width=width, height=3.6, sharex=True, sharey=True)
    rows = ((accuracy, "accuracy / %"), (consistency, "label as unchanged / %"))
    for row, (shares, what) in zip(axes, rows, strict=True):
        for i, ax in enumerate(row):
            _lines(ax, np.arange(6), {run: values[i] for run, values in shares.items()})
        row[0].set_ylabel(what)
    for i, name in enumerate(names):
        axes[0, i].set_title(name)
        axes[1, i].set_xlabel("severity")
        axes[1, i].set_xticks(range(6))
    lines, runs = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, runs, loc="outside upper center", ncols=min(len(runs), 5))
    return figure


def _lines(ax: Any, x: np.ndarray, shares: Shares) -> None:
    for i, (run, values) in enumerate(shares.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        ax.plot(x, 100 * values, label=run, color=colour, marker=marker, markersize=3)
    ax.set_ylim(0, 102)
    ax.grid(axis="y", linewidth=0.4, alpha=0.5)
