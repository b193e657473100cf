"""How much time `--seeds 16` saves: LeNet-5 on the embedded digits, together and one at a time.

    python -m experiments.bench.many_seeds --out many_seeds.json

16 seeds of 100 epochs on two CPU cores: 370 s together, 646 s one at a time, 1.7 times as long.
Test accuracy is 99.36 % ± 0.26 either way, the same for every seed (at most 0 of 360 images apart).

Each training is a process of its own, as its user would start it, timed from start to end including
compilation; no process finds the compiled programs of another. Half of the separate trainings run
before the joint one and half after, so that a machine that slows down slows both.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cnn_jax.errors import UserError
from cnn_jax.seeds import unstacked
from experiments.tools.report import program

ROOT = Path(__file__).parents[2]
KEEP = "JAX_ENABLE_COMPILATION_CACHE"


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: int = 16  # from 0
    separate: int = 16  # how many of them are also trained alone
    epochs: float = 100
    out: Path | None = None  # a JSON file to write the record to


def run(config: Config) -> dict[str, Any]:
    """Train the seeds together and apart, and compare seconds and accuracies."""
    if not 1 <= config.separate <= config.seeds or config.seeds < 2:
        raise UserError("--seeds must be at least 2, and --separate from 1 to --seeds")
    half = config.separate // 2
    alone = [train(config, "--seed", str(seed)) for seed in range(half)]
    seconds, result = train(config, "--seeds", str(config.seeds))
    alone += [train(config, "--seed", str(seed)) for seed in range(half, config.separate)]
    members = [member["accuracy"] for member in unstacked(result)]
    seconds_alone, apart = [s for s, _ in alone], [result["accuracy"] for _, result in alone]
    return {
        "trained_separately": len(alone),
        "seconds_together": seconds,
        "seconds_separate": seconds_alone,
        # Only if all seeds were trained both ways; otherwise compare the seconds per run.
        "ratio": sum(seconds_alone) / seconds if len(alone) == config.seeds else None,
        "seconds_per_run": {
            "together": seconds / config.seeds,
            "separate": statistics.mean(seconds_alone),
        },
        "accuracy": {"together": members, "separate": apart},
        "means": {"together": _spread(members), "separate": _spread(apart)},
        "largest_difference": max(abs(a - b) for a, b in zip(members, apart, strict=False)),
    }


def train(config: Config, *flags: str) -> tuple[float, dict[str, Any]]:
    """Run the script with these flags; return its wall seconds and the content of result.json."""
    environment = os.environ | {KEEP: "false"}
    with tempfile.TemporaryDirectory() as folder:
        flags = (*flags, "--epochs", str(config.epochs), "--workdir", f"{folder}/run")
        command = [sys.executable, "-m", "experiments.lenet5_digits", *flags]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - started
        return seconds, json.loads(
            (Path(folder) / "run" / "result.json").read_text(encoding="utf-8")
        )


def _spread(values: list[float]) -> dict[str, float | None]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "std": std}


if __name__ == "__main__":
    program(Config, run)
