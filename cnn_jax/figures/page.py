"""What all pictures share: sizes, colours, type."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INCHES = {"column": 3.5, "page": 7.2}  # widths in print; all type is legible at these

# Okabe and Ito's: told apart by colour-blind readers, and in grey by their order of lightness.
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
    "svg.hashsalt": "cnn_jax",  # the same figure is the same file
}


@rc_context(STYLE)
def page(rows: int = 1, columns: int = 1, *, width: float, height: float, **kwargs: Any) -> Any:
    """An empty figure and its axes [rows, columns], `width` and `height` in inches.

    Labels and titles are kept inside and apart by constrained layout. Other arguments are those of
    `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


@rc_context(STYLE)
def save(figure: Figure, path: Path) -> None:
    """Write a figure as its suffix says (.png, .svg, .pdf), PNG at 200 dots per inch.

    The file holds no date, so the same figure is the same bytes.
    """
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
    figure.savefig(path, dpi=200, metadata=metadata)
