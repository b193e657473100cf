"""Measure what checkpoints cost: LeNet-5 on MNIST, one an epoch and one every 500 steps.

    python -m experiments.bench.checkpointing --out checkpointing.json

Segments with one checkpoint and segments without alternate in one process. The results are in
docs/speed.md. Memory is what the process holds at the end of a segment.
"""

import dataclasses
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from cnn_jax.devices import feed, parallel
from cnn_jax.devices.dispatch import split_into_blocks
from cnn_jax.devices.process import keep_freed_memory
from cnn_jax.experiment import Experiment
from cnn_jax.runs.checkpoint import Checkpoints
from cnn_jax.step import init_state, make_advance
from experiments import lenet5_mnist
from experiments.tools.report import program

DISPATCH = 10  # steps


@dataclasses.dataclass(frozen=True)
class Config:
    every: tuple[int, ...] = (470, 500)  # steps between checkpoints: an epoch in whole dispatches
    segments: int = 40  # of so many steps each, for each of `every`
    data_dir: Path | None = None
    out: Path | None = None  # a JSON file to write the record to


def run(config: Config) -> list[dict[str, Any]]:
    """Measure each cadence of the config."""
    keep_freed_memory()  # as every training does
    experiment = lenet5_mnist.build(lenet5_mnist.Config(), config.data_dir)
    data = feed.open_feed(experiment.dataset, experiment.train_split, "resident", readers=0)
    advance = make_advance(experiment)
    return [_measure(experiment, data, advance, every, config.segments) for every in config.every]


def _measure(
    experiment: Experiment, data: feed.Feed, advance: Any, every: int, segments: int
) -> dict[str, Any]:
    """Train in segments of `every` steps, every second one with a checkpoint, and time them."""
    blocks = list(split_into_blocks(0, every * segments, DISPATCH))
    batches = feed.training_blocks(data, experiment.seed, experiment.batch_size, blocks)
    state = parallel.replicate(jax.jit(lambda: init_state(experiment))())
    seconds: dict[bool, list[float]] = {False: [], True: []}
    memory, done = [], None
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        started = time.perf_counter()
        for (_, step), block in zip(
            blocks, parallel.ahead(batches, parallel.share_out), strict=True
        ):
            saves = (step - 1) // every % 2 == 1
            dispatched = advance(state, data.resident, block)
            if done is not None:
                done.block_until_ready()
            state, done = dispatched
            if saves and step % every == DISPATCH:  # so that it is written when the segment ends
                checkpoints.save(step, state)
            if step % every == 0:
                done.block_until_ready()
                checkpoints.wait()
                now = time.perf_counter()
                seconds[saves].append(now - started)
                started = now
                memory.append(_resident_bytes())
    without, with_ = (seconds[key][1:] for key in (False, True))  # the first compiles
    ratios = [b / a - 1 for a, b in zip(without, with_, strict=True)]
    third = len(memory) // 3
    return {
        "every": every,
        "images_per_second": every * experiment.batch_size / statistics.median(without),
        "cost": statistics.median(ratios),
        "cost_quartiles": statistics.quantiles(ratios)[::2],
        "memory_growth_bytes": memory[-1] - memory[third],
        "memory_bytes": memory[-1],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    program(Config, lambda config: {"runs": run(config)})
