"""Exact evaluation: one walk over a split, every example once, summed and divided at the end."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.devices import parallel
from cnn_jax.devices.feed import Feed, Kind, evaluation_blocks, fetch, open_feed
from cnn_jax.errors.ranges import check_range
from cnn_jax.experiment import Experiment
from cnn_jax.step import eval_step, mean_metrics
from cnn_jax.trained import Step, Trained, open_run

Evaluator = Callable[[Any, Any, Feed], dict[str, Any]]
Progress = Callable[[int, int], object]  # called with the examples done, and all there are


def make_walk(function: Callable[..., Any], replicated: int) -> Callable[..., Iterator[Any]]:
    """Return `walk(feed, batch_size, *arguments)`, which yields `function(*arguments, batch)` of
    batch after batch.

    Together the batches hold every example of the split once, in stored order, under "image",
    "label" and "position"; "mask" is 0 for what fills up the last batch. `batch_size` is rounded up
    to a multiple of the devices. Batches are read and copied while the devices compute.

    Args:
        function: written per device, as `parallel.map_replicated` wants it; compiled once for all
            walks.
        replicated: how many arguments come before the batch.
    """

    def one_batch(resident: Any, *arguments: Any) -> Any:
        item = jax.tree.map(lambda x: x[0], arguments[-1])  # a block of one batch
        return function(*arguments[:-1], fetch(resident, item))

    mapped = parallel.map_replicated(one_batch, replicated=1 + replicated)

    def walk(
        feed: Feed, batch_size: int, *arguments: Any, progress: Progress | None = None
    ) -> Iterator[Any]:
        check_range("--batch-size", batch_size, least=1)
        batch_size = parallel.round_up(min(batch_size, feed.num_examples))
        blocks = parallel.ahead(evaluation_blocks(feed, batch_size), parallel.share_out)
        results = (mapped(feed.resident, *arguments, block) for block in blocks)
        # Each result is waited for when the next batch is on its way: further ahead, the blocks of
        # a streamed split would pile up in memory.
        for number, result in enumerate(parallel.ahead(results, lambda result: result), start=1):
            yield jax.block_until_ready(result)
            if progress is not None:
                progress(min(number * batch_size, feed.num_examples), feed.num_examples)

    return walk


def make_evaluator(experiment: Experiment, batch_size: int) -> Evaluator:
    """Return `evaluate(params, model_state, feed) -> metrics`, compiled once for all calls.

    The metrics are the mean loss (nats), the mean of each of the experiment's metrics, and `count`,
    the number of examples, which must be the split's. They do not depend on `batch_size` beyond
    float32 rounding of the logits. For an experiment with members the parameters are stacked and
    the metrics are as `step.mean_metrics` gives them.
    """
    walk = make_walk(partial(eval_step, experiment), replicated=2)

    def evaluate(params: Any, model_state: Any, feed: Feed) -> dict[str, Any]:
        batches = list(walk(feed, batch_size, params, model_state))
        # In float64, adding up the batches loses nothing.
        sums: dict[str, Any] = {
            name: sum(np.asarray(batch[name], np.float64) for batch in batches)
            for name in batches[0]
        }
        count = round(sums["count"].mean())
        if np.any(sums["count"] != feed.num_examples):
            raise RuntimeError(f"evaluated {count} examples of {feed.num_examples} in {feed.split}")
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
    """Evaluate a checkpoint of a run as it was evaluated while training.

    Arguments and errors: those of `trained.restore`; otherwise as `evaluate_trained`.
    """
    return evaluate_trained(open_run(folder, step, data_dir), split, batch_size, kind)


def evaluate_trained(
    trained: Trained, split: str | None = None, batch_size: int = 250, kind: Kind = "auto"
) -> dict[str, Any]:
    """Evaluate a network as it was evaluated while training.

    Args:
        split: of the run's dataset; None is the one it was evaluated on while training.

    Returns:
        `{"run", "step", "split", "loss", …, "count"}`.
    """
    experiment = trained.experiment
    feed = open_feed(experiment.dataset, split or experiment.eval_split, kind)
    evaluate = make_evaluator(experiment, batch_size)
    metrics = evaluate(trained.params, trained.model_state, feed)
    return {"run": trained.run, "step": trained.step, "split": feed.split, **metrics}
