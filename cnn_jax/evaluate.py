"""Exact evaluation: every example once, summed, divided at the end, counted."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from cnn_jax import parallel, runs
from cnn_jax.checkpoint import Checkpoints
from cnn_jax.errors import UserError
from cnn_jax.experiment import Experiment
from cnn_jax.feed import Feed, Kind, evaluation_blocks, fetch, open_feed
from cnn_jax.step import eval_step, init_state, mean_metrics

Evaluator = Callable[[Any, Any, Feed], dict[str, float]]


def make_evaluator(experiment: Experiment, batch_size: int) -> Evaluator:
    """Return `evaluate(params, model_state, feed) -> metrics`, compiled once for all calls.

    The metrics are the means of the loss (nats), of each of the experiment's metrics, and `count`,
    the number of examples, which is asserted to be the split's. They do not depend on `batch_size`
    (rounded up to a multiple of the devices) beyond float32 rounding of the logits.
    """
    devices = jax.device_count()
    batch_size = -(-batch_size // devices) * devices

    def one_batch(params: Any, model_state: Any, resident: Any, items: Any) -> dict[str, jax.Array]:
        item = jax.tree.map(lambda x: x[0], items)  # a block of one batch
        return eval_step(experiment, params, model_state, fetch(resident, item))

    mapped = parallel.map_replicated(one_batch, replicated=3)

    def evaluate(params: Any, model_state: Any, feed: Feed) -> dict[str, float]:
        blocks = parallel.ahead(evaluation_blocks(feed, batch_size), parallel.share_out)
        batches = []
        for block in blocks:
            batches.append(mapped(params, model_state, feed.resident, block))
            jax.block_until_ready(batches[-2:][0])  # or a streamed split would pile up in memory
        # Python floats are float64: adding up the batches loses nothing.
        sums = {name: sum(float(batch[name]) for batch in batches) for name in batches[0]}
        count, expected = round(sums["count"]), feed.dataset.num_examples(feed.split)
        if count != expected:
            raise RuntimeError(f"evaluated {count} examples of {expected} in {feed.split}")
        return mean_metrics(experiment, sums) | {"count": count}

    return evaluate


def evaluate_run(
    folder: Path,
    split: str | None = None,
    step: int | Literal["best"] | None = None,
    data_dir: Path | None = None,
    batch_size: int = 250,
    kind: Kind = "auto",
) -> dict[str, Any]:
    """Rebuild a run from its folder and evaluate a checkpoint.

    Args:
        folder: a run folder.
        split: of the run's dataset; None is the one it was evaluated on while training.
        step: of a checkpoint; "best" is the one with the highest metric, None the last.
        data_dir: None is where the run had its data.

    Returns:
        `{"run", "step", "split", "loss", …, "count"}`.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}")
    build, config, data_dir_then = runs.load(folder)
    experiment: Experiment = build(config, data_dir or data_dir_then)
    split = split or experiment.eval_split
    experiment.dataset.num_examples(split)  # an unknown split is refused before any work
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} has no checkpoint yet")
    best = next(iter(experiment.metrics), None)
    opened = Checkpoints(folder / "checkpoints", best=best, read_only=True)
    with contextlib.closing(opened) as checkpoints:
        if step is None or step == "best":
            step = checkpoints.best() if step else checkpoints.latest()
        if step is None:
            raise UserError(f"{folder} has no checkpoint yet, or none that was evaluated")
        state = checkpoints.restore(step, like=jax.eval_shape(lambda: init_state(experiment)))
    params, model_state = parallel.replicate((state.params, state.model_state))
    feed = open_feed(experiment.dataset, split, kind, readers=0)
    metrics = make_evaluator(experiment, batch_size)(params, model_state, feed)
    return {"run": str(folder), "step": step, "split": split, **metrics}
