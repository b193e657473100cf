"""Exact evaluation: every example once, summed, divided at the end, counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.devices import parallel
from cnn_jax.devices.feed import Feed, Kind, evaluation_blocks, fetch, open_feed
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment, over_members
from cnn_jax.step import eval_step, mean_metrics
from cnn_jax.trained import Step, open_run

Evaluator = Callable[[Any, Any, Feed], dict[str, Any]]


def make_evaluator(experiment: Experiment, batch_size: int) -> Evaluator:
    """Return `evaluate(params, model_state, feed) -> metrics`, compiled once for all calls.

    The metrics are the means of the loss (nats), of each of the experiment's metrics, and `count`,
    the number of examples, which is asserted to be the split's. They do not depend on `batch_size`
    (rounded up to a multiple of the devices) beyond float32 rounding of the logits. Parameters of
    an experiment with members are stacked, and the metrics are as `mean_metrics` has them.
    """
    batch_size = parallel.round_up(batch_size)

    def one_batch(params: Any, model_state: Any, resident: Any, items: Any) -> dict[str, jax.Array]:
        item = jax.tree.map(lambda x: x[0], items)  # a block of one batch
        evaluate = over_members(eval_step, experiment, 0, 0, None)
        return evaluate(params, model_state, fetch(resident, item))

    mapped = parallel.map_replicated(one_batch, replicated=3)

    def evaluate(params: Any, model_state: Any, feed: Feed) -> dict[str, Any]:
        blocks = parallel.ahead(evaluation_blocks(feed, batch_size), parallel.share_out)
        batches = []
        for block in blocks:
            batches.append(mapped(params, model_state, feed.resident, block))
            jax.block_until_ready(batches[-2:][0])  # or a streamed split would pile up in memory
        # In float64 adding up the batches loses nothing.
        sums: dict[str, Any] = {
            name: sum(np.asarray(batch[name], np.float64) for batch in batches)
            for name in batches[0]
        }
        count, expected = round(sums["count"].mean()), feed.dataset.num_examples(feed.split)
        if np.any(sums["count"] != expected):
            raise RuntimeError(f"evaluated {count} examples of {expected} in {feed.split}")
        return mean_metrics(experiment, sums) | {"count": count}

    return evaluate


def evaluate_run(
    folder: Path,
    split: str | None = None,
    step: Step = None,
    data_dir: Path | None = None,
    batch_size: int = 250,
    kind: Kind = "auto",
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run as it was evaluated while training; arguments: `open_run`'s.

    Args:
        split: of the run's dataset; None is the one it was evaluated on while training.

    Returns:
        `{"run", "step", "split", "loss", …, "count"}`.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    trained = open_run(folder, step, data_dir)
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split or experiment.eval_split, kind, readers=0)
    evaluate = make_evaluator(experiment, batch_size)
    metrics = evaluate(trained.params, trained.model_state, feed)
    return {"run": trained.run, "step": trained.step, "split": feed.split, **metrics}
