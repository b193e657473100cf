"""The parent process, which asks each worker in turn for one short sample, round after round.

A slow minute of a shared machine thus hits all workers alike, and samples are compared within a
round.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from cnn_jax.errors import UserError

ROOT = Path(__file__).parents[3]
OURS = "jax"  # the name of this package among the contestants; the others are the peer's variants
CACHE = (
    "JAX_COMPILATION_CACHE_DIR"  # would make compiling take no time, so workers do not inherit it
)
PEERS_CACHE = "TORCHINDUCTOR_CACHE_DIR"
DEVICES = "--xla_force_host_platform_device_count"


class WorkerLike(Protocol):
    """Anything that answers requests: a `Worker`, or a stand-in for one in a test."""

    @property
    def about(self) -> Mapping[str, Any]: ...

    def ask(self, **request: Any) -> dict[str, Any]: ...


class WorkerFailed(RuntimeError):
    """A worker ended too early; the message is the last line that it printed."""


class Worker:
    """A process that runs `worker.serve`; what it prints is kept for the message if it fails."""

    def __init__(self, module: str, *arguments: str, devices: int = 1):
        """Start `python -m experiments.bench.speed.MODULE ARGUMENTS`.

        It returns at once, so that several workers build their benchmarks at the same time.

        Args:
            devices: simulated devices, for a worker that uses JAX.
        """
        environment = {name: value for name, value in os.environ.items() if name != CACHE}
        if devices > 1:
            flags = (environment.get("XLA_FLAGS", ""), f"{DEVICES}={devices}")
            environment["XLA_FLAGS"] = " ".join(flags).strip()
        self._about: Mapping[str, Any] | None = None
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._compiled = tempfile.TemporaryDirectory()
        environment[PEERS_CACHE] = self._compiled.name
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"experiments.bench.speed.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            encoding="utf-8",
            cwd=ROOT,
            env=environment,
        )

    @property
    def about(self) -> Mapping[str, Any]:
        """What the worker says about itself once all its benchmarks are built."""
        if self._about is None:
            self._about = self._answer()
        return self._about

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request (see `worker.serve`) and wait for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading the answer finds out why
        return self._answer()

    def close(self) -> None:
        """End the process and free its memory."""
        self._process.kill()
        self._process.communicate()
        self._said.close()
        self._compiled.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            last = [text.strip() for text in self._said if text.strip()][-1:]
            raise WorkerFailed(last[0] if last else f"exit code {self._process.returncode}")
        return json.loads(line)


def check(rounds: int, seconds: float, peer: str = "none") -> str:
    """Refuse what cannot be timed before anything is timed; return the platform, "cpu" or "gpu"."""
    if rounds < 2 or seconds <= 0:
        raise UserError("--rounds must be at least 2, and --seconds more than 0")
    # The workers share a GPU, so each allocates memory only as it needs it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if peer == "torch" and importlib.util.find_spec("torch") is None:
        raise UserError("PyTorch is not installed: pip install torch, or leave out --peer torch")
    if peer == "torch" and jax.device_count() > 1:
        raise UserError(
            f"PyTorch is timed on one device, JAX sees {jax.device_count()}: "
            "set CUDA_VISIBLE_DEVICES=0"
        )
    return "cpu" if jax.default_backend() == "cpu" else "gpu"


def say(text: str) -> None:
    """Print progress to standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def warm(worker: WorkerLike) -> dict[str, Any]:
    """Run each benchmark twice, beginning with training.

    Returns:
        "first_seconds" and "call_seconds" of the first benchmark, whose difference is the time
        spent compiling; the peak memory before it, "built_bytes", and after it, "peak_bytes".
    """
    names = list(worker.about["amounts"])
    answers = [worker.ask(warm=name) for name in names]
    first = answers[0]
    return {
        "first_seconds": first["first"],
        "call_seconds": first["call"],
        "built_bytes": worker.about["built_bytes"],
        "peak_bytes": first["peak_bytes"],
    }


def take_rounds(
    workers: Mapping[str, WorkerLike], rounds: int, seconds: float
) -> dict[tuple[str, str], list[float]]:
    """Seconds per example (or FLOP, or byte) for each (worker, benchmark), one sample per round.

    Within a round the samples of one benchmark follow each other, with the workers in a new random
    order, so that no worker always comes after the same other one.
    """
    draw = random.Random(0)
    names = list(dict.fromkeys(n for w in workers.values() for n in w.about["amounts"]))
    samples: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name in names:
            labels = [label for label in workers if name in workers[label].about["amounts"]]
            for label in draw.sample(labels, len(labels)):
                worker = workers[label]
                call_seconds = worker.ask(time=name, seconds=seconds)["seconds"]
                per_unit = call_seconds / worker.about["amounts"][name]
                samples.setdefault((label, name), []).append(per_unit)
    return samples


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = np.quantile(list(values), (0.25, 0.5, 0.75))
    return {"median": float(median), "low": float(low), "high": float(high)}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Quartiles of their seconds over ours, round by round: above 1 where we are faster."""
    return spread(b / a for a, b in zip(ours, theirs, strict=True))
