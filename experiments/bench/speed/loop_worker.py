"""The worker that times the whole training loop against its bare compiled steps, in one process."""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import jax

from cnn_jax.devices import feed as feeds
from cnn_jax.devices import parallel
from cnn_jax.devices.dispatch import split_into_blocks
from cnn_jax.devices.process import keep_freed_memory
from cnn_jax.experiment import Experiment
from cnn_jax.options import Options
from cnn_jax.runs.journal import read_lines
from cnn_jax.train import train
from experiments import alexnet2014_imagenette, lenet5_mnist
from experiments.bench.speed.jax_worker import device_peak, training
from experiments.bench.speed.worker import Benchmark, serve


@dataclasses.dataclass(frozen=True)
class Loop:
    """A recipe with its own augmentation, and the options of its loop."""

    recipe: str
    feed: feeds.Kind
    dispatch: int  # steps
    log_every: int  # steps
    stretch: int  # steps in a sample
    small: bool  # the AlexNet of the README's table: a quarter as wide, on 96 pixels


def build(loop: Loop, data_dir: Path | None) -> Experiment:
    if loop.recipe == "lenet5_mnist":
        return lenet5_mnist.build(lenet5_mnist.Config(), data_dir)
    change = {"width": 0.25, "image_size": 96, "batch_size": 32} if loop.small else {}
    config = alexnet2014_imagenette.Config(**change)
    return alexnet2014_imagenette.build(config, data_dir)


def bare_steps(own: Experiment, loop: Loop, feed: feeds.Feed) -> Benchmark:
    """As many steps as the loop is timed over, dispatched again and again on one block."""
    steps = training(own, feed, loop.dispatch)
    dispatches = loop.stretch // loop.dispatch
    return Benchmark(lambda calls: steps.run(calls * dispatches), dispatches * steps.amount)


def whole_loop(own: Experiment, loop: Loop, data_dir: Path | None) -> Benchmark:
    """`train` with feeding, steps, metrics and log lines, timed from one log line to a later one.

    Compilation comes before the first line, the final evaluation and checkpoint after the last.
    """
    steps = loop.log_every + loop.stretch
    short = dataclasses.replace(own, steps=steps, eval_split=f"{own.eval_split}[:100]")
    options = Options(
        feed=loop.feed,
        steps_per_dispatch=loop.dispatch,
        log_every=loop.log_every,
        eval_every=steps,
        checkpoint_every=steps,
        data_dir=data_dir,
    )

    def run(calls: int) -> float:
        seconds = 0.0
        for _ in range(calls):
            with tempfile.TemporaryDirectory() as folder:
                train(short, Path(folder), options)
                lines = read_lines(Path(folder) / "timing.jsonl")
            seconds += lines[-1]["seconds"] - lines[0]["seconds"]
        return seconds

    return Benchmark(
        run, loop.stretch * own.batch_size, warm_up=False
    )  # the steps before its first line are one


def pipeline(own: Experiment, loop: Loop, feed: feeds.Feed) -> Benchmark:
    """Bring examples from the disk, or their indices, to the device, and do nothing with them."""

    def run(calls: int) -> None:
        for _ in range(calls):
            blocks = list(split_into_blocks(0, loop.stretch, loop.dispatch))
            items = feeds.training_blocks(feed, own.seed, own.batch_size, blocks)
            for block in parallel.ahead(items, parallel.share_out):
                jax.block_until_ready(block)

    return Benchmark(run, loop.stretch * own.batch_size)


def main(loop: Loop, data_dir: Path | None) -> None:
    keep_freed_memory()
    # Every call of `train` compiles; all but the first read the programs from this cache.
    cache = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", cache.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    own = build(loop, data_dir)
    feed = feeds.open_feed(own.dataset, own.train_split, loop.feed, readers=0)
    benchmarks = {
        "bare": bare_steps(own, loop, feed),
        "loop": whole_loop(own, loop, data_dir),
        "pipeline": pipeline(own, loop, feed),
    }
    serve(benchmarks, {}, device_peak)


if __name__ == "__main__":
    main(Loop(**json.loads(sys.argv[1])), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
