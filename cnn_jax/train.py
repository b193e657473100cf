"""The loop. Its side effects go through `checkpoint.py` and `record.py`."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnn_jax import runs
from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.devices.dispatch import split_into_blocks
from cnn_jax.devices.signals import stop_requests
from cnn_jax.errors import Stopped, UserError
from cnn_jax.evaluate.exact import Evaluator, make_evaluator
from cnn_jax.experiment import Experiment, epochs_to_steps
from cnn_jax.models import count_parameters
from cnn_jax.runs.arrays import sha256
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.runs.journal import Record, last_step, shown, write_json
from cnn_jax.step import TrainState, init_state, make_advance, mean_metrics, zero_metrics


@dataclass(frozen=True)
class Options:
    """How a run is carried out. None of these changes the result beyond float32 rounding, but for
    `accumulate` with batch normalisation; the same options give the same bits."""

    workdir: Path | None = None
    """Run folder; the same command resumes what is there. Default: runs/EXPERIMENT-HASH."""
    data_dir: Path | None = None
    """Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    feed: feeds.Kind = "auto"
    """Hold the dataset on the device, or stream it from disk."""
    readers: int = 0
    """Threads that decode streamed images; 0: one per core."""
    steps_per_dispatch: int = 10
    """Steps that one call of the compiled function makes; the numbers of steps below are rounded
    up to multiples of it."""
    accumulate: int = 1
    """Split each batch into this many pieces, one after the other, to save memory."""
    log_every: int = 100
    """Steps between lines of training metrics."""
    eval_every: int = 0
    """Steps between evaluations; 0: once per epoch."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: once per epoch."""
    keep: int = 3
    """Checkpoints to keep, the last ones; the best of those at an evaluation is kept besides."""
    eval_batch_size: int = 250
    """Examples per evaluation batch."""
    stop_at: int | None = None
    """Stop with a checkpoint once this step is reached; the same command without it goes on."""
    override_config: bool = False
    """Go on with a run whose config was another: for what does not decide which examples a step
    sees (epochs, learning rate); both configs stay in config.json."""
    deterministic: bool = False
    """On GPUs, only kernels that give the same bits every time, at some cost of speed."""
    distributed: bool = False
    """Join the cluster's other processes (SLURM, Open MPI, Kubernetes are detected)."""
    coordinator: str | None = None
    """host:port of process 0, where there is no cluster to detect."""
    num_processes: int | None = None
    """Processes in all, with --coordinator."""
    process_id: int | None = None
    """This process's number from 0, with --coordinator."""

    def check(self) -> None:
        """Raise UserError for a number that makes no sense."""
        for name, value in dataclasses.asdict(self).items():
            least = 0 if name in ("readers", "eval_every", "checkpoint_every", "process_id") else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} must be at least {least}, got {value}")


def train(experiment: Experiment, folder: Path, options: Options) -> dict[str, Any]:
    """Train to the experiment's last step, from the newest checkpoint in `folder` if there is one.

    Returns:
        the exact evaluation of the parameters reached; that of the last step is also written to
        `result.json`.

    Raises:
        UserError: the batch does not divide by the devices, the loss is no longer finite, or the
            folder cannot be written.
        Stopped: SIGTERM or SIGINT asked for it, and a checkpoint was saved.
    """
    started = time.perf_counter()
    parallel.check_divides(experiment.batch_size, options.accumulate)
    train_feed, eval_feed = (
        feeds.open_feed(experiment.dataset, split, options.feed, options.readers)
        for split in (experiment.train_split, experiment.eval_split)
    )
    advance = make_advance(experiment, options.accumulate)
    evaluate = make_evaluator(experiment, options.eval_batch_size)
    cadence = Cadence.of(experiment, options)
    members = len(experiment.members.seeds) if experiment.members else 1

    best = next(iter(experiment.metrics), None)
    opened = Checkpoints(
        folder / "checkpoints", options.keep, best, receipt=runs.receipt(folder, experiment.seed)
    )
    with contextlib.closing(opened) as checkpoints, stop_requests() as asked_to_stop:
        state: TrainState = jax.jit(lambda: init_state(experiment))()
        say = _warn if parallel.is_primary() else lambda _: None
        parallel.check_equal("checkpoints", checkpoints.present())
        newest = checkpoints.restore_newest(state, say, set_aside=folder / "damaged")
        first_step, state = newest or (0, state)
        parallel.check_equal("newest whole checkpoint", first_step)
        if newest is None and (known := last_step(folder)):
            say(f"no checkpoint in {folder}, whose metrics reach step {known}: starting again")
        state = parallel.replicate(state)
        if first_step > experiment.steps:
            raise UserError(
                f"{folder} is at step {first_step}, past the {experiment.steps} that are asked for"
            )
        reached = max(first_step, cadence.stop)
        if not first_step:
            state = _before_epoch(experiment, state, evaluate, eval_feed)

        blocks = list(
            split_into_blocks(
                first_step, cadence.stop, options.steps_per_dispatch, cadence.before_epoch
            )
        )
        seed = experiment.members.seeds if experiment.members else experiment.seed
        items = feeds.training_blocks(train_feed, seed, experiment.batch_size, blocks)
        placed = parallel.ahead(items, parallel.share_out)
        empty = jax.tree.map(np.asarray, zero_metrics(experiment))  # buffers are handed on: copied
        metrics: dict[str, Any] = {}
        done: Array | None = None
        with Record(
            folder, first_step, experiment.steps, quiet=not parallel.is_primary()
        ) as record:
            record.say(_opening_line(experiment, train_feed, first_step))
            for index, ((start, step), block) in enumerate(zip(blocks, placed, strict=True)):
                with record.dispatch(start, step):
                    dispatched = advance(state, train_feed.resident, block)
                if done is not None:
                    done.block_until_ready()  # one dispatch ahead of the devices, never more
                state, done = dispatched

                if cadence.is_time(step, cadence.log):
                    _check_finite(state)
                    means = mean_metrics(experiment, state.metrics)
                    record.training(step, means, experiment.batch_size * members)
                    state = state._replace(metrics=parallel.replicate(empty))
                metrics = {}
                evaluates = cadence.is_time(step, cadence.evaluate)
                stops = asked_to_stop(index) and step < cadence.stop
                saves = cadence.is_time(step, cadence.checkpoint) or step == cadence.stop or stops
                renews = (
                    step < cadence.last
                    and cadence.before_epoch
                    and not (step % cadence.before_epoch)
                )
                if evaluates or saves or renews:
                    _check_finite(state)  # waits for the devices, so before the clock stops
                    with record.clock_stopped():
                        if evaluates:
                            metrics = evaluate(state.params, state.model_state, eval_feed)
                            record.evaluation(step, eval_feed.split, metrics)
                        if renews:  # before the checkpoint: a resumed run does not repeat it
                            state = _before_epoch(experiment, state, evaluate, eval_feed, metrics)
                        if saves:
                            record.flush()  # what a checkpoint is past will not be written again
                            checkpoints.save(step, state, metrics)
                if stops:
                    checkpoints.wait()
                    raise Stopped(
                        f"stopped at step {step} of {experiment.steps} with a checkpoint in "
                        f"{folder}: the same command goes on from it"
                    )
            checkpoints.wait()
            if not metrics:  # stopped between evaluations, or there was nothing left to train
                metrics = evaluate(state.params, state.model_state, eval_feed)
                record.say(f"at step {reached}, {eval_feed.split}: {shown(metrics)}")

    result = {"step": reached, "split": eval_feed.split, **metrics}
    result_file = folder / "result.json"
    if result["step"] == experiment.steps and parallel.is_primary() and not result_file.exists():
        about = {
            "parameters": count_parameters(state.params) // members,
            "parameters_sha256": sha256(state.params),
            "seconds": round(time.perf_counter() - started, 2),
            "resumed_from": first_step,
        }
        write_json(result_file, result | about)
    return result


@dataclass(frozen=True)
class Cadence:
    """When things happen: every so many steps, in whole dispatches, and at the last step."""

    log: int
    evaluate: int
    checkpoint: int
    before_epoch: int  # exact, since it is part of the experiment; 0 for never
    stop: int
    last: int

    @classmethod
    def of(cls, experiment: Experiment, options: Options) -> "Cadence":
        def whole_dispatches(steps: int) -> int:
            return -(-steps // options.steps_per_dispatch) * options.steps_per_dispatch

        examples = experiment.dataset.num_examples(experiment.train_split)
        epoch = epochs_to_steps(1, examples, experiment.batch_size)
        return cls(
            log=whole_dispatches(options.log_every),
            evaluate=whole_dispatches(options.eval_every or epoch),
            checkpoint=whole_dispatches(options.checkpoint_every or epoch),
            before_epoch=epoch if experiment.before_epoch else 0,
            stop=min(experiment.steps, whole_dispatches(options.stop_at or experiment.steps)),
            last=experiment.steps,
        )

    def is_time(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.last


def _before_epoch(
    experiment: Experiment,
    state: TrainState,
    evaluate: Evaluator,
    eval_feed: feeds.Feed,
    metrics: Mapping[str, float] | None = None,
) -> TrainState:
    """Let the experiment renew the state; `metrics` is its evaluation if there is one already."""
    if experiment.before_epoch is None:
        return state
    renewed = experiment.before_epoch(
        state, lambda: metrics or evaluate(state.params, state.model_state, eval_feed)
    )
    # Copies, since buffers are handed to the next step for reuse, each of them once.
    return parallel.replicate(jax.tree.map(jnp.copy, renewed))


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


def _check_finite(state: TrainState) -> None:
    # Of members side by side the others may go on while one is left.
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
    devices = jax.device_count()
    start = f"resuming at step {first_step}" if first_step else "starting"
    times = f"{len(experiment.members.seeds)} times " if experiment.members else ""
    return (
        f"{start}: {times}{experiment.steps} steps of {experiment.batch_size} on {devices} "
        f"{jax.devices()[0].device_kind} device{'s' * (devices > 1)}; "
        f"{feed.dataset.name} {feed.split} {how}"
    )
