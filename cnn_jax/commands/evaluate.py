"""`evaluate`: how good a run's parameters are."""

from typing import Literal

from cnn_jax.commands.arguments import DataDir, Run, show
from cnn_jax.evaluate import evaluate_run
from cnn_jax.feed import Kind


def evaluate(
    run: Run,
    split: str | None = None,
    step: int | Literal["best"] | None = None,
    data_dir: DataDir = None,
    batch_size: int = 250,
    feed: Kind = "auto",
    json: bool = False,
) -> None:
    """Rebuild a run from its folder and evaluate a checkpoint: loss, top-1, top-5 and the count.

    Args:
        run: Run folder.
        split: Split of the run's dataset. Default: the one evaluated while training.
        step: Which checkpoint: a step, or best. Default: the last.
        data_dir: Where prepared datasets lie. Default: where the run had them.
        batch_size: Examples per batch; changes speed and memory, not the result.
        feed: Hold the split on the device, or stream it from disk.
        json: Print JSON instead of a table.
    """
    show(evaluate_run(run, split, step, data_dir, batch_size, feed), json)
