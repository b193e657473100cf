"""`shift`: accuracy on images that are shifted, or corrupted in other ways."""

import json as json_module
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from rich import box as boxes
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cnn_jax.augment.corrupt import SEVERITIES
from cnn_jax.augment.corrupt import corruption as corruption_named
from cnn_jax.commands.arguments import (
    BatchSize,
    Flag,
    Names,
    Out,
    RunDataDir,
    Runs,
    Split,
    Step,
    Trust,
    argument,
    check_out,
    trust_scripts,
)
from cnn_jax.errors import UserError
from cnn_jax.evaluate.shift import (
    CorruptionSweep,
    Padding,
    ShiftSweep,
    shift_offsets,
    sweep_corruptions,
    sweep_shifts,
)
from cnn_jax.trained import open_named


def shift(
    runs: Runs,
    max_shift: Annotated[int, argument("PIXELS")] = 12,
    stride: Annotated[int, argument("PIXELS")] = 1,
    padding: Padding = "zeros",
    corruption: Annotated[str | None, argument("NAME", default="shifts")] = None,
    names: Names = (),
    split: Split = None,
    step: Step = None,
    data_dir: RunDataDir = None,
    trust: Trust = False,
    batch_size: BatchSize = 250,
    out: Out = None,
    json: Flag = False,
) -> None:
    """Measure accuracy on images that are shifted, rotated, noisy or blurred.

    Consistency is measured too: the share of images that get the same label as without the change,
    right or wrong.

    Args:
        max_shift: Largest shift down, up, right and left, in pixels of the stored image.
        stride: Distance between shifts along each axis; 2 is a quarter of the work.
        padding: What fills the uncovered border: black (zeros) or the nearest pixel (edge).
        corruption: Apply this instead of shifts, in five severities: rotation, scaling, noise,
            blur, contrast, or all of them. The three flags above then have no effect.
        out: New or empty folder for the numbers (JSON) and the figures (PNG).
        json: Print JSON instead of tables.
    """
    kinds = () if corruption is None else _corruptions(corruption)
    if stride > max(max_shift, 1):
        raise UserError(f"--stride {stride} is larger than --max-shift {max_shift}")
    shift_offsets(max_shift, stride)
    check_out(out)
    trust_scripts(trust, runs)
    opened = open_named(runs, names, step, data_dir)
    for trained in opened.values():
        trained.experiment.dataset.num_examples(split or trained.experiment.eval_split)

    sweeps: dict[str, Any] = {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, trained in opened.items():
            task = progress.add_task(name)

            def advance(done: int, examples: int, task: Any = task) -> None:
                progress.update(task, completed=done, total=examples)

            if kinds:
                sweep = sweep_corruptions(trained, kinds, split, batch_size, advance)
            else:
                sweep = sweep_shifts(
                    trained, max_shift, stride, padding, split, batch_size, advance
                )
            sweeps[name] = sweep

    content = {"runs": [{"name": name} | sweep.to_json() for name, sweep in sweeps.items()]}
    if out is not None:
        from cnn_jax.figures import save

        out.mkdir(parents=True, exist_ok=True)
        file = "corruption.json" if kinds else "shift.json"
        (out / file).write_text(json_module.dumps(content) + "\n", encoding="utf-8")
        for file, figure in (_corruption_figures if kinds else shift_figures)(sweeps).items():
            save(figure, out / file)
    if json:
        print(json_module.dumps(content))
    else:
        for table in (_corruption_tables if kinds else _shift_tables)(sweeps):
            # Lines that a narrow terminal wraps are easier to read than cells that are cut.
            width = Console(width=1000).measure(table).maximum
            Console(width=max(Console().width, width)).print(table)


def _corruptions(name: str) -> Sequence[str]:
    """The kinds of corruption that a name stands for. Raises UserError for an unknown one."""
    if name == "all":
        return tuple(SEVERITIES)
    corruption_named(name, 1)
    return (name,)


def shift_figures(sweeps: Mapping[str, ShiftSweep]) -> dict[str, Any]:
    """The figures of a sweep over shifts, by the names of their files."""
    from cnn_jax.figures import shift as figures

    first = next(iter(sweeps.values()))
    accuracy = {name: sweep.counts.accuracy for name, sweep in sweeps.items()}
    consistency = {name: sweep.counts.consistency for name, sweep in sweeps.items()}
    rings = {name: sweep.rings(accuracy[name]) for name, sweep in sweeps.items()}
    return {
        "shift.png": figures.shift_maps(first.offsets, accuracy, consistency),
        "curves.png": figures.distance_curves(first.distances, rings),
    }


def _corruption_figures(sweeps: Mapping[str, CorruptionSweep]) -> dict[str, Any]:
    from cnn_jax.figures import shift as figures

    first = next(iter(sweeps.values()))
    accuracy = {name: sweep.counts.accuracy for name, sweep in sweeps.items()}
    consistency = {name: sweep.counts.consistency for name, sweep in sweeps.items()}
    return {"curves.png": figures.severity_curves(first.names, accuracy, consistency)}


def _shift_tables(sweeps: Mapping[str, ShiftSweep]) -> list[Table]:
    first = next(iter(sweeps.values()))
    # About six distances, evenly spaced, the largest among them.
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
