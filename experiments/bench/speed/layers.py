"""Time every layer of a network by itself, forward and backward, beside PyTorch's.

    python -m experiments.bench.speed.layers --model lenet5 --peer torch --out speed-layers-cpu.json

`python -m experiments.bench.speed` times whole steps; the results of both are in docs/speed.md.
"""

import dataclasses
import json
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from experiments.bench.speed import jax_networks
from experiments.bench.speed.driver import (
    OURS,
    Worker,
    check,
    ratios,
    say,
    spread,
    take_rounds,
    warm,
)
from experiments.bench.speed.table import layers
from experiments.bench.speed.task import Task
from experiments.tools.report import program

VARIANTS = {"cpu": ("eager", "channels_last"), "gpu": ("channels_last",)}  # of `torch_worker`


@dataclasses.dataclass(frozen=True)
class Config(jax_networks.Selection):
    seconds: float = 0.1  # of a sample, which is at least one call
    out: Path | None = None  # a JSON file to write the record to


def run(config: Config) -> dict[str, Any]:
    """Time the layers of each network, and print the table."""
    platform = check(config.rounds, config.seconds, config.peer)
    variants = VARIANTS[platform] if config.peer == "torch" else ()
    runs = []
    for task in config.tasks():
        say(f"{task.network}: its layers")
        runs.append(time_layers(task, variants, config))
    result = {"runs": runs}
    print(layers(result), file=sys.stderr)
    return result


def time_layers(task: Task, variants: tuple[str, ...], config: Config) -> dict[str, Any]:
    """Seconds per example for every layer; the peer's layers have the same names."""
    described = json.dumps(dataclasses.asdict(task))
    with ExitStack() as stack:
        workers = {OURS: Worker("jax_layer_worker", described)}
        workers |= {label: Worker("torch_layer_worker", described, label) for label in variants}
        for worker in workers.values():
            stack.enter_context(closing(worker))
        for worker in workers.values():
            warm(worker)
        samples = take_rounds(workers, config.rounds, config.seconds)
        names = list(workers[OURS].about["amounts"])
        versions = {label: worker.about["version"] for label, worker in workers.items()}
    rows = []
    for name in names:
        seconds = {label: spread(samples[label, name]) for label in workers}
        row: dict[str, Any] = {"layer": name, "seconds": seconds}
        if variants:
            best = min(variants, key=lambda label: seconds[label]["median"])
            row |= {"best_peer": best, "ratio": ratios(samples[OURS, name], samples[best, name])}
        rows.append(row)
    return {**dataclasses.asdict(task), "versions": versions, "layers": rows}


if __name__ == "__main__":
    program(Config, run)
