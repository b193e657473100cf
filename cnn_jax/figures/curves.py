"""Draw learning curves, and the effect of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cnn_jax.figures.page import COLOURS, INCHES, STYLE, page

Curves = Mapping[str, Mapping[str, np.ndarray]]  # {split: {"step": [n], metric: [n, M]}}

DASHES: dict[Any, str] = {"-": "held out", "--": "training"}
SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


@rc_context(STYLE)
def learning_curves(
    runs: Mapping[str, Curves], metric: str = "accuracy", epochs: Mapping[str, float] | None = None
) -> Figure:
    """Draw loss on the left and a metric on the right, one colour per run.

    Held-out data is a solid line, training data a dashed one. For M members the line is their mean,
    and the band goes from the lowest to the highest.

    Args:
        runs: curves by name. A run without the metric shows only its loss.
        epochs: steps per epoch of each run; None draws over steps.
    """
    height = 2.2 + 0.16 * -(-(len(runs) + len(DASHES)) // 4)
    figure, axes = page(1, 2, width=INCHES["page"], height=height)
    colours = [COLOURS[k % len(COLOURS)] for k in range(len(runs))]
    for panel, name in zip(axes[0], ("loss", metric), strict=True):
        for colour, (run, curves) in zip(colours, runs.items(), strict=True):
            for split, values in curves.items():
                if name in values:
                    over = values["step"] / (epochs[run] if epochs else 1)
                    _draw(panel, over, values[name], colour, split == "train")
        panel.set(xlabel="epoch" if epochs else "step", ylabel=_label(name))
    axes[0, 0].set_yscale("log")
    _spread_out(axes[0, 1])
    names = [Line2D([], [], color=c, label=run) for c, run in zip(colours, runs, strict=True)]
    styles = [Line2D([], [], color="0.3", linestyle=s, label=text) for s, text in DASHES.items()]
    figure.legend(handles=[*names, *styles], loc="outside upper center", ncols=4)
    return figure


@rc_context(STYLE)
def sweep_effect(field: str, rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Figure:
    """Draw metrics over the values of `field`: the mean over seeds and its 95 % interval.

    Args:
        rows: as `summary.summarise` returns them.
    """
    figure, axes = page(1, len(metrics), width=INCHES["page"], height=2.2)
    labels = [f"{row[field]:g}" if isinstance(row[field], float) else row[field] for row in rows]
    places = np.arange(len(rows))
    for panel, name in zip(axes[0], metrics, strict=True):
        mean = np.array([row[name]["mean"] for row in rows])
        low, high = (
            np.array([row[name][end] or row[name]["mean"] for row in rows])
            for end in ("low", "high")
        )
        around = (mean - low, high - mean)
        panel.errorbar(places, mean, around, fmt="o", color=COLOURS[0], capsize=3, markersize=4)
        panel.set_xticks(places, labels)
        panel.margins(x=0.15)
        panel.set(xlabel=field.replace("_", " "), ylabel=_label(name))
    return figure


def _draw(panel: Any, over: np.ndarray, values: np.ndarray, colour: str, training: bool) -> None:
    style = {"linestyle": "--", "alpha": 0.55, "linewidth": 1.0} if training else {}
    panel.plot(over, values.mean(axis=1), color=colour, **style)
    if values.shape[1] > 1 and not training:
        band = (values.min(axis=1), values.max(axis=1))
        panel.fill_between(over, *band, color=colour, alpha=0.2, linewidth=0)


def _spread_out(panel: Any) -> None:
    """Stretch the axis near 0 and 1, to tell 99 from 99.9 %; other metrics keep a linear axis.

    The limits follow the held-out curves: training may reach 100 %, which is not on such an axis.
    """
    held = [line.get_ydata() for line in panel.lines if line.get_linestyle() == "-"]
    drawn = np.concatenate(held or [np.zeros(1)])
    inside = drawn[(drawn > 0) & (drawn < 1)]
    if not inside.size or drawn.min() < 0 or drawn.max() > 1:
        return
    panel.set_yscale("logit", nonpositive="clip")
    low, high = inside.min(), inside.max()
    panel.set_ylim(low - 0.1 * min(low, 1 - low), high + 0.3 * (1 - high))
    panel.yaxis.set_major_locator(FixedLocator(SHARES))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    panel.yaxis.set_minor_locator(NullLocator())


def _label(metric: str) -> str:
    return "loss / nats" if metric == "loss" else metric
