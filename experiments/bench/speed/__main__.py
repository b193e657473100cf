"""Time training here beside PyTorch doing the same work, and beside the limits of the machine.

    python -m experiments.bench.speed                          # JAX alone, no data set needed
    python -m experiments.bench.speed --peer torch --data-dir DIR --out speed-cpu.json
    python -m experiments.bench.speed.table                    # docs/speed.md from the records

docs/speed.md says what is timed and compared. Each framework, and each way of writing the peer, is
a process of its own. In every round each of them gives one sample of each benchmark, in a new
random order. Medians, quartiles, and the ratio (PyTorch's time over ours) are over the rounds.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import jax

from cnn_jax.check.preflight import preflight
from cnn_jax.errors import UserError
from cnn_jax.options import Options
from experiments.bench.speed import jax_networks
from experiments.bench.speed.driver import (
    OURS,
    Worker,
    WorkerFailed,
    check,
    ratios,
    say,
    spread,
    take_rounds,
    warm,
)
from experiments.bench.speed.loop_worker import Loop, build
from experiments.bench.speed.table import tables
from experiments.bench.speed.task import Task
from experiments.tools.report import program

VARIANTS = {
    "cpu": ("eager", "fused", "channels_last", "compiled"),
    "gpu": ("channels_last", "graphs"),
}
DETERMINISTIC = "deterministic"  # this package with `--deterministic`: training only, on GPUs


@dataclasses.dataclass(frozen=True)
class Config(jax_networks.Selection):
    loops: bool = True  # also time the whole training loop, if its data are prepared
    data_dir: Path | None = None
    out: Path | None = None  # a JSON file to write the record to


def run(config: Config) -> dict[str, Any]:
    """Time each network, then the loops, and print the tables."""
    check(config.rounds, config.seconds, config.peer)
    runs = [time_network(task, config) for task in config.tasks()]
    timed, left_out = time_loops(config) if config.loops else ([], {})
    result = {"runs": runs, "loops": timed, "loops_left_out": left_out}
    print(tables(result), file=sys.stderr)
    return result


def time_network(task: Task, config: Config) -> dict[str, Any]:
    """Time all contestants on one network; a variant of the peer that fails is named, not timed."""
    say(f"{task.network}: building")
    described = json.dumps(dataclasses.asdict(task))
    about = preflight(jax_networks.experiment(task), Options(), Path("."))["model"]
    backend = jax.default_backend()
    variants = VARIANTS["cpu" if backend == "cpu" else "gpu"] if config.peer == "torch" else ()
    starts, failed = {}, {}
    with ExitStack() as stack:
        started = {OURS: Worker("jax_worker", described)}
        if backend == "gpu":
            training = dataclasses.asdict(dataclasses.replace(task, training_only=True))
            started[DETERMINISTIC] = Worker("jax_worker", json.dumps(training), DETERMINISTIC)
        started |= {label: Worker("torch_worker", described, label) for label in variants}
        for worker in started.values():
            stack.enter_context(closing(worker))
        for worker in started.values():  # compiling is timed, so all build before one compiles
            with suppress(WorkerFailed):  # reported below
                _ = worker.about
        for label, worker in started.items():
            try:
                starts[label] = warm(worker)
                seconds = starts[label]["first_seconds"]
                say(f"{task.network}: {label}, first step after {seconds:.1f} s")
            except WorkerFailed as failure:
                if label in (OURS, DETERMINISTIC):
                    raise
                failed[label] = str(failure)
                say(f"{task.network}: {label} is left out: {failure}")
        workers = {label: started[label] for label in starts}
        platforms = {worker.about["platform"] for worker in workers.values()} - {backend}
        if platforms:
            raise UserError(
                f"JAX computes on {backend}, PyTorch on {platforms.pop()}: "
                "install both for the same device"
            )
        say(f"{task.network}: {config.rounds} rounds of {', '.join(workers)}")
        samples = take_rounds(workers, config.rounds, config.seconds)
        versions = {label: worker.about["version"] for label, worker in workers.items()}
    counts = {k: about[k] for k in ("parameters", "flops_forward", "flops_training")}
    return {
        **dataclasses.asdict(task),
        **counts,
        "versions": versions,
        "failed": failed,
        **summarise(samples, starts),
    }


def summarise(
    samples: Mapping[tuple[str, str], list[float]], starts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Summarise samples for a record: seconds per example of every contestant, and the ratios.

    The peer is represented by the variant with the best median, chosen for training and for the
    forward pass separately. The ratio "deterministic" is the share of our speed that is left with
    deterministic kernels.
    """
    contestants = {
        label: {
            **start,
            **{
                work: spread(samples[label, work]) | {"rounds": samples[label, work]}
                for work in ("train", "forward")
                if (label, work) in samples
            },
        }
        for label, start in starts.items()
    }
    best, ratio = {}, {}
    peers = [label for label in starts if label not in (OURS, DETERMINISTIC)]
    for work in ("train", "forward") if peers else ():
        best[work] = min(peers, key=lambda label: contestants[label][work]["median"])
        ratio[work] = ratios(samples[OURS, work], samples[best[work], work])
    if DETERMINISTIC in starts:
        ratio[DETERMINISTIC] = ratios(samples[DETERMINISTIC, "train"], samples[OURS, "train"])
    limits = {
        f"{limit}_per_second": max(
            1 / spread(values)["median"] for (_, name), values in samples.items() if name == limit
        )
        for limit in ("gemm", "copy")
    }
    return {"contestants": contestants, "best_peer": best, "ratio": ratio, "limits": limits}


def loops() -> dict[str, Loop]:
    """The loops to time, by the recipes of the scripts; on a CPU the AlexNet of README's table."""
    if jax.default_backend() == "cpu":
        alexnet = Loop("alexnet2014_imagenette", "resident", 1, 20, 40, small=True)
    else:
        alexnet = Loop("alexnet2014_imagenette", "resident", 10, 100, 200, small=False)
    return {
        "LeNet-5, MNIST, resident": Loop("lenet5_mnist", "resident", 10, 100, 200, small=False),
        "AlexNet, Imagenette, resident": alexnet,
        "AlexNet, Imagenette, streamed": dataclasses.replace(alexnet, feed="stream"),
    }


def time_loops(config: Config) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Time each loop against its bare steps, round by round.

    Returns:
        the rows of the loops that were timed, and the reasons why others were not (missing data).
    """
    rows, left_out = [], {}
    data_dir = [] if config.data_dir is None else [str(config.data_dir)]
    for name, loop in loops().items():
        if loop.recipe.partition("_")[0] not in config.model:
            continue
        try:
            experiment = build(loop, config.data_dir)
        except UserError as error:
            left_out[name] = str(error)
            say(f"{name} is left out: {error}")
            continue
        say(f"{name}: the loop against its steps")
        described = json.dumps(dataclasses.asdict(loop))
        with closing(Worker("loop_worker", described, *data_dir)) as worker:
            warm(worker)
            samples = take_rounds({OURS: worker}, config.rounds, config.seconds)
        seconds = {name: samples[OURS, name] for name in ("bare", "loop", "pipeline")}
        rows.append(
            {"name": name, **dataclasses.asdict(loop), "batch_size": experiment.batch_size}
            | {name: spread(values) | {"rounds": values} for name, values in seconds.items()}
            | {"share": ratios(seconds["loop"], seconds["bare"])}
        )
    return rows, left_out


if __name__ == "__main__":
    program(Config, run)
