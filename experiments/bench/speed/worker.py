"""The side of a worker: benchmarks are timed one sample at a time, when the parent asks.

Each framework has a process of its own, since their thread pools and allocators would disturb each
other. Requests and answers are lines of JSON through standard input and output.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Benchmark(NamedTuple):
    """Something to be timed.

    `run(calls)` does it so many times and waits for the end; what it returns, if anything, are the
    seconds that count, of those that it took.
    """

    run: Callable[[int], float | None]
    amount: float  # of work in one call: examples, FLOPs or bytes
    warm_up: bool = True  # a call that does not count before each sample: caches are cold


def serve(
    benchmarks: Mapping[str, Benchmark],
    about: Mapping[str, Any],
    device_peak: Callable[[], int | None] = lambda: None,
) -> None:
    """Say `about`, then answer until standard input closes.

        {"warm": name}                 -> {"first": seconds, "call": seconds, "peak_bytes": ...}
        {"time": name, "seconds": s}   -> {"seconds": per call}, the mean over about s seconds

    Args:
        device_peak: bytes of a device's memory at most in use so far; None where it has none of
            its own, and the process's memory counts.
    """
    # Libraries print where they like: the answers have the only way to the parent.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(content: Mapping[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    latest: dict[str, float] = {}  # seconds of a call

    def timed(name: str, calls: int) -> float:
        started = time.perf_counter()
        own = benchmarks[name].run(calls)
        latest[name] = (time.perf_counter() - started if own is None else own) / calls
        return latest[name]

    amounts = {name: each.amount for name, each in benchmarks.items()}
    say({"amounts": amounts, "built_bytes": device_peak() or peak_bytes(), **about})
    for line in sys.stdin:
        request = json.loads(line)
        if (name := request.get("warm")) is not None:
            first, call = timed(name, 1), timed(name, 1)
            peak = device_peak()
            say({"first": first, "call": call, "peak_bytes": peak or peak_bytes()})
        else:
            name = request["time"]
            if benchmarks[name].warm_up:
                timed(name, 1)
            say({"seconds": timed(name, max(1, round(request["seconds"] / latest[name])))})


def peak_bytes() -> int | None:
    """The most memory that this process has held; None where the system does not say.

    Not `getrusage`, which begins with what the parent held.
    """
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:
        return None
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
