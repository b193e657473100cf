"""`shift`: what networks make of images that are moved, or otherwise changed."""

import json as json_module
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from rich import box as boxes
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cnn_jax.augment.corrupt import SEVERITIES
from cnn_jax.augment.corrupt import corruption as corruption_named
from cnn_jax.commands.arguments import DataDir, Out, Runs, check_out
from cnn_jax.evaluate.shift import (
    CorruptionSweep,
    Padding,
    ShiftSweep,
    shift_offsets,
    sweep_corruptions,
    sweep_shifts,
)
from cnn_jax.figures import save
from cnn_jax.figures import shift as figures
from cnn_jax.trained import open_named


def shift(
    runs: Runs,
    max_shift: int = 12,
    stride: int = 1,
    padding: Padding = "zeros",
    corruption: str | None = None,
    names: tuple[str, ...] = (),
    split: str | None = None,
    step: int | Literal["best"] | None = None,
    data_dir: DataDir = None,
    batch_size: int = 250,
    out: Out = None,
    json: bool = False,
) -> None:
    """Move every image to every place around its own, and count how many are still recognised.

    Also counted are the images that keep the label that they have unmoved, right or wrong.

    Args:
        runs: Run folders.
        max_shift: Pixels of the image as stored, down, up, right and left. Not for corruptions, nor
            are stride and padding.
        stride: 2 takes every second shift along each axis, a quarter of the work.
        padding: What moves in from outside: black (zeros) or the nearest pixel (edge).
        corruption: Instead of shifts: rotation, scaling, noise, blur, contrast, or all, each in
            five severities.
        names: What to call the runs. Default: their folders' names.
        split: Split of the runs' datasets. Default: the one evaluated while training.
        step: Which checkpoint: a step, or best. Default: the last.
        data_dir: Where prepared datasets lie. Default: where the runs had them.
        batch_size: Examples at once; changes speed and memory, not the result.
        out: New or empty folder for the numbers as JSON and the figures as PNG.
        json: Print JSON instead of tables.
    """
    kinds = () if corruption is None else _corruptions(corruption)
    shift_offsets(max_shift, stride)
    check_out(out)
    opened = open_named(runs, names, step, data_dir)
    for trained in opened.values():
        trained.experiment.dataset.num_examples(split or trained.experiment.eval_split)

    sweeps: dict[str, Any] = {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, trained in opened.items():
            task = progress.add_task(name)

            def told(done: int, examples: int, task: Any = task) -> None:
                progress.update(task, completed=done, total=examples)

            if kinds:
                sweep = sweep_corruptions(trained, kinds, split, batch_size, told)
            else:
                sweep = sweep_shifts(trained, max_shift, stride, padding, split, batch_size, told)
            sweeps[name] = sweep

    content = {"runs": [{"name": name} | sweep.to_json() for name, sweep in sweeps.items()]}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        file = "corruption.json" if kinds else "shift.json"
        (out / file).write_text(json_module.dumps(content) + "\n")
        for file, figure in (_corruption_figures if kinds else shift_figures)(sweeps).items():
            save(figure, out / file)
    if json:
        print(json_module.dumps(content))
    else:
        for table in (_corruption_tables if kinds else _shift_tables)(sweeps):
            # Lines that a narrow terminal wraps are easier to read than cells that are cut.
            width = Console(width=1000).measure(table).maximum
            Console(width=max(Console().width, width)).print(table)


def _corruptions(given: str) -> Sequence[str]:
    if given == "all":
        return tuple(SEVERITIES)
    corruption_named(given, 1)
    return (given,)


def shift_figures(sweeps: Mapping[str, ShiftSweep]) -> dict[str, Any]:
    """The maps, and accuracy over the distance, by the names of their files."""
    first = next(iter(sweeps.values()))
    accuracy = {name: sweep.counts.accuracy for name, sweep in sweeps.items()}
    consistency = {name: sweep.counts.consistency for name, sweep in sweeps.items()}
    rings = {name: sweep.rings(accuracy[name]) for name, sweep in sweeps.items()}
    return {
        "shift.png": figures.shift_maps(first.offsets, accuracy, consistency),
        "curves.png": figures.distance_curves(first.distances, rings),
    }


def _corruption_figures(sweeps: Mapping[str, CorruptionSweep]) -> dict[str, Any]:
    first = next(iter(sweeps.values()))
    accuracy = {name: sweep.counts.accuracy for name, sweep in sweeps.items()}
    consistency = {name: sweep.counts.consistency for name, sweep in sweeps.items()}
    return {"curves.png": figures.severity_curves(first.names, accuracy, consistency)}


def _shift_tables(sweeps: Mapping[str, ShiftSweep]) -> list[Table]:
    first = next(iter(sweeps.values()))
    # Some six distances, evenly apart, the farthest among them.
    shown = np.unique(np.linspace(0, len(first.distances) - 1, 7).round().astype(int))[1:]
    columns = [f"by {distance}" for distance in first.distances[shown]]
    tables = []
    for what in ("accuracy", "consistency"):
        title = f"{what} / %, shifted by so many pixels (padding: {first.padding})"
        table = _table(title, "run", "unshifted", *columns, "worst place")
        for name, sweep in sweeps.items():
            values = getattr(sweep.counts, what)
            rings = sweep.rings(values)
            table.add_row(name, *_percent(rings[0], *rings[shown], values.min()))
        tables.append(table)
    return tables


def _corruption_tables(sweeps: Mapping[str, CorruptionSweep]) -> list[Table]:
    tables = []
    for what in ("accuracy", "consistency"):
        table = _table(f"{what} / %, by severity", "run", "corruption", *map(str, range(6)))
        for name, sweep in sweeps.items():
            for kind, values in zip(sweep.names, getattr(sweep.counts, what), strict=True):
                table.add_row(name, kind, *_percent(*values))
        tables.append(table)
    return tables


def _table(title: str, *columns: str) -> Table:
    box, padding = boxes.SIMPLE_HEAD, (0, 1, 0, 0)
    return Table(*columns, title=title, title_justify="left", box=box, padding=padding)


def _percent(*shares: float) -> list[str]:
    return [f"{100 * share:.2f}" for share in shares]
