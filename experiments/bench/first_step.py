"""Run a script to the end of its first block of steps, then print how long it spent compiling.

    python -m experiments.bench.first_step experiments.lenet5_digits --workdir runs/first

The last line is the number of seconds in which JAX traced, lowered and compiled, or read compiled
programs. The process then ends at once, with exit code 0 and without a checkpoint.
`experiments.bench.feeding` times such processes from outside, as their user would.
"""

import os
import runpy
import sys
import time
from collections.abc import Iterable
from typing import Any

import jax

from cnn_jax import train

COMPILING = "/jax/core/compile/"  # the names of JAX's compilation events begin with this


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The time covered by spans (start, stop), which may overlap or nest."""
    total, until = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return total


def main(module: str) -> None:
    """Run the module as a program. JAX reports a trace within a trace twice, so spans overlap."""
    spans: list[tuple[float, float]] = []
    make_advance = train.make_advance

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(COMPILING):
            now = time.perf_counter()
            spans.append((now - duration_secs, now))

    def make_first(*arguments: Any) -> Any:
        advance = make_advance(*arguments)

        def first(*operands: Any) -> None:
            jax.block_until_ready(advance(*operands))
            print(f"\n{covered(spans)}", flush=True)
            os._exit(0)

        return first

    jax.monitoring.register_event_duration_secs_listener(note)
    train.make_advance = make_first
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    del sys.argv[0]  # the script then finds its own name and arguments in it
    main(sys.argv[0])
