"""`evaluate`: how good runs' parameters are, alone and as a committee."""

import json as json_module
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnn_jax.commands.arguments import DataDir, Out, Runs, check_out
from cnn_jax.devices.feed import Kind
from cnn_jax.errors import UserError
from cnn_jax.evaluate import report
from cnn_jax.evaluate.predict import views_of
from cnn_jax.evaluate.report import Assessment
from cnn_jax.evaluate.scores import Estimate
from cnn_jax.trained import open_networks


def evaluate(
    runs: Runs,
    split: str | None = None,
    step: int | Literal["best"] | None = None,
    data_dir: DataDir = None,
    batch_size: int = 250,
    feed: Kind = "auto",
    views: int = 1,
    committee: bool = False,
    json: bool = False,
    out: Out = None,
) -> None:
    """Rebuild runs from their folders and evaluate a checkpoint of each: one row per run.

    Networks that were trained side by side (--seeds) have a row each: errors, the first above its
    95 % interval, log-loss (nats) and calibration error. --json and
    --out have the interval of every figure.

    Args:
        runs: Run folders.
        split: Split of the runs' dataset. Default: the one evaluated while training.
        step: Which checkpoint: a step, or best. Default: the last.
        data_dir: Where prepared datasets lie. Default: where the runs had them.
        batch_size: Examples per batch; changes speed and memory, not the result.
        feed: Hold the split on the device, or stream it from disk.
        views: Average the probabilities of so many crops: 2 (centre and mirror image), 5 (corners
            and centre), 10 (those and their mirror images, as AlexNet was tested), or a mirrored
            grid of 8, 18, 32, ... Default: the image as it was evaluated while training.
        committee: Add a row for the mean of all runs' probabilities.
        json: Print JSON instead of a table, one object on one line per row.
        out: New folder for evaluation.json and .csv and, per run, tables of classes and confusions
            and pictures of confusions, calibration and the worst errors.
    """
    if not runs:
        raise UserError("evaluate which run? give one run folder or several")
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    check_out(out)
    networks = [network for folder in runs for network in open_networks(folder, step, data_dir)]
    for trained in networks:
        views_of(trained, views)
    if committee:
        report.check_committee(networks, split)
    found = [report.assess(trained, split, views, batch_size, feed) for trained in networks]
    if committee:
        found.append(report.committee(found))
    if out is not None:
        report.write(out, found)
    if json:
        for one in found:
            print(json_module.dumps(report.row(one)))
    else:
        _show(found)


def _show(assessments: list[Assessment]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("split", no_wrap=True)
    for title in ("count", "top-1 error", "top-5\nerror", "log-loss", "calibration\nerror"):
        table.add_column(title, justify="right", no_wrap=True)
    for found in assessments:
        scores = found.scores
        table.add_row(
            escape(Path(found.run).resolve().name),
            "" if found.step is None else str(found.step),
            found.split,
            f"{scores.count:,}",
            f"{_percent(scores.top1_error)}\n{_ends(scores.top1_error)}",
            _percent(scores.top5_error),
            f"{scores.log_loss.value:.4f}",
            _percent(scores.calibration_error),
        )
    Console(highlight=False).print(table)


def _percent(figure: Estimate) -> str:
    return f"{100 * figure.value:.2f} %"


def _ends(figure: Estimate) -> str:
    return f"{100 * figure.low:.2f}-{100 * figure.high:.2f}"
