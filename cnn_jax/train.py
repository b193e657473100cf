"""The training loop. Its side effects go through `runs/checkpoint.py` and `runs/journal.py`."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax import runs
from cnn_jax.devices import agreement, parallel
from cnn_jax.devices import feed as feeds
from cnn_jax.devices.signals import StopAsked
from cnn_jax.errors import Stopped, UserError, warn
from cnn_jax.evaluate.exact import make_evaluator
from cnn_jax.experiment import Experiment
from cnn_jax.models import count_parameters
from cnn_jax.options import Cadence, Options
from cnn_jax.runs.arrays import sha256
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runs.journal import Record, last_step, shown
from cnn_jax.runs.json_files import write_json
from cnn_jax.step import TrainState, init_state, make_advance, mean_metrics, zero_metrics

Evaluate = Callable[[TrainState], Mapping[str, Any]]


def train(
    experiment: Experiment,
    folder: Path,
    options: Options,
    stop_asked: StopAsked = lambda dispatch: False,
    begin: Callable[[int], object] = lambda step: None,
) -> dict[str, Any]:
    """Train to the experiment's last step, from the newest checkpoint in `folder` if there is one.

    Calls `begin` with the first step once nothing can refuse the run any more. Returns the exact
    evaluation of the final parameters, which is also written to `result.json`. Raises UserError if
    the loss is no longer finite, and Stopped, with a checkpoint, if `stop_asked` after a dispatch.
    """
    started = time.perf_counter()
    parallel.check_divides(experiment.batch_size, options.accumulate)
    cadence = Cadence.of(experiment, options)
    train_feed, eval_feed = _open_feeds(experiment, options)
    advance = make_advance(experiment, options.accumulate)
    evaluate = _make_evaluate(experiment, eval_feed, options.eval_batch_size)
    with _open_checkpoints(experiment, folder, options) as checkpoints:
        restored = _restore_or_init(experiment, folder, checkpoints, evaluate)
        first_step, state, metrics_jsonl = restored
        begin(first_step)
        receipt = runs.checkpoint_receipt(folder, experiment.seed, options)
        blocks = _place(experiment, train_feed, cadence, first_step, options.accumulate)
        metrics: Mapping[str, Any] = {}
        done: Array | None = None
        with _open_record(experiment, folder, first_step, metrics_jsonl) as record:
            record.say(_opening_line(experiment, train_feed, first_step))
            for index, ((start, step), block) in enumerate(blocks):
                with record.dispatch(start, step):
                    dispatched = advance(state, train_feed.resident, block)
                if done is not None:
                    done.block_until_ready()  # one dispatch ahead of the devices, never more
                state, done = dispatched
                due = cadence.due(step, stop_asked(index))
                if due.log:
                    state = _log(experiment, step, state, record)
                metrics = {}
                if due.evaluation or due.new_epoch or due.checkpoint:
                    _check_finite(state)  # waits for the devices, so before the clock stops
                    with record.clock_stopped():
                        if due.evaluation:
                            metrics = evaluate(state)
                            record.evaluation(step, eval_feed.split, metrics)
                        if due.new_epoch:  # before the checkpoint: a resumed run does not repeat it
                            state = _before_epoch(experiment, state, evaluate, metrics)
                        if due.checkpoint:
                            record.flush()  # lines before a checkpoint are not written again
                            checkpoints.save(step, state, metrics, receipt, record.metrics_jsonl)
                if due.stop:
                    checkpoints.wait()
                    raise _stopped(step, experiment, folder)
            checkpoints.wait()
            step = max(first_step, cadence.stop)
            if not metrics:  # stopped between evaluations, or there was nothing left to train
                metrics = evaluate(state)
                record.say(f"at step {step}, {eval_feed.split}: {shown(metrics)}")
    result = {"step": step, "split": eval_feed.split, **metrics}
    return _write_result(experiment, folder, result, state, first_step, started)


def _open_feeds(experiment: Experiment, options: Options) -> tuple[feeds.Feed, feeds.Feed]:
    """The splits to train on and to evaluate on."""
    data, kind, readers = experiment.dataset, options.feed, options.readers
    train_feed = feeds.open_feed(data, experiment.train_split, kind, readers)
    return train_feed, feeds.open_feed(data, experiment.eval_split, kind, readers)


def _make_evaluate(experiment: Experiment, feed: feeds.Feed, batch_size: int) -> Evaluate:
    """Return `evaluate(state) -> metrics` on the split of `feed`."""
    evaluate = make_evaluator(experiment, batch_size)
    return lambda state: evaluate(state.params, state.model_state, feed)


def _open_checkpoints(experiment: Experiment, folder: Path, options: Options) -> Checkpoints:
    best = next(iter(experiment.metrics), None)
    return Checkpoints(folder / "checkpoints", options.keep, best)


def _restore_or_init(
    experiment: Experiment, folder: Path, checkpoints: Checkpoints, evaluate: Evaluate
) -> tuple[int, TrainState, str]:
    """The step, state and lines of metrics of the newest whole checkpoint, else those of the start.

    Raises:
        UserError: the checkpoints are damaged, of another run, or past the experiment's last step.
    """

    def check(step: int, receipt: Mapping[str, Any]) -> None:
        if (folder / "config.json").exists() and (phrases := runs.departures(folder, receipt)):
            raise UserError(
                f"checkpoint {checkpoints.folder / str(step)} is of another run than {folder} "
                f"({'; '.join(phrases)}): remove it, or put back what was changed"
            )

    say = warn if parallel.is_primary() else lambda _: None
    state: TrainState = jax.jit(lambda: init_state(experiment))()
    agreement.check_equal("checkpoints", checkpoints.present())
    newest = checkpoints.restore_newest(state, say, folder / "damaged", check)
    step, state = newest or (0, state)
    agreement.check_equal("newest whole checkpoint", step)
    if newest is None and (logged := last_step(folder)):
        say(f"no checkpoint in {folder}, whose metrics reach step {logged}: starting again")
    if step > experiment.steps:
        raise UserError(
            f"{folder} is at step {step}, past the {experiment.steps} that are asked for"
        )
    state = parallel.replicate(state)
    if step == 0:
        return step, _before_epoch(experiment, state, evaluate), ""
    return step, state, checkpoints.about(step)["metrics_jsonl"]


def _open_record(
    experiment: Experiment, folder: Path, first_step: int, metrics_jsonl: str
) -> Record:
    """The metrics files of the run; of several processes, one writes them."""
    quiet = not parallel.is_primary()
    return Record(folder, first_step, experiment.steps, quiet, metrics_jsonl)


def _place(
    experiment: Experiment, feed: feeds.Feed, cadence: Cadence, first_step: int, accumulate: int
) -> Iterator[tuple[feeds.Block, dict[str, Array]]]:
    """Read the training batches of each block ahead of use, and put them on the devices."""
    seed = experiment.members.seeds if experiment.members else experiment.seed
    blocks = cadence.blocks(first_step)
    items = feeds.training_blocks(feed, seed, experiment.batch_size, blocks, accumulate)
    placed = parallel.ahead(items, parallel.share_out)
    return zip(cadence.blocks(first_step), placed, strict=True)


def _log(experiment: Experiment, step: int, state: TrainState, record: Record) -> TrainState:
    """Write the means since the last log line, and start new sums."""
    _check_finite(state)
    examples = experiment.batch_size * experiment.trainings
    record.training(step, mean_metrics(experiment, state.metrics), examples)
    empty = jax.tree.map(np.asarray, zero_metrics(experiment))  # copies: buffers are handed on
    return state._replace(metrics=parallel.replicate(empty))


def _before_epoch(
    experiment: Experiment,
    state: TrainState,
    evaluate: Evaluate,
    metrics: Mapping[str, float] | None = None,
) -> TrainState:
    """Let the experiment change the state; `metrics` is its evaluation if there is one already."""
    if experiment.before_epoch is None:
        return state
    changed = experiment.before_epoch(state, lambda: metrics or evaluate(state))
    # Copies, since buffers are handed to the next step for reuse, each of them once.
    return parallel.replicate(jax.tree.map(jnp.copy, changed))


def _write_result(
    experiment: Experiment,
    folder: Path,
    result: dict[str, Any],
    state: TrainState,
    first_step: int,
    started: float,
) -> dict[str, Any]:
    """Write `result.json` once the experiment's last step is reached, unless it is there."""
    path = folder / "result.json"
    if result["step"] < experiment.steps or not parallel.is_primary() or path.exists():
        return result
    about = {
        "parameters": count_parameters(state.params) // experiment.trainings,
        "parameters_sha256": sha256(state.params),
        "seconds": round(time.perf_counter() - started, 2),
        "resumed_from": first_step,
    }
    write_json(path, {**result, **about})
    return result


def _stopped(step: int, experiment: Experiment, folder: Path) -> Stopped:
    return Stopped(
        f"stopped at step {step} of {experiment.steps} with a checkpoint in {folder}: "
        "the same command goes on from it"
    )


def _check_finite(state: TrainState) -> None:
    """Raise UserError if the loss or a parameter is not finite."""
    # With members side by side, the others may go on as long as one is left.
    step = int(np.min(state.metrics["nonfinite_step"]))
    if step < 0 and not state.step.ndim and not _all_finite((state.params, state.model_state)):
        step = int(state.step) - 1
    if step >= 0:
        raise UserError(
            f"the loss is not finite at step {step}: lower the learning rate or clip the gradients "
            "(checkpoints are from before)"
        )


@jax.jit
def _all_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]))


def _opening_line(experiment: Experiment, feed: feeds.Feed, first_step: int) -> str:
    size = feeds.split_bytes(feed.dataset, feed.split)
    size = f"{size / 1e6:,.0f} MB" if size > 1e6 else f"{size / 1e3:,.0f} kB"
    how = f"resident on the device, {size}" if feed.resident else f"streamed, {size}"
    devices = parallel.devices()
    start = f"resuming at step {first_step}" if first_step else "starting"
    times = f"{experiment.trainings} times " if experiment.members else ""
    steps = f"{experiment.steps} step{'s' * (experiment.steps != 1)}"
    return (
        f"{start}: {times}{steps} of {experiment.batch_size} on {len(devices)} "
        f"{devices[0].device_kind} device{'s' * (len(devices) > 1)}; "
        f"{feed.dataset.name} {feed.split} {how}"
    )
