"""Time a training step as the batch, the image, the width and the number of devices grow.

    python -m experiments.bench.speed.growth --figure growth.png --out speed-growth-cpu.json

The results are in docs/speed.md.

The points of a sweep are timed in turn, round after round, each in a process of its own. For many
devices there is an estimate on paper: the measured step of the AlexNets on one device, plus the
time to share their gradients if none of it overlapped with the computation.
"""

import dataclasses
import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax

from cnn_jax.errors import UserError
from cnn_jax.figures import save
from cnn_jax.figures.speed import growth_curves
from cnn_jax.models import count_parameters
from cnn_jax.step import init_state
from experiments.bench.speed import jax_networks
from experiments.bench.speed.driver import Worker, check, say, spread, take_rounds, warm
from experiments.bench.speed.task import Task
from experiments.tools.report import program

LABELS = {
    "batch_size": "batch / images",
    "image_size": "side of the image / pixels",
    "width": "share of the width",
    "devices": "simulated devices",
}


@dataclasses.dataclass(frozen=True)
class Config:
    rounds: int = 5
    seconds: float = 0.5  # of a sample, of one call at least
    link: float = 450.0  # GB/s from a device to its neighbour: NVLink 4, one direction
    machine_link: float = 50.0  # GB/s per device between machines: 400 Gbit/s each
    figure: Path | None = None  # a picture to write, .png, .svg or .pdf
    out: Path | None = None  # a JSON file to write the record to


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A task with several values for one of its quantities."""

    network: str
    grows: str  # a field of `Task`, or "devices"
    values: tuple[float, ...]
    changes: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # to the network's default task


def sweeps() -> list[Sweep]:
    """The sweeps: small enough for two cores on a CPU, networks of full size on a GPU."""
    if jax.default_backend() == "cpu":
        small = {"width": 0.25, "image_size": 96}
        return [
            Sweep("lenet5", "batch_size", (8, 32, 128, 512)),
            Sweep("alexnet2014", "batch_size", (8, 16, 32, 64), small),
            Sweep("alexnet2014", "image_size", (64, 96, 128, 192), small),
            Sweep("alexnet2014", "width", (0.125, 0.25, 0.5, 1), small),
            Sweep("lenet5", "devices", (1, 2, 4)),
            Sweep("alexnet2014", "devices", (1, 2, 4), small),
        ]
    return [
        Sweep("lenet5", "batch_size", (32, 128, 512, 2048)),
        Sweep("alexnet2014", "batch_size", (32, 128, 512, 2048)),
        Sweep("alexnet2014", "image_size", (64, 128, 224, 320)),
        Sweep("alexnet2014", "width", (0.25, 0.5, 1, 2)),
    ]


def run(config: Config) -> dict[str, Any]:
    """Time every sweep, estimate, and draw."""
    if check(config.rounds, config.seconds) == "gpu" and jax.device_count() > 1:
        raise UserError(
            f"JAX sees {jax.device_count()} GPUs, one is timed: set CUDA_VISIBLE_DEVICES=0"
        )
    if min(config.link, config.machine_link) <= 0:
        raise UserError("--link and --machine-link must be more than 0")
    if config.figure is not None and config.figure.exists():
        raise UserError(f"{config.figure} exists already: choose another, or remove it")
    rows = []
    for sweep in sweeps():
        say(f"{sweep.network}: {sweep.grows} {', '.join(f'{x:g}' for x in sweep.values)}")
        points = {f"{x:g}": _point(sweep, x) for x in sweep.values}
        seconds = time_points(points, config)
        rows.append(dataclasses.asdict(sweep) | {"seconds": [seconds[label] for label in points]})
    estimated = []
    for name in ("alexnet2014", "alexnet2012"):
        say(f"{name}: a step on one device")
        task = dataclasses.replace(jax_networks.default_task(name), training_only=True)
        median = time_points({name: (task, 1)}, config)[name]["median"]
        state = jax.eval_shape(lambda: init_state(jax_networks.experiment(task)))  # noqa: B023
        size = 4 * count_parameters(state.params)  # gradients are float32, as parameters are
        about = {"network": name, "batch_per_device": task.batch_size, "gradient_bytes": size}
        estimated += [about | row for row in estimate(median * task.batch_size, size, config)]
    if config.figure is not None:
        config.figure.parent.mkdir(parents=True, exist_ok=True)
        save(draw(rows), config.figure)
    return {"sweeps": rows, "estimate": estimated}


def time_points(points: dict[str, tuple[Task, int]], config: Config) -> dict[str, dict[str, float]]:
    """Seconds per image for each (task, number of devices), timed in turn."""
    with ExitStack() as stack:
        workers = {}
        for label, (task, devices) in points.items():
            worker = Worker("jax_worker", json.dumps(dataclasses.asdict(task)), devices=devices)
            workers[label] = stack.enter_context(closing(worker))
            warm(workers[label])
        samples = take_rounds(workers, config.rounds, config.seconds)
    return {label: spread(values) for (label, _), values in samples.items()}


def estimate(step_seconds: float, gradient_bytes: int, config: Config) -> list[dict[str, Any]]:
    """Estimate weak scaling: every device has the batch that was measured on one.

    A ring sends 2 (n - 1) / n times the gradients over each link, and the slowest link decides. The
    estimate assumes that nothing of this overlaps with the computation and that the input keeps up.
    """
    rows = []
    for devices, n, link in (
        ("8 in one machine", 8, config.link),
        ("2 machines of 8", 16, config.machine_link),
        ("4 machines of 8", 32, config.machine_link),
    ):
        reduce_seconds = 2 * (n - 1) / n * gradient_bytes / (link * 1e9)
        together = step_seconds + reduce_seconds
        rows.append(
            {
                "devices": devices,
                "link_gigabytes_per_second": link,
                "step_seconds": step_seconds,
                "reduce_seconds": reduce_seconds,
                "efficiency": step_seconds / together,
                "times_one_device": n * step_seconds / together,
            }
        )
    return rows


def draw(rows: list[dict[str, Any]]) -> Any:
    """Draw the sweeps on one figure, with a panel for each quantity."""
    panels: dict[str, Any] = {}
    for row in rows:
        rates = [[1 / s[end] for end in ("high", "median", "low")] for s in row["seconds"]]
        panels.setdefault(LABELS[row["grows"]], {})[row["network"]] = (row["values"], rates)
    return growth_curves(panels)


def _point(sweep: Sweep, value: float) -> tuple[Task, int]:
    base = jax_networks.default_task(sweep.network)
    changes = sweep.changes | {"training_only": True}
    if sweep.grows == "devices":
        return dataclasses.replace(base, **changes), int(value)
    grown = float(value) if sweep.grows == "width" else int(value)
    return dataclasses.replace(base, **changes | {sweep.grows: grown}), 1


if __name__ == "__main__":
    program(Config, run)
