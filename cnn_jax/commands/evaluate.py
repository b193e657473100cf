"""`evaluate`: errors and calibration of trained networks, alone and as a committee."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cnn_jax.commands.arguments import (
    BatchSize,
    Flag,
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
from cnn_jax.devices.feed import Kind
from cnn_jax.errors import UserError
from cnn_jax.errors.ranges import check_range
from cnn_jax.evaluate.predict import views_of
from cnn_jax.evaluate.scores import Estimate
from cnn_jax.trained import open_networks

if TYPE_CHECKING:
    from cnn_jax.evaluate.report import Assessment


def evaluate(
    runs: Runs,
    split: Split = None,
    step: Step = None,
    data_dir: RunDataDir = None,
    trust: Trust = False,
    batch_size: BatchSize = 250,
    feed: Kind = "auto",
    views: Annotated[int, argument("NUMBER")] = 1,
    committee: Flag = False,
    json: Flag = False,
    out: Out = None,
) -> None:
    """Evaluate a checkpoint of each run: errors, log-loss and calibration.

    Networks trained side by side (--seeds) have a row each. Below the top-1 error stands its 95 %
    interval; the intervals of all other figures are in the JSON. The log-loss is in nats.

    Args:
        feed: Hold the split on the device, or stream it from disk.
        views: Average the probabilities over this many crops: 2 is the centre and its mirror image,
            5 the corners and the centre, 10 those and their mirror images (as AlexNet was tested),
            and 8, 18, 32, ... a mirrored grid. 1 is the image as it was evaluated during training.
        committee: Add a row for the mean of all networks' probabilities.
        json: Print JSON instead of a table: one line per row.
        out: New or empty folder for evaluation.json and evaluation.csv and, per network, tables of
            classes and confusions and figures of confusions, calibration and the worst errors.
    """
    if not runs:
        raise UserError("give at least one run folder")
    check_range("--batch-size", batch_size, least=1)
    check_out(out)
    trust_scripts(trust, runs)
    networks = [network for folder in runs for network in open_networks(folder, step, data_dir)]
    for network in networks:
        views_of(network, views)
    from cnn_jax.evaluate import report

    if committee:
        report.check_committee(networks, split)
    assessments = [report.assess(network, split, views, batch_size, feed) for network in networks]
    if committee:
        assessments.append(report.committee(assessments))
    if out is not None:
        report.write(out, assessments)
    if json:
        for assessment in assessments:
            print(json_module.dumps(report.row(assessment)))
    else:
        _show(assessments)


def _show(assessments: "list[Assessment]") -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("split", no_wrap=True)
    for title in ("count", "top-1 error", "top-5\nerror", "log-loss", "calibration\nerror"):
        table.add_column(title, justify="right", no_wrap=True)
    for assessment in assessments:
        scores = assessment.scores
        table.add_row(
            escape(Path(assessment.run).resolve().name),
            "" if assessment.step is None else str(assessment.step),
            assessment.split,
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
