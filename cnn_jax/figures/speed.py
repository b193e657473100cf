"""Draw throughput over batch size, image size, or whatever else grows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from cnn_jax.figures.page import COLOURS, INCHES, STYLE, page
from cnn_jax.figures.shift import MARKERS


@rc_context(STYLE)
def growth_curves(panels: Mapping[str, Mapping[str, Sequence[Any]]]) -> Figure:
    """Draw a panel for each thing that grows and a line per network, with logarithmic axes.

    Args:
        panels: {label of the x axis: {network: (values [n], images/s [n, 3])}}; the rates are the
            lower quartile, the median (the line) and the upper quartile.
    """
    figure, axes = page(1, len(panels), width=INCHES["page"], height=2.4)
    networks = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    shown: dict[str, Any] = {}
    for panel, (label, lines) in zip(axes[0], panels.items(), strict=True):
        for name, (values, rates) in lines.items():
            low, median, high = np.asarray(rates, float).T
            kind = networks.index(name)
            style = {"color": COLOURS[kind], "marker": MARKERS[kind], "markersize": 3}
            (shown[name],) = panel.plot(values, median, label=name, **style)
            panel.fill_between(values, low, high, color=COLOURS[kind], alpha=0.2, linewidth=0)
        panel.set(xlabel=label, xscale="log", yscale="log")
        ticks = sorted({value for values, _ in lines.values() for value in values})
        panel.xaxis.set_major_locator(FixedLocator(ticks))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        panel.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes[0, 0].set_ylabel("images/s")
    figure.legend(shown.values(), shown, loc="outside upper center", ncols=4)
    return figure
