"""Options of a run, and the steps after which the loop logs, evaluates and saves."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cnn_jax.devices import feed as feeds
from cnn_jax.devices.dispatch import split_into_blocks
from cnn_jax.errors.ranges import check_range, flag
from cnn_jax.experiment import Experiment, epochs_to_steps

MOST_READERS = 1024  # threads; each holds a batch that it has read ahead


@dataclass(frozen=True)
class Options:
    """Options for carrying out a run. They change its numbers by float32 rounding at most."""

    # Run folder; the same command resumes what is there. Default: runs/EXPERIMENT-HASH.
    workdir: Path | None = None
    # Where prepared datasets lie. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    data_dir: Path | None = None
    # Hold the dataset on the device, or stream it from disk.
    feed: feeds.Kind = "auto"
    # Threads that decode streamed images; 0: one per core.
    readers: int = 0
    # Steps that one call of the compiled function makes; the numbers of steps below are rounded up
    # to multiples of it.
    steps_per_dispatch: int = 10
    # Split each batch into this many pieces, one after the other, to save memory. With batch
    # normalisation this changes the result.
    accumulate: int = 1
    # Steps between lines of training metrics.
    log_every: int = 100
    # Steps between evaluations; 0: once per epoch.
    eval_every: int = 0
    # Steps between checkpoints; 0: once per epoch.
    checkpoint_every: int = 0
    # How many of the last checkpoints to keep; the best one at an evaluation is kept as well.
    keep: int = 3
    # Examples per evaluation batch.
    eval_batch_size: int = 250
    # Stop with a checkpoint once this step is reached; the same command without it goes on.
    stop_at: int | None = None
    # Go on with a run although its config was another, where that does not decide which examples a
    # step sees (epochs, learning rate); both configs stay in config.json.
    override_config: bool = False
    # On GPUs, use only kernels that give the same bits every time, at some cost in speed.
    deterministic: bool = False
    # Join the cluster's other processes (SLURM, Open MPI, Kubernetes are detected).
    distributed: bool = False
    # host:port of process 0, where no cluster is detected.
    coordinator: str | None = None
    # Processes in all, with --coordinator.
    num_processes: int | None = None
    # This process's number from 0, with --coordinator.
    process_id: int | None = None

    def check(self) -> None:
        """Raise UserError for a number out of range."""
        from_zero = ("readers", "eval_every", "checkpoint_every", "process_id")
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, bool):
                most = MOST_READERS if name == "readers" else None
                check_range(flag(name), value, least=0 if name in from_zero else 1, most=most)


class Due(NamedTuple):
    """The things that the loop does after a dispatch."""

    log: bool
    evaluation: bool
    new_epoch: bool  # the experiment's `before_epoch`
    checkpoint: bool
    stop: bool  # before the end, because a signal asked for it


@dataclass(frozen=True)
class Cadence:
    """The steps after which the loop logs, evaluates and saves: multiples of these, and the last.

    All but `epoch` are whole dispatches.
    """

    log: int
    evaluation: int
    checkpoint: int
    epoch: int  # exact, since `before_epoch` is part of the experiment; 0 without it
    dispatch: int
    stop: int  # where this call ends
    last: int  # where the experiment ends

    @classmethod
    def of(cls, experiment: Experiment, options: Options) -> "Cadence":
        def whole_dispatches(steps: int) -> int:
            return -(-steps // options.steps_per_dispatch) * options.steps_per_dispatch

        examples = experiment.dataset.num_examples(experiment.train_split)
        epoch = epochs_to_steps(1, examples, experiment.batch_size)
        return cls(
            log=whole_dispatches(options.log_every),
            evaluation=whole_dispatches(options.eval_every or epoch),
            checkpoint=whole_dispatches(options.checkpoint_every or epoch),
            epoch=epoch if experiment.before_epoch else 0,
            dispatch=options.steps_per_dispatch,
            stop=min(experiment.steps, whole_dispatches(options.stop_at or experiment.steps)),
            last=experiment.steps,
        )

    def blocks(self, first_step: int) -> Iterator[feeds.Block]:
        """The steps of each dispatch, from `first_step` to `stop`."""
        return split_into_blocks(first_step, self.stop, self.dispatch, self.epoch)

    def due(self, step: int, stop_asked: bool = False) -> Due:
        """Say what is due after `step`, the end of a dispatch."""
        stops = stop_asked and step < self.stop
        return Due(
            log=self._is_time(step, self.log),
            evaluation=self._is_time(step, self.evaluation),
            new_epoch=self.epoch > 0 and step % self.epoch == 0 and step < self.last,
            checkpoint=self._is_time(step, self.checkpoint) or step == self.stop or stops,
            stop=stops,
        )

    def _is_time(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.last
