"""Summaries of several trainings of one experiment: means over seeds, curves, a sweep's effect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cnn_jax.errors import UserError
from cnn_jax.figures import save
from cnn_jax.figures.curves import learning_curves, sweep_effect
from cnn_jax.runs.folder import steps_per_epoch
from cnn_jax.runs.journal import read_curves
from cnn_jax.runs.json_files import write_json

Interval = dict[str, float | None]


def sum_up(
    folder: Path,
    runs: Sequence[Path],
    variants: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
) -> None:
    """Print the means, and write summary.json, curves.png and, for a sweep, sweep.png in `folder`.

    Args:
        runs: the run folders, or the one in which all were trained side by side.
        variants: the fields of the config that differ, for each training.
        results: the final evaluation of each training.
    """
    rows = summarise(variants, results)
    metrics = [name for name, value in rows[0].items() if isinstance(value, dict)]
    swept = [name for name in rows[0] if name not in ("seeds", *metrics)]
    table = Table(*swept, "seeds", *(f"{name}, 95 % interval of the mean" for name in metrics))
    for row in rows:
        settings = (str(row[name]) for name in (*swept, "seeds"))
        table.add_row(*settings, *(_in_words(row[name]) for name in metrics))
    Console().print(table)
    trainings = [{**variant, **result} for variant, result in zip(variants, results, strict=True)]
    write_json(folder / "summary.json", {"each": trainings, "means": rows})
    shown = [name for name in metrics if name != "loss"] or metrics
    save(draw_curves(runs, "accuracy" if "accuracy" in shown else shown[0]), folder / "curves.png")
    if swept:
        save(sweep_effect(swept[0], rows, metrics), folder / "sweep.png")


def draw_curves(runs: Sequence[Path], metric: str = "accuracy") -> Any:
    """Draw the learning curves of run folders, over epochs if all know their length, else steps.

    Raises:
        UserError: one of them is no run folder or has no metrics, or none has this metric.
    """
    folders = {run.name: run for run in runs}
    if len(folders) < len(runs):
        folders = {str(run): run for run in runs}
    curves = {name: read_curves(run) for name, run in folders.items()}
    metrics = {name for run in curves.values() for split in run.values() for name in split}
    metrics -= {"step"}
    if metric not in metrics:
        raise UserError(f"no run has the metric {metric}; there are: {', '.join(sorted(metrics))}")
    epochs = {name: steps_per_epoch(run) for name, run in folders.items()}
    known = {name: steps for name, steps in epochs.items() if steps is not None}
    return learning_curves(curves, metric, known if len(known) == len(epochs) else None)


def summarise(
    variants: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Means over seeds, for each value that was swept.

    Returns:
        a row for each value: its fields but the seed, "seeds" (how many), and for each metric
        `{"mean", "std", "low", "high"}`: the standard deviation over seeds and the 95 % interval of
        the mean by Student's t, both None for a single seed.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for variant, result in zip(variants, results, strict=True):
        swept = tuple((name, value) for name, value in variant.items() if name != "seed")
        groups.setdefault(swept, []).append(result)
    metrics = [name for name, value in results[0].items() if isinstance(value, float)]
    return [
        {**dict(swept), "seeds": len(rs), **{m: _interval([r[m] for r in rs]) for m in metrics}}
        for swept, rs in groups.items()
    ]


def _interval(values: Sequence[float]) -> Interval:
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return {"mean": mean, "std": None, "low": None, "high": None}
    std = float(np.std(values, ddof=1))
    from scipy import stats  # takes seconds to import

    half = float(stats.t.ppf(0.975, n - 1)) * std / n**0.5
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}


def _in_words(interval: Interval) -> str:
    if interval["std"] is None:
        return f"{interval['mean']:.4f}"
    return "{mean:.4f} ± {std:.4f} [{low:.4f}, {high:.4f}]".format(**interval)
