"""The sizes, colours and fonts that all figures share."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INCHES = {"column": 3.5, "page": 7.2}  # widths in print, at which all text is legible

# Okabe and Ito's: colour-blind readers can tell them apart, and in grey they differ in lightness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "cnn_jax",  # so that the same figure gives the same file
}


@rc_context(STYLE)
def page(rows: int = 1, columns: int = 1, *, width: float, height: float, **kwargs: Any) -> Any:
    """Make an empty figure of `width` by `height` inches and its axes [rows, columns].

    Constrained layout keeps labels and titles inside and apart. Other arguments are passed to
    `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


@rc_context(STYLE)
def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix (.png, .svg, .pdf), PNG at 200 dpi.

    The file contains no date, so that the same figure gives the same bytes.
    """
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
    figure.savefig(path, dpi=200, metadata=metadata)
